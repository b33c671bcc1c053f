//! The key-value store labelled `default`.

use order_core::queue::{KeyValue, KeyValueSet, QueueError};

use crate::bindings::wasi::keyvalue::{batch, store};

/// A store by blocking calls; every operation fails where it could not be opened.
pub struct Bucket(Result<store::Bucket, QueueError>);

impl Bucket {
    /// Opens the store.
    pub fn open() -> Self {
        Self(store::open("default").map_err(queue_error))
    }

    fn opened(&self) -> Result<&store::Bucket, QueueError> {
        self.0.as_ref().map_err(Clone::clone)
    }
}

impl KeyValueSet for Bucket {
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
        self.opened()?.set(key, &value).map_err(queue_error)
    }
}

impl KeyValue for Bucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        self.opened()?.get(key).map_err(queue_error)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), QueueError> {
        let bucket = self.opened()?;
        // One transaction for all where the backend can, one for each where it cannot.
        if batch::delete_many(bucket, keys).is_ok() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| bucket.delete(key)).map_err(queue_error)
    }

    async fn keys(&self) -> Result<Vec<String>, QueueError> {
        let bucket = self.opened()?;
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let page = bucket.list_keys(cursor.as_deref()).map_err(queue_error)?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }
}

fn queue_error(error: store::Error) -> QueueError {
    QueueError(match error {
        store::Error::NoSuchStore => "the host has no key-value store \"default\"".to_owned(),
        store::Error::AccessDenied => "spin.toml does not grant the key-value store \"default\"".to_owned(),
        store::Error::Other(message) => message,
    })
}

#[cfg(feature = "async")]
pub use non_blocking::AsyncStore;

#[cfg(feature = "async")]
mod non_blocking {
    use order_core::queue::{KeyValueSet, QueueError};
    use spin_sdk::key_value::{Error, Store};

    /// A store by calls that let the component go on; it is opened for each, which is no I/O.
    pub struct AsyncStore;

    impl KeyValueSet for AsyncStore {
        async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
            let queue_error = |error: Error| QueueError(error.to_string());
            let store = Store::open_default().await.map_err(queue_error)?;
            store.set(key, value).await.map_err(queue_error)
        }
    }
}
