//! Messages of the queue: whatever lies in the store, reading it names identifiers or nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::queue::{KeyValue as _, KeyValueQueue, KeyValueSet as _, Queue as _};
use order_core::test_doubles::MemoryKeyValue;

fuzz_target!(|messages: Vec<(String, Vec<u8>)>| {
    pollster::block_on(async {
        let queue = KeyValueQueue(MemoryKeyValue::default());
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
