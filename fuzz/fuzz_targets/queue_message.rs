//! Messages of the queue: whatever lies in the store, reading it names identifiers or nothing.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use order_core::queue::{KeyValue, KeyValueQueue, OrderQueue, QueueError};

#[derive(Default)]
struct Store(RefCell<BTreeMap<String, Vec<u8>>>);

impl KeyValue for Store {
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
        self.0.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), QueueError> {
        keys.iter().for_each(|key| _ = self.0.borrow_mut().remove(key));
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<String>, QueueError> {
        Ok(self.0.borrow().keys().cloned().collect())
    }
}

fuzz_target!(|messages: Vec<(String, Vec<u8>)>| {
    pollster::block_on(async {
        let queue = KeyValueQueue(Store::default());
        for (key, value) in messages {
            queue.0.set(&format!("order-queue/{key}"), value.clone()).await.unwrap();
            queue.0.set(&key, value).await.unwrap();
        }
        loop {
            let received = queue.receive(3).await.unwrap();
            assert!(received.len() <= 3);
            if received.is_empty() {
                break;
            }
            queue.delete(&received).await.unwrap();
        }
        assert!(queue.0.keys().await.unwrap().iter().all(|key| !key.starts_with("order-queue/")));
    });
});
