//! The answers to requests with an Idempotency-Key.

use std::collections::HashMap;

use async_trait::async_trait;

use super::connection::Connection;
use super::rows::{Columns, list, unexpected_row};
use super::store::SqliteStore;
use crate::order::Timestamp;
use crate::principal::Principal;
use crate::store::{Idempotency, IdempotencyRecord, RECORDS_KEPT_MS, RequestKey, StoreError};

const SELECT: &str = "SELECT owner, caller, key, fingerprint, status, location, body FROM idempotency_keys
     WHERE (owner, caller, key) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)) AND created_at >= ?2";

const KEEP: &str = "INSERT INTO idempotency_keys (owner, caller, key, fingerprint, status, location, body, created_at)
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, ?2
     FROM json_each(?1) WHERE true
     ON CONFLICT (owner, caller, key) DO UPDATE
     SET fingerprint = excluded.fingerprint, status = excluded.status, location = excluded.location,
         body = excluded.body, created_at = excluded.created_at
     WHERE idempotency_keys.created_at < ?3
     RETURNING 1";

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] = &[(SELECT, "PRIMARY KEY (owner=? AND caller=? AND key=?)")];

#[async_trait(?Send)]
impl<C: Connection> Idempotency for SqliteStore<C> {
    async fn records(
        &self,
        keys: &[RequestKey],
        since: Timestamp,
    ) -> Result<Vec<Option<IdempotencyRecord>>, StoreError> {
        let names: Vec<_> = keys.iter().map(name).collect();
        let mut found = HashMap::new();
        for row in self.execute(SELECT, vec![list(&names), since.into()]).await? {
            let mut columns = Columns::of(row);
            let principal = Principal { owner: columns.owner()?, caller: columns.text()? };
            let key = RequestKey { principal, key: columns.text()? };
            let record = IdempotencyRecord {
                fingerprint: columns.text()?,
                status: u16::try_from(columns.integer()?).map_err(|_| unexpected_row())?,
                location: columns.optional_text()?,
                body: columns.text()?,
            };
            found.insert(key, record);
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn keep(&self, records: &[(RequestKey, IdempotencyRecord)], now: Timestamp) -> Result<(), StoreError> {
        let rows: Vec<_> = records
            .iter()
            .map(|(key, record)| {
                let (owner, caller, key) = name(key);
                (owner, caller, key, &record.fingerprint, record.status, &record.location, &record.body)
            })
            .collect();
        let oldest = now.minus_millis(RECORDS_KEPT_MS);
        let kept = self.execute(KEEP, vec![list(&rows), now.into(), oldest.into()]).await?.len();
        if kept == records.len() { Ok(()) } else { Err(StoreError::Conflict) }
    }
}

fn name(key: &RequestKey) -> (&str, &str, &str) {
    (key.principal.owner.as_str(), &key.principal.caller, &key.key)
}
