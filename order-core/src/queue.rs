//! The queue between intake and worker: messages that name accepted orders, kept in a key-value store.
//!
//! A message is a wake-up, nothing more: the orders table is the truth. A message that is lost, repeated or
//! stale never loses or doubles an order; it only decides how soon a worker looks.

use crate::order::EventNumber;

/// Why the key-value store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is not available: {0}")]
pub struct QueueError(pub String);

/// What intake needs of a key-value store.
pub trait KeyValueSet {
    /// Sets `key` to `value`.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError>;
}

/// The part of a key-value store that every backend of Spin's does right: `increment` and `swap` are not
/// in it, nor is any operation on many keys at once that may fail halfway without harm.
pub trait KeyValue: KeyValueSet {
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
    /// Where it is kept, for [`Queue::delete`].
    pub key: String,
    /// The orders it names; empty where its value makes no sense.
    pub orders: Vec<EventNumber>,
}

/// The end of the queue at which messages go in.
pub trait Announcements {
    /// Puts in a message that names `orders`. `message_id` must be new, and sorts by its time.
    async fn announce(&self, message_id: &str, orders: &[EventNumber]) -> Result<(), QueueError>;
}

/// The end of the queue at which messages come out.
pub trait Queue {
    /// Up to `limit` messages, oldest first. They stay in the queue until they are deleted.
    async fn receive(&self, limit: usize) -> Result<Vec<Message>, QueueError>;
    /// Puts a message in its own place, with the orders that it names now.
    async fn replace(&self, message: &Message) -> Result<(), QueueError>;
    /// Takes messages out.
    async fn delete(&self, messages: &[Message]) -> Result<(), QueueError>;
}

/// The queue in a key-value store. A message's key is [`Self::PREFIX`] and its identifier; its value
/// is a JSON array of the numbers of orders.
pub struct KeyValueQueue<K>(pub K);

impl<K> KeyValueQueue<K> {
    /// Sets the queue's keys apart: stores on Redis share one key space whatever their names.
    pub const PREFIX: &str = "order-queue/";
}

fn to_value(orders: &[EventNumber]) -> Vec<u8> {
    let numbers: Vec<i64> = orders.iter().map(|order| order.0).collect();
    serde_json::to_vec(&numbers).expect("numbers are JSON")
}

fn from_value(value: &[u8]) -> Vec<EventNumber> {
    let numbers: Vec<i64> = serde_json::from_slice(value).unwrap_or_default();
    numbers.into_iter().map(EventNumber).collect()
}

impl<K: KeyValueSet> Announcements for KeyValueQueue<K> {
    async fn announce(&self, message_id: &str, orders: &[EventNumber]) -> Result<(), QueueError> {
        self.0.set(&format!("{}{message_id}", Self::PREFIX), to_value(orders)).await
    }
}

impl<K: KeyValue> Queue for KeyValueQueue<K> {
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
                messages.push(Message { key, orders: from_value(&value) });
            }
        }
        Ok(messages)
    }

    async fn replace(&self, message: &Message) -> Result<(), QueueError> {
        self.0.set(&message.key, to_value(&message.orders)).await
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

    fn numbers(numbers: &[i64]) -> Vec<EventNumber> {
        numbers.iter().copied().map(EventNumber).collect()
    }

    #[test]
    fn messages_come_out_oldest_first_and_stay_until_deleted() {
        pollster::block_on(async {
            let queue = KeyValueQueue(MemoryKeyValue::default());
            for (message, order) in [("2", 20), ("1", 10), ("3", 30)] {
                queue.announce(message, &numbers(&[order, 7])).await.unwrap();
            }
            let mut first = queue.receive(2).await.unwrap();
            let named: Vec<_> = first.iter().map(|message| message.orders.clone()).collect();
            assert_eq!(named, [numbers(&[10, 7]), numbers(&[20, 7])]);
            assert_eq!(queue.receive(2).await.unwrap(), first);
            assert_eq!(queue.receive(3).await.unwrap().len(), 3);
            first[1].orders.pop();
            queue.replace(&first[1]).await.unwrap();
            assert_eq!(queue.receive(2).await.unwrap(), first);
            queue.delete(&first).await.unwrap();
            assert_eq!(queue.receive(2).await.unwrap()[0].orders, numbers(&[30, 7]));
        });
    }

    #[test]
    fn strange_keys_are_left_alone_and_strange_values_name_nothing() {
        pollster::block_on(async {
            let queue = KeyValueQueue(MemoryKeyValue::default());
            queue.0.set("someone-elses", b"x".to_vec()).await.unwrap();
            queue.0.set("order-queue/odd", b"\xff{".to_vec()).await.unwrap();
            let messages = queue.receive(10).await.unwrap();
            assert_eq!(messages, [Message { key: "order-queue/odd".to_owned(), orders: vec![] }]);
            queue.delete(&messages).await.unwrap();
            assert_eq!(queue.0.keys().await.unwrap(), ["someone-elses"]);
        });
    }
}
