//! What the backend needs of PostgreSQL.

use crate::order::Timestamp;
use crate::store::StoreError;

/// A value that goes into or comes out of a statement. Rows have no arrays.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// `bigint`
    Integer(i64),
    /// `text`
    Text(String),
    /// `bigint[]`
    Integers(Vec<Option<i64>>),
    /// `text[]`
    Texts(Vec<Option<String>>),
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<u32> for Value {
    fn from(integer: u32) -> Self {
        Self::Integer(integer.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Integer(time.as_millis())
    }
}

impl FromIterator<i64> for Value {
    fn from_iter<I: IntoIterator<Item = i64>>(integers: I) -> Self {
        Self::Integers(integers.into_iter().map(Some).collect())
    }
}

impl<'a> FromIterator<&'a str> for Value {
    fn from_iter<I: IntoIterator<Item = &'a str>>(texts: I) -> Self {
        Self::Texts(texts.into_iter().map(|text| Some(text.to_owned())).collect())
    }
}

/// The values of a row.
pub type Row = Vec<Value>;

/// A connection to a PostgreSQL database, in no transaction when it is taken from its pool.
pub trait Connection {
    /// Runs one statement and answers its rows.
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError>;
}

/// Where connections come from. A connection that is dropped goes back; a pool must not hand one on that is still in a
/// transaction of somebody else's.
pub trait Pool {
    /// Its connections.
    type Connection: Connection;

    /// Waits for a connection.
    async fn take(&self) -> Result<Self::Connection, StoreError>;
}

impl StoreError {
    /// What an error's SQLSTATE says about its nature (PostgreSQL's documentation, appendix A).
    pub fn from_sqlstate(code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        match code {
            // serialization_failure, deadlock_detected: rolled back for somebody else's sake.
            "40001" | "40P01" => Self::Conflict,
            // lock_not_available, query_canceled: by a time limit.
            "55P03" | "57014" => Self::Busy,
            // read_only_sql_transaction (a standby, or a primary that is no longer one), idle_in_transaction_session_timeout,
            // statement_completion_unknown.
            "25006" | "25P03" | "40003" => Self::Unavailable(message),
            // Connections, missing resources (a full disk, too many connections), operators, the system.
            _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Self::Unavailable(message),
            _ => Self::Broken(format!("{message} (SQLSTATE {code})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_apart_by_its_sqlstate() {
        for code in ["40001", "40P01"] {
            assert_eq!(StoreError::from_sqlstate(code, "x"), StoreError::Conflict);
        }
        for code in ["55P03", "57014"] {
            assert_eq!(StoreError::from_sqlstate(code, "x"), StoreError::Busy);
        }
        for code in ["08006", "08001", "53100", "53300", "57P01", "57P03", "58030", "25006", "25P03", "40003"] {
            assert!(matches!(StoreError::from_sqlstate(code, "x"), StoreError::Unavailable(_)), "{code}");
        }
        for code in ["42P01", "23505", "XX001", "22021"] {
            assert!(matches!(StoreError::from_sqlstate(code, "x"), StoreError::Broken(_)), "{code}");
        }
    }
}
