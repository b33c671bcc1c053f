//! The queue between intake and worker: messages that name accepted orders, kept in a key-value store.
//!
//! A message is a wake-up, nothing more: the orders table is the truth. A message that is lost, repeated or
//! stale never loses or doubles an order; it only decides how soon a worker looks.

use crate::order::Id;

/// Why the key-value store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is not available: {0}")]
pub struct QueueError(pub String);

/// The part of a key-value store that every backend of Spin's does right: `increment` and `swap` are not
/// in it, nor is any operation on many keys at once that may fail halfway without harm.
pub trait KeyValue {
    /// Sets `key` to `value`.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError>;
    /// The value of `key`.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError>;
    /// Deletes `keys`, those that are there.
    async fn delete(&self, keys: &[String]) -> Result<(), QueueError>;
    /// Every key of the store, in no order.
    async fn keys(&self) -> Result<Vec<String>, QueueError>;
}

/// A message out of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it lies, for [`OrderQueue::delete`].
    pub key: String,
    /// The orders it names; empty where its value makes no sense.
    pub order_ids: Vec<String>,
}

/// The seam to the queue.
pub trait OrderQueue {
    /// Puts in a message that names `order_ids`. `message_id` must be new, and sorts by its time.
    async fn send(&self, message_id: &str, order_ids: &[&Id]) -> Result<(), QueueError>;
    /// Up to `limit` messages, oldest first. They stay in the queue until they are deleted.
    async fn receive(&self, limit: usize) -> Result<Vec<Message>, QueueError>;
    /// Takes messages out.
    async fn delete(&self, messages: &[Message]) -> Result<(), QueueError>;
}

/// An [`OrderQueue`] in a key-value store. A message's key is [`Self::PREFIX`] and its identifier; its value
/// is a JSON array of order identifiers.
pub struct KeyValueQueue<K>(pub K);

impl<K> KeyValueQueue<K> {
    /// Sets the queue's keys apart: stores on Redis share one key space whatever their names.
    pub const PREFIX: &str = "order-queue/";
}

impl<K: KeyValue> OrderQueue for KeyValueQueue<K> {
    async fn send(&self, message_id: &str, order_ids: &[&Id]) -> Result<(), QueueError> {
        let order_ids: Vec<&str> = order_ids.iter().map(|id| id.as_str()).collect();
        let value = serde_json::to_vec(&order_ids).expect("strings are JSON");
        self.0.set(&format!("{}{message_id}", Self::PREFIX), value).await
    }

    async fn receive(&self, limit: usize) -> Result<Vec<Message>, QueueError> {
        let mut keys = self.0.keys().await?;
        keys.retain(|key| key.starts_with(Self::PREFIX));
        if keys.len() > limit {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys.sort_unstable();
        let mut messages = Vec::with_capacity(keys.len());
        for key in keys {
            // A message that another worker took out meanwhile is no longer ours to read.
            if let Some(value) = self.0.get(&key).await? {
                messages.push(Message { key, order_ids: serde_json::from_slice(&value).unwrap_or_default() });
            }
        }
        Ok(messages)
    }

    async fn delete(&self, messages: &[Message]) -> Result<(), QueueError> {
        let keys: Vec<String> = messages.iter().map(|message| message.key.clone()).collect();
        self.0.delete(&keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_doubles::MemoryKeyValue;

    #[test]
    fn messages_come_out_oldest_first_and_stay_until_deleted() {
        pollster::block_on(async {
            let queue = KeyValueQueue(MemoryKeyValue::default());
            for (message, order) in [("2", "b"), ("1", "a"), ("3", "c")] {
                queue.send(message, &[&Id::from_text(order).unwrap(), &Id::from_integer(7)]).await.unwrap();
            }
            let first = queue.receive(2).await.unwrap();
            let names: Vec<_> = first.iter().map(|message| message.order_ids.clone()).collect();
            assert_eq!(names, [["a", "7"], ["b", "7"]]);
            assert_eq!(queue.receive(2).await.unwrap(), first);
            assert_eq!(queue.receive(3).await.unwrap().len(), 3);
            queue.delete(&first).await.unwrap();
            assert_eq!(queue.receive(2).await.unwrap()[0].order_ids, ["c", "7"]);
        });
    }

    #[test]
    fn strange_keys_are_left_alone_and_strange_values_name_nothing() {
        pollster::block_on(async {
            let queue = KeyValueQueue(MemoryKeyValue::default());
            queue.0.set("someone-elses", b"x".to_vec()).await.unwrap();
            queue.0.set("order-queue/odd", b"\xff{".to_vec()).await.unwrap();
            let messages = queue.receive(10).await.unwrap();
            assert_eq!(messages, [Message { key: "order-queue/odd".to_owned(), order_ids: vec![] }]);
            queue.delete(&messages).await.unwrap();
            assert_eq!(queue.0.keys().await.unwrap(), ["someone-elses"]);
        });
    }
}
