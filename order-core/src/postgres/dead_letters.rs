//! Failed orders as a list.
//!
//! There is a statement for each shape of filter, so that each reads the part of an index that it asks for and nothing
//! else: all of an owner, those of a user, and those of a list of identifiers.

use async_trait::async_trait;

use super::changes::change;
use super::connection::{Pool, Value};
use super::rows::{Columns, order_columns};
use super::store::PostgresStore;
use crate::dead_letters::DeadLetterFilter;
use crate::order::{Order, Timestamp};
use crate::page::{Cursor, Page};
use crate::principal::Owner;
use crate::store::{DeadLetters, StoreError, read_page};

/// Those behind ($5, $6) and before $7, up to $8 of them, in their order.
macro_rules! in_range {
    () => {
        " AND o.status = 'Failed' AND (o.finished_at, o.number) > ($5::int8, $6::int8) AND o.finished_at < $7::int8
         ORDER BY o.finished_at, o.number LIMIT $8::int8"
    };
}

macro_rules! of_all {
    () => {
        concat!("orders o WHERE o.owner = $4::text", in_range!())
    };
}

macro_rules! of_user {
    () => {
        concat!("orders o WHERE o.owner = $4::text AND o.user_id = $9::text", in_range!())
    };
}

// The list has a thousand identifiers at most, and each is looked up; a user beside it is looked at then.
macro_rules! of_ids {
    () => {
        concat!(
            "orders o WHERE o.owner = $4::text AND o.order_id = ANY ($10::text[]) AND o.user_id = coalesce($9::text, o.user_id)",
            in_range!()
        )
    };
}

macro_rules! select {
    ($those:ident) => {
        concat!(
            "SELECT ",
            order_columns!(),
            // All statements have the same parameters.
            " FROM (SELECT o.* FROM ",
            $those!(),
            ") AS o WHERE $1::int8 + $2::int8 + $3::int8 IS NOT NULL ORDER BY finished_at, number"
        )
    };
}

macro_rules! retry {
    ($those:ident) => {
        change! {
            picked: concat!($those!(), " FOR UPDATE SKIP LOCKED"),
            more: "",
            set: "status = 'Pending', finished_at = NULL, changed_at = $3::int8, due_at = $3::int8, attempts_forgiven = o.attempts",
            select: "number",
        }
    };
}

const SELECT: [&str; 3] = [select!(of_all), select!(of_user), select!(of_ids)];
const RETRY: [&str; 3] = [retry!(of_all), retry!(of_user), retry!(of_ids)];

/// The statement out of (all, of a user, of identifiers) for this filter, and its parameters from $3 on.
fn choose<'a>(
    [all, of_user, of_ids]: [&'a str; 3],
    owner: &Owner,
    filter: &DeadLetterFilter,
    after: Option<Cursor>,
    limit: u32,
    now: Timestamp,
) -> (&'a str, Vec<Value>) {
    let ((key, tie), before) = filter.range(after);
    let mut parameters = vec![now.into(), owner.as_str().into(), key.into(), tie.into(), before.into(), limit.into()];
    let user_id = || filter.user_id.as_deref().map_or(Value::Null, Value::from);
    let statement = match (&filter.order_ids, &filter.user_id) {
        (Some(order_ids), _) => {
            parameters.extend([user_id(), order_ids.iter().map(String::as_str).collect()]);
            of_ids
        }
        (None, Some(_)) => {
            parameters.push(user_id());
            of_user
        }
        (None, None) => all,
    };
    (statement, parameters)
}

#[async_trait(?Send)]
impl<P: Pool> DeadLetters for PostgresStore<P> {
    async fn list(
        &self,
        owner: &Owner,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<Order>, StoreError> {
        read_page(after, limit, async |after, limit| {
            let (statement, parameters) = choose(SELECT, owner, filter, after, limit, Timestamp::from_millis(0));
            // It changes nothing: what stands for the first number and the slot is not looked at.
            let parameters = [Value::Integer(0), Value::Integer(0)].into_iter().chain(parameters).collect();
            let rows = self.execute(statement, parameters).await?;
            rows.into_iter().map(|row| Columns::of(row).order()).collect()
        })
        .await
    }

    async fn retry_all(
        &self,
        owner: &Owner,
        filter: &DeadLetterFilter,
        now: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let (statement, parameters) = choose(RETRY, owner, filter, None, limit, now);
        Ok(self.change(statement, 0, parameters).await?.len())
    }
}
