//! The counters, which triggers keep true to the rows.

use async_trait::async_trait;

use super::connection::{Connection, Row};
use super::rows::Columns;
use super::store::SqliteStore;
use crate::principal::NOBODY;
use crate::store::{Counters, Metrics, Scope, StoreError};

macro_rules! select {
    ($those:literal) => {
        concat!(
            "SELECT total, pending, processing, completed, failed, cancelled, processing_ms, completion_ms
     FROM order_counters WHERE ",
            $those
        )
    };
}

// The row of all orders.
const SELECT_ALL: &str = select!("owner = ''");
const SELECT_OWNER: &str = select!("owner = ?1");
// The row of all orders, and the row of those with an owner.
const SELECT_NOBODYS: &str = select!("owner IN ('', '*') ORDER BY owner");

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    (SELECT_ALL, "PRIMARY KEY (owner=?)"),
    (SELECT_OWNER, "PRIMARY KEY (owner=?)"),
    (SELECT_NOBODYS, "PRIMARY KEY (owner=?)"),
];

#[async_trait(?Send)]
impl<C: Connection> Counters for SqliteStore<C> {
    async fn metrics(&self, scope: Scope<'_>) -> Result<Metrics, StoreError> {
        let (statement, parameters) = match scope {
            Scope::All => (SELECT_ALL, vec![]),
            Scope::Owner(owner) if *owner == NOBODY => (SELECT_NOBODYS, vec![]),
            Scope::Owner(owner) => (SELECT_OWNER, vec![owner.as_str().into()]),
        };
        let mut rows = self.execute(statement, parameters).await?.into_iter().map(metrics);
        // No row is an owner without orders.
        let first = rows.next().transpose()?.unwrap_or_default();
        Ok(match rows.next().transpose()? {
            Some(others) => difference(&first, &others),
            None => first,
        })
    }
}

fn metrics(row: Row) -> Result<Metrics, StoreError> {
    let mut columns = Columns::of(row);
    Ok(Metrics {
        total: columns.count()?,
        by_status: [columns.count()?, columns.count()?, columns.count()?, columns.count()?, columns.count()?],
        processing_ms: columns.count()?,
        completion_ms: columns.count()?,
    })
}

/// What `all` counts and `some` of them do not.
fn difference(all: &Metrics, some: &Metrics) -> Metrics {
    Metrics {
        total: all.total.saturating_sub(some.total),
        by_status: std::array::from_fn(|status| all.by_status[status].saturating_sub(some.by_status[status])),
        processing_ms: all.processing_ms.saturating_sub(some.processing_ms),
        completion_ms: all.completion_ms.saturating_sub(some.completion_ms),
    }
}
