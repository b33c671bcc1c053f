//! Values and errors of the interface, whose versions have types of their own.

/// The values and errors of one version of the interface.
macro_rules! conversions {
    ($host:path) => {
        use $host as host;

        pub fn to_host(value: order_core::sqlite::Value) -> host::Value {
            use order_core::sqlite::Value;
            match value {
                Value::Null => host::Value::Null,
                Value::Integer(integer) => host::Value::Integer(integer),
                Value::Text(text) => host::Value::Text(text),
                Value::Blob(bytes) => host::Value::Blob(bytes),
            }
        }

        pub fn from_host(value: host::Value) -> Result<order_core::sqlite::Value, order_core::store::StoreError> {
            use order_core::sqlite::Value;
            match value {
                host::Value::Null => Ok(Value::Null),
                host::Value::Integer(integer) => Ok(Value::Integer(integer)),
                host::Value::Text(text) => Ok(Value::Text(text)),
                host::Value::Blob(bytes) => Ok(Value::Blob(bytes)),
                host::Value::Real(_) => Err(order_core::store::StoreError::Broken(
                    "a column has a type that the schema does not use".to_owned(),
                )),
            }
        }

        pub fn store_error(error: host::Error) -> order_core::store::StoreError {
            use order_core::store::StoreError;
            match error {
                host::Error::NoSuchDatabase => StoreError::Broken("the host has no database \"default\"".to_owned()),
                host::Error::AccessDenied => {
                    StoreError::Broken("spin.toml does not grant the database \"default\"".to_owned())
                }
                host::Error::InvalidConnection => StoreError::Unavailable("the connection was closed".to_owned()),
                host::Error::DatabaseFull => StoreError::Unavailable("the database is full".to_owned()),
                host::Error::Io(message) => StoreError::from_sqlite_message(message),
            }
        }
    };
}

pub(super) use conversions;
