//! Orders by their identifiers.

use async_trait::async_trait;

use super::changes::{change, count, numbering, scopes};
use super::connection::{Pool, Value};
use super::rows::{Columns, order_columns};
use super::store::PostgresStore;
use crate::lifecycle::Action;
use crate::order::{EventNumber, Order, Timestamp};
use crate::principal::Owner;
use crate::store::{Acceptance, Change, Orders, StoreError, Submission};

const SELECT_MANY: &str = concat!(
    "SELECT ",
    order_columns!(),
    " FROM orders WHERE (owner, order_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
);

const SELECT: &str = concat!("SELECT ", order_columns!(), " FROM orders WHERE owner = $1 AND order_id = $2");

// Sorted, so that hosts that insert the same identifiers at once do not wait for each other in a circle.
const INSERT: &str = concat!(
    "WITH ",
    numbering!(),
    ", new AS (
        INSERT INTO orders (owner, order_id, number, last_number, order_id_int, user_id, user_id_int, item_ids,
                            total_amount, currency, status, created_at, changed_at, due_at)
        SELECT owner, order_id, first + 16 * (place - 1), first + 16 * (place - 1), order_id_int, user_id, user_id_int,
               item_ids, total_amount, currency, 'Pending', $3::int8, $3::int8, $4::int8
        FROM unnest($5::text[], $6::text[], $7::int8[], $8::text[], $9::int8[], $10::text[], $11::int8[], $12::text[])
             WITH ORDINALITY AS given (owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount,
                                       currency, place), numbering
        ORDER BY owner, order_id, place
        ON CONFLICT (owner, order_id) DO NOTHING
        RETURNING owner, order_id, number
    ), ",
    count!(concat!(
        "SELECT scope, $2::int8, count(*), count(*), 0, 0, 0, 0, 0, 0 FROM new, ",
        scopes!(),
        " WHERE true"
    )),
    " SELECT json_build_array(owner, order_id, number)::text FROM new"
);

const CANCEL: &str = change! {
    picked: "orders o WHERE o.owner = $4 AND o.order_id = $5 AND o.status = 'Pending' FOR UPDATE",
    more: "",
    set: "status = 'Cancelled', finished_at = $3::int8, changed_at = $3::int8, due_at = NULL",
    select: order_columns!(),
};

const RETRY: &str = change! {
    picked: "orders o WHERE o.owner = $4 AND o.order_id = $5 AND o.status = 'Failed' FOR UPDATE",
    more: "",
    set: "status = 'Pending', finished_at = NULL, changed_at = $3::int8, due_at = $3::int8, attempts_forgiven = o.attempts",
    select: order_columns!(),
};

#[async_trait(?Send)]
impl<P: Pool> Orders for PostgresStore<P> {
    async fn accept(
        &self,
        submissions: &[Submission<'_>],
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<Vec<Acceptance>, StoreError> {
        let orders = || submissions.iter().map(|submission| submission.order);
        let parameters = [
            now.into(),
            due_at.into(),
            submissions.iter().map(|submission| submission.owner.as_str()).collect(),
            orders().map(|order| order.order_id.as_str()).collect(),
            orders().map(|order| i64::from(order.order_id.is_integer())).collect(),
            orders().map(|order| order.user_id.as_str()).collect(),
            orders().map(|order| i64::from(order.user_id.is_integer())).collect(),
            orders().map(|order| order.item_ids.as_json()).collect(),
            orders().map(|order| order.total_amount.minor()).collect(),
            orders().map(|order| order.currency.as_str()).collect(),
        ];
        let mut created = Vec::with_capacity(submissions.len());
        for row in self.change(INSERT, submissions.len(), parameters).await? {
            created.push(Columns::of(row).fields::<(String, String, i64)>()?);
        }
        let created = created.into_iter().map(|(owner, order_id, number)| (owner, order_id, EventNumber(number)));
        Ok(Acceptance::of_all(submissions, created.collect(), now, async |known| self.recall(known).await).await)
    }

    async fn recall(&self, submissions: &[Submission<'_>]) -> Result<Vec<Option<Acceptance>>, StoreError> {
        let owners = submissions.iter().map(|known| known.owner.as_str()).collect();
        let order_ids = submissions.iter().map(|known| known.order.order_id.as_str()).collect();
        let rows = self.execute(SELECT_MANY, vec![owners, order_ids]).await?;
        let found = rows.into_iter().map(|row| Columns::of(row).order()).collect::<Result<Vec<Order>, _>>()?;
        Ok(Acceptance::of_found(submissions, &found))
    }

    async fn find(&self, owner: &Owner, order_id: &str) -> Result<Option<Order>, StoreError> {
        let rows = self.execute(SELECT, vec![owner.as_str().into(), order_id.into()]).await?;
        rows.into_iter().next().map(|row| Columns::of(row).order()).transpose()
    }

    async fn cancel(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change_one(CANCEL, Action::Cancel, owner, order_id, now).await
    }

    async fn retry(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change_one(RETRY, Action::Retry, owner, order_id, now).await
    }
}

impl<P: Pool> PostgresStore<P> {
    /// Runs a statement that does `action` to the order $5 of $4 at the moment $3, and tells why it did not where it did
    /// not.
    async fn change_one(
        &self,
        statement: &str,
        action: Action,
        owner: &Owner,
        order_id: &str,
        now: Timestamp,
    ) -> Result<Change, StoreError> {
        /// Each time it is tried again, others must have changed the order between two statements.
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let parameters: [Value; 3] = [now.into(), owner.as_str().into(), order_id.into()];
            if let Some(row) = self.change(statement, 0, parameters).await?.pop() {
                return Ok(Change::Done(Box::new(Columns::of(row).order()?)));
            }
            match self.find(owner, order_id).await? {
                None => return Ok(Change::NotFound),
                Some(order) if order.status.after(action).is_none() => return Ok(Change::NotAllowed(order.status)),
                Some(_) => {}
            }
        }
        Err(StoreError::Conflict)
    }
}
