//! Orders by their identifiers.

use async_trait::async_trait;

use super::connection::{Connection, Value};
use super::packing::{Packed, pack};
use super::rows::{Columns, list, order_columns};
use super::store::SqliteStore;
use crate::order::{Order, Timestamp};
use crate::principal::Owner;
use crate::store::{Acceptance, Change, Orders, StoreError, Submission};

const SELECT_MANY: &str = concat!(
    "SELECT ",
    order_columns!(),
    " FROM orders WHERE (owner, order_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))"
);

pub(super) const SELECT: &str = concat!("SELECT ", order_columns!(), " FROM orders WHERE owner = ?1 AND order_id = ?2");

// The items of all orders are one blob, out of which each order's are cut: inside the JSON they would be escaped a
// second time and parsed a second time.
const INSERT: &str =
    "INSERT INTO orders (seq, owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency,
                         status, created_at, changed_at, due_at)
     SELECT (SELECT number FROM last_event) + 1 + key, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
            iif(value ->> 7, substr(?4, value ->> 5, value ->> 6), CAST(substr(?4, value ->> 5, value ->> 6) AS TEXT)),
            value ->> 8, value ->> 9, 'Pending', ?2, ?2, ?3
     FROM json_each(?1) WHERE true
     ON CONFLICT (owner, order_id) DO NOTHING
     RETURNING owner, order_id, seq";

const CANCEL: &str = concat!(
    "UPDATE orders SET status = 'Cancelled', finished_at = ?3, changed_at = ?3, due_at = NULL
     WHERE owner = ?1 AND order_id = ?2 AND status = 'Pending' RETURNING ",
    order_columns!()
);

const RETRY: &str = concat!(
    "UPDATE orders
     SET status = 'Pending', finished_at = NULL, changed_at = ?3, due_at = ?3, attempts_forgiven = attempts
     WHERE owner = ?1 AND order_id = ?2 AND status = 'Failed' RETURNING ",
    order_columns!()
);

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    (SELECT_MANY, "orders_by_id (owner=? AND order_id=?)"),
    (SELECT, "orders_by_id (owner=? AND order_id=?)"),
    (CANCEL, "orders_by_id (owner=? AND order_id=?)"),
    (RETRY, "orders_by_id (owner=? AND order_id=?)"),
];

#[async_trait(?Send)]
impl<C: Connection> Orders for SqliteStore<C> {
    async fn accept(
        &self,
        submissions: &[Submission<'_>],
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<Vec<Acceptance>, StoreError> {
        let mut items = Vec::new();
        let mut rows = Vec::with_capacity(submissions.len());
        for Submission { owner, order } in submissions {
            let begin = items.len();
            let is_packed = match pack(&order.item_ids) {
                Packed::Text(json) => {
                    items.extend_from_slice(json.as_bytes());
                    0
                }
                Packed::Lz4(compressed) => {
                    items.extend(compressed);
                    1
                }
            };
            rows.push((
                owner.as_str(),
                order.order_id.as_str(),
                u8::from(order.order_id.is_integer()),
                order.user_id.as_str(),
                u8::from(order.user_id.is_integer()),
                // SQL counts from 1.
                begin + 1,
                items.len() - begin,
                is_packed,
                order.total_amount.minor(),
                order.currency.as_str(),
            ));
        }
        let parameters = vec![list(&rows), now.into(), due_at.into(), Value::Blob(items)];
        let mut created = Vec::with_capacity(submissions.len());
        for row in self.execute(INSERT, parameters).await? {
            let mut columns = Columns::of(row);
            created.push((columns.text()?, columns.text()?, columns.event_number()?));
        }
        Ok(Acceptance::of_all(submissions, created, now, async |known| self.recall(known).await).await)
    }

    async fn recall(&self, submissions: &[Submission<'_>]) -> Result<Vec<Option<Acceptance>>, StoreError> {
        let names: Vec<_> =
            submissions.iter().map(|known| (known.owner.as_str(), known.order.order_id.as_str())).collect();
        let rows = self.execute(SELECT_MANY, vec![list(&names)]).await?;
        let found = rows.into_iter().map(|row| Columns::of(row).order()).collect::<Result<Vec<Order>, _>>()?;
        Ok(Acceptance::of_found(submissions, &found))
    }

    async fn find(&self, owner: &Owner, order_id: &str) -> Result<Option<Order>, StoreError> {
        let rows = self.execute(SELECT, vec![owner.as_str().into(), order_id.into()]).await?;
        rows.into_iter().next().map(|row| Columns::of(row).order()).transpose()
    }

    async fn cancel(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change(CANCEL, owner, order_id, now).await
    }

    async fn retry(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change(RETRY, owner, order_id, now).await
    }
}

impl<C: Connection> SqliteStore<C> {
    /// Runs a statement that changes the order ?2 of ?1 at the moment ?3, and tells why it did not where it did not.
    async fn change(
        &self,
        statement: &str,
        owner: &Owner,
        order_id: &str,
        now: Timestamp,
    ) -> Result<Change, StoreError> {
        let parameters = vec![owner.as_str().into(), order_id.into(), now.into()];
        if let Some(row) = self.execute(statement, parameters).await?.pop() {
            return Ok(Change::Done(Box::new(Columns::of(row).order()?)));
        }
        Ok(match self.find(owner, order_id).await? {
            Some(order) => Change::NotAllowed(order.status),
            None => Change::NotFound,
        })
    }
}
