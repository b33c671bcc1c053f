//! Failed orders as a list.
//!
//! There is a statement for each shape of filter, so that each reads the part of an index that it asks for and
//! nothing else: all of an owner, those of a user, and those of a list of identifiers.

use async_trait::async_trait;

use super::connection::{Connection, Value};
use super::rows::{Columns, list, order_columns};
use super::store::SqliteStore;
use crate::dead_letters::DeadLetterFilter;
use crate::order::{Order, Timestamp};
use crate::page::{Cursor, Page};
use crate::principal::Owner;
use crate::store::{DeadLetters, StoreError, read_page};

/// Those behind (?2, ?3) and before ?4, up to ?5 of them, in their order. SQLite goes to the first that failed at ?2 or
/// later, and passes over those of that very millisecond that come before ?3.
macro_rules! in_range {
    () => {
        " AND status = 'Failed' AND (finished_at, seq) > (?2, ?3) AND finished_at < ?4 ORDER BY finished_at, seq LIMIT ?5"
    };
}

macro_rules! of_all {
    () => {
        concat!("FROM orders WHERE owner = ?1", in_range!())
    };
}

// Without statistics SQLite takes the other index, and looks at every failed order of the owner.
macro_rules! of_user {
    () => {
        concat!("FROM orders INDEXED BY orders_failed_by_user WHERE owner = ?1 AND user_id = ?6", in_range!())
    };
}

// The list has a thousand identifiers at most, and each is looked up; a user beside it is looked at then.
macro_rules! of_ids {
    () => {
        concat!(
            "FROM orders INDEXED BY orders_by_id WHERE owner = ?1 AND order_id IN (SELECT value FROM json_each(?7)) AND coalesce(?6, user_id) = +user_id",
            in_range!()
        )
    };
}

macro_rules! select {
    ($those:ident) => {
        concat!("SELECT ", order_columns!(), " ", $those!())
    };
}

macro_rules! retry {
    ($those:ident) => {
        concat!(
            "UPDATE orders
     SET status = 'Pending', finished_at = NULL, changed_at = ?8, due_at = ?8, attempts_forgiven = attempts
     WHERE seq IN (SELECT seq ",
            $those!(),
            ") RETURNING seq"
        )
    };
}

const SELECT_ALL: &str = select!(of_all);
const SELECT_OF_USER: &str = select!(of_user);
const SELECT_OF_IDS: &str = select!(of_ids);
const RETRY_ALL: &str = retry!(of_all);
const RETRY_OF_USER: &str = retry!(of_user);
const RETRY_OF_IDS: &str = retry!(of_ids);

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    (SELECT_ALL, "orders_failed (owner=? AND finished_at>? AND finished_at<?)"),
    (RETRY_ALL, "orders_failed (owner=? AND finished_at>? AND finished_at<?)"),
    (SELECT_OF_USER, "orders_failed_by_user (owner=? AND user_id=? AND finished_at>? AND finished_at<?)"),
    (RETRY_OF_USER, "orders_failed_by_user (owner=? AND user_id=? AND finished_at>? AND finished_at<?)"),
    (SELECT_OF_IDS, "orders_by_id (owner=? AND order_id=?)"),
    (RETRY_OF_IDS, "orders_by_id (owner=? AND order_id=?)"),
];

/// The statement out of (all, of a user, of identifiers) for this filter, and its parameters, the last one ?8.
fn choose<'a>(
    [all, of_user, of_ids]: [&'a str; 3],
    owner: &Owner,
    filter: &DeadLetterFilter,
    after: Option<Cursor>,
    limit: u32,
    now: Timestamp,
) -> (&'a str, Vec<Value>) {
    let ((key, tie), before) = filter.range(after);
    let statement = match (&filter.order_ids, &filter.user_id) {
        (Some(_), _) => of_ids,
        (None, Some(_)) => of_user,
        (None, None) => all,
    };
    let parameters = vec![
        owner.as_str().into(),
        Value::Integer(key),
        Value::Integer(tie),
        Value::Integer(before),
        limit.into(),
        filter.user_id.as_deref().map_or(Value::Null, Value::from),
        filter.order_ids.as_deref().map_or(Value::Null, list),
        now.into(),
    ];
    // As many as the statement names.
    let named = (1..=parameters.len()).rev().find(|number| statement.contains(&format!("?{number}"))).unwrap_or(0);
    (statement, parameters.into_iter().take(named).collect())
}

#[async_trait(?Send)]
impl<C: Connection> DeadLetters for SqliteStore<C> {
    async fn list(
        &self,
        owner: &Owner,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<Order>, StoreError> {
        let statements = [SELECT_ALL, SELECT_OF_USER, SELECT_OF_IDS];
        read_page(after, limit, async |after, limit| {
            let (statement, parameters) = choose(statements, owner, filter, after, limit, Timestamp::from_millis(0));
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
        let statements = [RETRY_ALL, RETRY_OF_USER, RETRY_OF_IDS];
        let (statement, parameters) = choose(statements, owner, filter, None, limit, now);
        Ok(self.execute(statement, parameters).await?.len())
    }
}
