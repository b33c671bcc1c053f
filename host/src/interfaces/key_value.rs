//! `spin:key-value` and `wasi:keyvalue`: in memory, or in the file that Spin's default store uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use wasmtime::Result;
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, ResourceTable, StreamReader};

use crate::hook::CallKind;
use crate::host_calls::HostCalls;

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/key-value",
        imports: { default: async | trappable },
        with: {
            "spin:key-value/key-value.store": super::KeyValueStore,
            "wasi:keyvalue/store.bucket": super::KeyValueStore,
        },
    });
}

use bindings::spin::key_value::key_value::{self as spin, Error};
use bindings::wasi::keyvalue::{batch, store as wasi};

/// The stores that a component may open.
#[derive(Clone)]
pub struct Access {
    /// Carries its calls out.
    pub calls: Arc<HostCalls>,
    /// The store behind the label `default`, where it is granted.
    pub default: Option<KeyValueStore>,
}

/// An instance's access, and where its open stores are kept.
pub struct View<'a> {
    /// What it may open.
    pub access: &'a Access,
    /// Its resources.
    pub table: &'a mut ResourceTable,
}

/// Links the interfaces for stores that have such a view.
pub fn add_to_linker<T: Send>(linker: &mut Linker<T>, view: fn(&mut T) -> View<'_>) -> Result<()> {
    bindings::KeyValue::add_to_linker::<_, KeyValue>(linker, view)
}

struct KeyValue;

impl HasData for KeyValue {
    type Data<'a> = View<'a>;
}

/// A key-value store.
#[derive(Clone)]
pub enum KeyValueStore {
    /// Gone with the process.
    Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>),
    /// A file of the form that Spin's default store has.
    File(Arc<Mutex<rusqlite::Connection>>),
}

/// The name of the only store in a file.
const STORE: &str = "default";

impl KeyValueStore {
    /// An empty store in memory.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// The store in the file at `path`, which is made if it is missing.
    pub fn file(path: &Path) -> anyhow::Result<Self> {
        let connection = rusqlite::Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS spin_key_value (
                store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key)
            )",
        )?;
        Ok(Self::File(Arc::new(Mutex::new(connection))))
    }

    fn get(&self, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        match self {
            Self::Memory(map) => Ok(map.lock().expect("no access panics").get(key).cloned()),
            Self::File(connection) => {
                let connection = connection.lock().expect("no access panics");
                let mut statement =
                    connection.prepare_cached("SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2")?;
                let mut rows = statement.query([STORE, key])?;
                rows.next()?.map(|row| row.get(0)).transpose()
            }
        }
    }

    fn set(&self, entries: &[(String, Vec<u8>)]) -> rusqlite::Result<()> {
        match self {
            Self::Memory(map) => map.lock().expect("no access panics").extend(entries.iter().cloned()),
            Self::File(connection) => {
                let mut connection = connection.lock().expect("no access panics");
                let transaction = connection.transaction()?;
                for (key, value) in entries {
                    transaction.execute(
                        "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
                         ON CONFLICT (store, key) DO UPDATE SET value = excluded.value",
                        (STORE, key, value),
                    )?;
                }
                transaction.commit()?;
            }
        }
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> rusqlite::Result<()> {
        match self {
            Self::Memory(map) => {
                let mut map = map.lock().expect("no access panics");
                for key in keys {
                    map.remove(key);
                }
            }
            Self::File(connection) => {
                let mut connection = connection.lock().expect("no access panics");
                let transaction = connection.transaction()?;
                for key in keys {
                    transaction.execute("DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2", [STORE, key])?;
                }
                transaction.commit()?;
            }
        }
        Ok(())
    }

    fn keys(&self) -> rusqlite::Result<Vec<String>> {
        match self {
            Self::Memory(map) => Ok(map.lock().expect("no access panics").keys().cloned().collect()),
            Self::File(connection) => {
                let connection = connection.lock().expect("no access panics");
                let mut statement = connection.prepare_cached("SELECT key FROM spin_key_value WHERE store = ?1")?;
                statement.query_map([STORE], |row| row.get(0))?.collect()
            }
        }
    }

    /// Carries out an operation of a component's.
    async fn call<T: Send + 'static>(
        &self,
        calls: &HostCalls,
        kind: CallKind,
        subject: &str,
        work: impl FnOnce(&Self) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Result<T, String>> {
        let store = self.clone();
        let work = async {
            let work = move || work(&store).map_err(|error| error.to_string());
            match self {
                Self::Memory(_) => work(),
                Self::File(_) => calls.run_blocking(work).await,
            }
        };
        calls.carry_out(kind, subject, |message| message, work).await
    }
}

impl View<'_> {
    fn open_store(&mut self, label: &str) -> Result<Option<Resource<KeyValueStore>>> {
        match self.access.default.clone().filter(|_| label == "default") {
            Some(store) => Ok(Some(self.table.push(store)?)),
            None => Ok(None),
        }
    }

    fn key_value(&self, resource: &Resource<KeyValueStore>) -> Result<KeyValueStore> {
        Ok(self.table.get(resource)?.clone())
    }
}

impl spin::Host for View<'_> {}

impl spin::HostStore for View<'_> {
    async fn drop(&mut self, store: Resource<KeyValueStore>) -> Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

fn borrow<T: Send>(
    accessor: &Accessor<T, KeyValue>,
    store: &Resource<KeyValueStore>,
) -> Result<(Arc<HostCalls>, KeyValueStore)> {
    accessor.with(|mut access| {
        let view = access.get();
        Ok((view.access.calls.clone(), view.key_value(store)?))
    })
}

impl<T: Send> spin::HostStoreWithStore<T> for KeyValue {
    async fn open(accessor: &Accessor<T, Self>, label: String) -> Result<Result<Resource<KeyValueStore>, Error>> {
        let opened = accessor.with(|mut access| access.get().open_store(&label))?;
        Ok(opened.ok_or(Error::AccessDenied))
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<KeyValueStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, Error>> {
        let (calls, store) = borrow(accessor, &store)?;
        let subject = key.clone();
        let value = store.call(&calls, CallKind::KeyValueGet, &subject, move |store| store.get(&key)).await?;
        Ok(value.map_err(Error::Other))
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<KeyValueStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), Error>> {
        let (calls, store) = borrow(accessor, &store)?;
        let subject = key.clone();
        let entries = [(key, value)];
        let set = store.call(&calls, CallKind::KeyValueSet, &subject, move |store| store.set(&entries)).await?;
        Ok(set.map_err(Error::Other))
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<KeyValueStore>,
        key: String,
    ) -> Result<Result<(), Error>> {
        let (calls, store) = borrow(accessor, &store)?;
        let subject = key.clone();
        let deleted = store.call(&calls, CallKind::KeyValueDelete, &subject, move |store| store.delete(&[key])).await?;
        Ok(deleted.map_err(Error::Other))
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<KeyValueStore>,
        key: String,
    ) -> Result<Result<bool, Error>> {
        let (calls, store) = borrow(accessor, &store)?;
        let subject = key.clone();
        let value = store.call(&calls, CallKind::KeyValueGet, &subject, move |store| store.get(&key)).await?;
        Ok(value.map(|value| value.is_some()).map_err(Error::Other))
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<KeyValueStore>,
    ) -> Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let (calls, store) = borrow(accessor, &store)?;
        let keys = store.call(&calls, CallKind::KeyValueKeys, "", KeyValueStore::keys).await?;
        let (keys, end) = match keys {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(Error::Other(error))),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let end = FutureReader::new(&mut access, async move { wasmtime::error::Ok(end) })?;
            Ok((keys, end))
        })
    }
}

impl wasi::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Result<Result<Resource<KeyValueStore>, wasi::Error>> {
        Ok(self.open_store(&identifier)?.ok_or(wasi::Error::AccessDenied))
    }
}

impl wasi::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<KeyValueStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, wasi::Error>> {
        let subject = key.clone();
        let bucket = self.key_value(&bucket)?;
        let value =
            bucket.call(&self.access.calls, CallKind::KeyValueGet, &subject, move |store| store.get(&key)).await?;
        Ok(value.map_err(wasi::Error::Other))
    }

    async fn set(
        &mut self,
        bucket: Resource<KeyValueStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), wasi::Error>> {
        batch::Host::set_many(self, bucket, vec![(key, value)]).await
    }

    async fn delete(&mut self, bucket: Resource<KeyValueStore>, key: String) -> Result<Result<(), wasi::Error>> {
        batch::Host::delete_many(self, bucket, vec![key]).await
    }

    async fn exists(&mut self, bucket: Resource<KeyValueStore>, key: String) -> Result<Result<bool, wasi::Error>> {
        let value = wasi::HostBucket::get(self, bucket, key).await?;
        Ok(value.map(|value| value.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<KeyValueStore>,
        cursor: Option<String>,
    ) -> Result<Result<wasi::KeyResponse, wasi::Error>> {
        // All keys are on the first page, as on Spin.
        if cursor.is_some() {
            return Ok(Err(wasi::Error::Other("list_keys: cursor not supported".to_owned())));
        }
        let bucket = self.key_value(&bucket)?;
        let keys = bucket.call(&self.access.calls, CallKind::KeyValueKeys, "", KeyValueStore::keys).await?;
        Ok(keys.map(|keys| wasi::KeyResponse { keys, cursor: None }).map_err(wasi::Error::Other))
    }

    async fn drop(&mut self, bucket: Resource<KeyValueStore>) -> Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<KeyValueStore>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<(String, Option<Vec<u8>>)>, wasi::Error>> {
        let bucket = self.key_value(&bucket)?;
        let subject = keys.first().cloned().unwrap_or_default();
        let work = move |store: &KeyValueStore| {
            keys.into_iter().map(|key| store.get(&key).map(|value| (key, value))).collect::<rusqlite::Result<_>>()
        };
        let values = bucket.call(&self.access.calls, CallKind::KeyValueGet, &subject, work).await?;
        Ok(values.map_err(wasi::Error::Other))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<KeyValueStore>,
        entries: Vec<(String, Vec<u8>)>,
    ) -> Result<Result<(), wasi::Error>> {
        let bucket = self.key_value(&bucket)?;
        let subject = entries.first().map(|(key, _)| key.clone()).unwrap_or_default();
        let set =
            bucket.call(&self.access.calls, CallKind::KeyValueSet, &subject, move |store| store.set(&entries)).await?;
        Ok(set.map_err(wasi::Error::Other))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<KeyValueStore>,
        keys: Vec<String>,
    ) -> Result<Result<(), wasi::Error>> {
        let bucket = self.key_value(&bucket)?;
        let subject = keys.first().cloned().unwrap_or_default();
        let deleted = bucket
            .call(&self.access.calls, CallKind::KeyValueDelete, &subject, move |store| store.delete(&keys))
            .await?;
        Ok(deleted.map_err(wasi::Error::Other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_stores_do_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key_value.db");
        for store in [KeyValueStore::memory(), KeyValueStore::file(&file).unwrap()] {
            let keys = ["a".to_owned(), "b".to_owned()];
            store.set(&[(keys[0].clone(), vec![1]), (keys[1].clone(), vec![0, 255])]).unwrap();
            store.set(&[(keys[0].clone(), vec![2])]).unwrap();
            assert_eq!(store.get("a").unwrap(), Some(vec![2]));
            assert_eq!(store.get("c").unwrap(), None);
            assert_eq!(store.keys().unwrap(), keys);
            store.delete(&[keys[0].clone(), "c".to_owned()]).unwrap();
            assert_eq!(store.keys().unwrap(), [keys[1].clone()]);
        }
        assert_eq!(KeyValueStore::file(&file).unwrap().get("b").unwrap(), Some(vec![0, 255]));
    }
}
