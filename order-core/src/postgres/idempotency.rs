//! The answers to requests with an Idempotency-Key.

use std::collections::HashMap;

use async_trait::async_trait;

use super::connection::{Pool, Value};
use super::rows::{Columns, unexpected_row};
use super::store::PostgresStore;
use crate::order::Timestamp;
use crate::principal::{Owner, Principal};
use crate::store::{Idempotency, IdempotencyRecord, RequestKey, StoreError};

const SELECT: &str = "SELECT json_build_array(owner, caller, key, fingerprint, status, location, body)::text
     FROM idempotency_keys
     WHERE (owner, caller, key) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[])) AND created_at >= $4";

// Sorted, as all that is locked is.
const KEEP: &str = "INSERT INTO idempotency_keys (owner, caller, key, fingerprint, status, location, body, created_at)
     SELECT owner, caller, key, fingerprint, status, location, body, $8::int8
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int8[], $6::text[], $7::text[])
          AS given (owner, caller, key, fingerprint, status, location, body)
     ORDER BY owner, caller, key
     ON CONFLICT (owner, caller, key) DO UPDATE
     SET fingerprint = excluded.fingerprint, status = excluded.status, location = excluded.location,
         body = excluded.body, created_at = excluded.created_at
     WHERE idempotency_keys.created_at < $9
     RETURNING 1::int8";

#[async_trait(?Send)]
impl<P: Pool> Idempotency for PostgresStore<P> {
    async fn records(
        &self,
        keys: &[RequestKey],
        since: Timestamp,
    ) -> Result<Vec<Option<IdempotencyRecord>>, StoreError> {
        type Fields = (String, String, String, String, u16, Option<String>, String);
        let [owners, callers, names] = names(keys.iter());
        let mut found = HashMap::new();
        for row in self.execute(SELECT, vec![owners, callers, names, since.into()]).await? {
            let (owner, caller, key, fingerprint, status, location, body): Fields = Columns::of(row).fields()?;
            let principal = Principal { owner: Owner::from_stored(owner), caller };
            let record = IdempotencyRecord { fingerprint, status, location, body };
            if found.insert(RequestKey { principal, key }, record).is_some() {
                return Err(unexpected_row());
            }
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn keep(&self, records: &[(RequestKey, IdempotencyRecord)], now: Timestamp) -> Result<(), StoreError> {
        let [owners, callers, names] = names(records.iter().map(|(key, _)| key));
        let of = || records.iter().map(|(_, record)| record);
        let parameters = vec![
            owners,
            callers,
            names,
            of().map(|record| record.fingerprint.as_str()).collect(),
            of().map(|record| i64::from(record.status)).collect(),
            Value::Texts(of().map(|record| record.location.clone()).collect()),
            of().map(|record| record.body.as_str()).collect(),
            now.into(),
            now.minus_millis(crate::store::RECORDS_KEPT_MS).into(),
        ];
        let kept = self.execute(KEEP, parameters).await?.len();
        if kept == records.len() { Ok(()) } else { Err(StoreError::Conflict) }
    }
}

/// Owners, callers and keys.
fn names<'a>(keys: impl Iterator<Item = &'a RequestKey> + Clone) -> [Value; 3] {
    [
        keys.clone().map(|key| key.principal.owner.as_str()).collect(),
        keys.clone().map(|key| key.principal.caller.as_str()).collect(),
        keys.map(|key| key.key.as_str()).collect(),
    ]
}
