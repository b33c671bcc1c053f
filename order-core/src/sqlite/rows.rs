//! Rows into what they mean, for the columns that several statements share.

use serde::Serialize;

use super::connection::{Row, Value};
use super::packing::unpack;
use crate::lifecycle::Status;
use crate::order::{Amount, Currency, EventNumber, Id, Items, NewOrder, Order, Timestamp};
use crate::principal::Owner;
use crate::store::StoreError;

/// The columns of [`Columns::content`], for SELECT and RETURNING.
macro_rules! content_columns {
    () => {
        "owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency"
    };
}

/// The columns of [`Columns::order`].
macro_rules! order_columns {
    () => {
        concat!(
            "seq, ",
            $crate::sqlite::rows::content_columns!(),
            ", status, attempts, created_at, started_at, finished_at, failure"
        )
    };
}

pub(super) use {content_columns, order_columns};

/// A row that is not what its statement asks for.
pub(super) fn unexpected_row() -> StoreError {
    StoreError::Broken("a row does not have the columns that its statement asks for".to_owned())
}

/// A list as one parameter, for json_each: it keeps the statements few, of which Spin caches 16 per connection.
pub(super) fn list<T: Serialize>(items: &[T]) -> Value {
    Value::Text(serde_json::to_string(items).expect("what is stored is JSON"))
}

/// Takes the columns of a row one after the other.
pub(super) struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    pub fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    pub fn integer(&mut self) -> Result<i64, StoreError> {
        self.optional_integer()?.ok_or_else(unexpected_row)
    }

    fn optional_integer(&mut self) -> Result<Option<i64>, StoreError> {
        match self.0.next() {
            Some(Value::Integer(integer)) => Ok(Some(integer)),
            Some(Value::Null) => Ok(None),
            _ => Err(unexpected_row()),
        }
    }

    pub fn count(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.integer()?).map_err(|_| StoreError::Broken("a counter is below zero".to_owned()))
    }

    /// A number that counts from 0 or 1 and stays small.
    pub fn small(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.integer()?).map_err(|_| unexpected_row())
    }

    pub fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.integer().map(Timestamp::from_millis)
    }

    pub fn optional_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.optional_integer()?.map(Timestamp::from_millis))
    }

    pub fn event_number(&mut self) -> Result<EventNumber, StoreError> {
        self.integer().map(EventNumber)
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(unexpected_row)
    }

    pub fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(unexpected_row()),
        }
    }

    pub fn owner(&mut self) -> Result<Owner, StoreError> {
        self.text().map(Owner::from_stored)
    }

    fn id(&mut self) -> Result<Id, StoreError> {
        Ok(Id::from_stored(self.text()?, self.integer()? == 1))
    }

    pub fn status(&mut self) -> Result<Status, StoreError> {
        Status::parse(&self.text()?).ok_or_else(unexpected_row)
    }

    fn items(&mut self) -> Result<Items, StoreError> {
        let items = match self.0.next() {
            Some(Value::Text(json)) => Items::from_stored(json),
            Some(Value::Blob(compressed)) => unpack(&compressed),
            _ => None,
        };
        items.ok_or_else(unexpected_row)
    }

    /// The columns that [`content_columns`] names.
    pub fn content(&mut self) -> Result<(Owner, NewOrder), StoreError> {
        let owner = self.owner()?;
        let content = NewOrder {
            order_id: self.id()?,
            user_id: self.id()?,
            item_ids: self.items()?,
            total_amount: Amount::from_minor(self.integer()?).ok_or_else(unexpected_row)?,
            currency: Currency::parse(self.text()?).ok_or_else(unexpected_row)?,
        };
        Ok((owner, content))
    }

    /// The columns that [`order_columns`] names.
    pub fn order(&mut self) -> Result<Order, StoreError> {
        let number = self.event_number()?;
        let (owner, content) = self.content()?;
        Ok(Order {
            number,
            owner,
            content,
            status: self.status()?,
            attempts: self.small()?,
            created_at: self.time()?,
            started_at: self.optional_time()?,
            finished_at: self.optional_time()?,
            failure: self.optional_text()?,
        })
    }
}
