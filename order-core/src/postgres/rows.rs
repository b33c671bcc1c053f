//! Rows into what they mean, for the columns that several statements share.

use serde::de::DeserializeOwned;

use super::connection::{Row, Value};
use crate::lifecycle::Status;
use crate::order::{Amount, Currency, EventNumber, Id, Items, NewOrder, Order, Timestamp};
use crate::principal::Owner;
use crate::store::StoreError;

/// What [`Columns::order`] and the claims read of an order besides its items, within a JSON array of other things.
macro_rules! content_fields {
    () => {
        "json_build_array(owner, order_id, order_id_int, user_id, user_id_int, total_amount, currency)"
    };
}

/// The columns of [`Columns::order`].
macro_rules! order_columns {
    () => {
        concat!(
            "json_build_array(number, ",
            $crate::postgres::rows::content_fields!(),
            ", status, attempts, created_at, started_at, finished_at, failure)::text, item_ids"
        )
    };
}

pub(super) use {content_fields, order_columns};

/// The fields that [`content_fields`] names.
pub(super) type ContentFields = (String, String, u8, String, u8, i64, String);

/// The first column of [`order_columns`].
type OrderFields = (i64, ContentFields, String, u32, i64, Option<i64>, Option<i64>, Option<String>);

/// A row that is not what its statement asks for.
pub(super) fn unexpected_row() -> StoreError {
    StoreError::Broken("a row does not have the columns that its statement asks for".to_owned())
}

/// Takes the columns of a row one after the other.
pub(super) struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    pub fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    pub fn integer(&mut self) -> Result<i64, StoreError> {
        match self.0.next() {
            Some(Value::Integer(integer)) => Ok(integer),
            _ => Err(unexpected_row()),
        }
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(unexpected_row()),
        }
    }

    /// A column that holds fields as JSON.
    pub fn fields<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        serde_json::from_str(&self.text()?).map_err(|_| unexpected_row())
    }

    /// The column `item_ids`, and those fields of the same order that came before it.
    pub fn content(&mut self, fields: ContentFields) -> Result<(Owner, NewOrder), StoreError> {
        let (owner, order_id, order_id_int, user_id, user_id_int, total_amount, currency) = fields;
        let content = NewOrder {
            order_id: Id::from_stored(order_id, order_id_int == 1),
            user_id: Id::from_stored(user_id, user_id_int == 1),
            item_ids: Items::from_stored(self.text()?).ok_or_else(unexpected_row)?,
            total_amount: Amount::from_minor(total_amount).ok_or_else(unexpected_row)?,
            currency: Currency::parse(currency).ok_or_else(unexpected_row)?,
        };
        Ok((Owner::from_stored(owner), content))
    }

    /// The columns that [`order_columns`] names.
    pub fn order(&mut self) -> Result<Order, StoreError> {
        let (number, content, status, attempts, created_at, started_at, finished_at, failure): OrderFields =
            self.fields()?;
        let (owner, content) = self.content(content)?;
        Ok(Order {
            number: EventNumber(number),
            owner,
            content,
            status: Status::parse(&status).ok_or_else(unexpected_row)?,
            attempts,
            created_at: Timestamp::from_millis(created_at),
            started_at: started_at.map(Timestamp::from_millis),
            finished_at: finished_at.map(Timestamp::from_millis),
            failure,
        })
    }
}
