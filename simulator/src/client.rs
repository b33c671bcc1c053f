//! Clients: they send orders, send them again, cancel, retry and read, and know what they may expect.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use host::DrivenApp;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::invariants::{Ledger, Sent, content_of};
use crate::world::World;

/// How many kinds of orders there are, the common ones counted several times.
pub const KINDS: u64 = 10;

/// An answer that arrived.
pub struct Answer {
    pub status: u16,
    pub replayed: bool,
    pub body: Bytes,
}

impl Answer {
    /// Whether it says that the first request with this key is still under way.
    fn is_in_flight(&self) -> bool {
        self.status == 409 && String::from_utf8_lossy(&self.body).contains("in-flight")
    }
}

/// A request that a client may send again.
#[derive(Clone)]
struct Order {
    path: &'static str,
    key: Option<String>,
    body: Value,
    /// The first success that was heard of.
    answer: Option<Bytes>,
    order_id: Option<String>,
}

/// A client; it outlives the machine.
pub struct Client {
    number: usize,
    orders: Vec<Order>,
    /// How many actions are left.
    pub left: usize,
}

/// What a client works with while the machine lives.
#[derive(Clone)]
pub struct Reach {
    pub app: Rc<DrivenApp>,
    pub world: std::sync::Arc<World>,
    pub ledger: Rc<RefCell<Ledger>>,
    /// Called after each answer.
    pub checked: Rc<dyn Fn()>,
}

impl Reach {
    async fn send(
        &self,
        who: usize,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(&method).uri(path).header("host", "sim");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = self.app.request(request.body(Bytes::from(body.clone())).expect("the request is one")).await;
        let answer = answer.map(|answer| Answer {
            status: answer.status().as_u16(),
            replayed: answer.headers().contains_key("idempotency-replayed"),
            body: answer.into_body(),
        });
        let told = match &answer {
            Some(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            None => "nothing".to_owned(),
        };
        self.world.tell(format!("client {who}: {method} {path} {} {body} -> {told}", key.unwrap_or("-")));
        let answer = answer.filter(|answer| match answer.status {
            // Whether it was done is not known.
            500.. => {
                if !self.world.is_rough() && answer.status != 503 {
                    self.world.violated(format!("{method} {path} was answered {} without a fault", answer.status));
                }
                false
            }
            _ => true,
        });
        (self.checked)();
        answer
    }
}

impl Client {
    pub fn new(number: usize, actions: usize) -> Self {
        Self { number, orders: Vec::new(), left: actions }
    }

    /// Does what is left to do, until the machine dies (when this is dropped) or all is done.
    pub async fn act(client: Rc<RefCell<Self>>, reach: Reach) {
        loop {
            let (number, orders) = {
                let mut client = client.borrow_mut();
                if client.left == 0 || reach.world.is_violated() {
                    return;
                }
                client.left -= 1;
                (client.number, client.orders.len() as u64)
            };
            tokio::time::sleep(Duration::from_millis(reach.world.below(900))).await;
            let roll = reach.world.below(100);
            if orders == 0 || roll < 35 {
                Self::order(&client, &reach).await;
                continue;
            }
            let index = reach.world.below(orders) as usize;
            let order = client.borrow().orders[index].clone();
            match roll {
                35..50 => Self::send_again(&client, &reach, index).await,
                50..58 => other_content(&reach, number, &order).await,
                58..64 => other_body_under_the_key(&reach, number, &order).await,
                64..74 => cancel(&reach, number, &order).await,
                74..80 => retry(&reach, number, &order).await,
                80..90 => read(&reach, number, &order).await,
                90..93 => retry_dead_letters(&reach, number).await,
                _ => list(&reach, number).await,
            }
        }
    }

    /// Sends a new order of a kind that is drawn, once or twice at once.
    async fn order(client: &Rc<RefCell<Self>>, reach: &Reach) {
        let kind = reach.world.below(KINDS);
        Self::order_of_kind(client, reach, kind).await;
    }

    /// Sends a new order: named or not, with a key or not.
    pub async fn order_of_kind(client: &Rc<RefCell<Self>>, reach: &Reach, kind: u64) {
        let (number, count) = (client.borrow().number, client.borrow().orders.len());
        let user_id = format!("u{number}-{count}");
        let mut body =
            json!({ "user_id": user_id, "item_ids": [count, "x"], "total_amount": reach.world.below(1_000) + 1 });
        let (path, named, keyed) = match kind {
            0..5 => ("/v1/orders", true, false),
            5 => ("/api/v1/orders", true, false),
            6..8 => ("/v1/orders", false, true),
            8 => ("/orders", false, true),
            _ => ("/v1/orders", true, true),
        };
        if named {
            body["order_id"] = json!(format!("o{number}-{count}"));
        }
        let order = Order {
            path,
            key: keyed.then(|| format!("k{number}-{count}")),
            order_id: named.then(|| format!("o{number}-{count}")),
            answer: None,
            body,
        };
        let sent = Sent {
            content: content_of(&order.body),
            order_id: order.order_id.clone(),
            acknowledged: false,
            cancelled: false,
        };
        reach.ledger.borrow_mut().sent.insert(user_id, sent);
        client.borrow_mut().orders.push(order);
        if reach.world.chance(0.1) {
            tokio::join!(Self::send_again(client, reach, count), Self::send_again(client, reach, count));
        } else {
            Self::send_again(client, reach, count).await;
        }
    }

    /// Sends an order that may have been sent before: it is the same order.
    pub async fn send_again(client: &Rc<RefCell<Self>>, reach: &Reach, index: usize) {
        let (number, order) = (client.borrow().number, client.borrow().orders[index].clone());
        let answer = reach.send(number, Method::POST, order.path, order.key.as_deref(), Some(&order.body)).await;
        let Some(answer) = answer else { return };
        match answer.status {
            200..300 => {
                let mut client = client.borrow_mut();
                let known = &mut client.orders[index];
                if let (Some(first), Some(_)) = (&known.answer, &known.key) {
                    if *first != answer.body || (order.answer.is_some() && !answer.replayed) {
                        let now = String::from_utf8_lossy(&answer.body);
                        reach
                            .world
                            .violated(format!("key {:?} was answered otherwise the second time: {now}", known.key));
                    }
                    return;
                }
                let told = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
                if known.order_id.is_none() {
                    known.order_id = told["order_id"].as_str().map(str::to_owned);
                }
                known.answer = Some(answer.body);
                let mut ledger = reach.ledger.borrow_mut();
                let sent =
                    ledger.sent.get_mut(order.body["user_id"].as_str().expect("it has one")).expect("it was sent");
                sent.acknowledged = true;
                sent.order_id = known.order_id.clone();
            }
            // The same key at the same time.
            _ if order.key.is_some() && answer.is_in_flight() => {}
            status => reach.world.violated(format!("order {:?} was refused with {status}", order.order_id)),
        }
    }

    /// The number of the last order, for scripts.
    pub fn last(&self) -> Option<usize> {
        self.orders.len().checked_sub(1)
    }

    /// Cancels, for scripts.
    pub async fn cancel(client: &Rc<RefCell<Self>>, reach: &Reach, index: usize) {
        let (number, order) = (client.borrow().number, client.borrow().orders[index].clone());
        cancel(reach, number, &order).await;
    }

    /// Tries what must be refused: other content under a name, and under a key.
    pub async fn try_others(client: &Rc<RefCell<Self>>, reach: &Reach) {
        let (number, orders) = (client.borrow().number, client.borrow().orders.clone());
        for order in &orders {
            other_content(reach, number, order).await;
            other_body_under_the_key(reach, number, order).await;
        }
    }

    /// Has failed orders tried again, for scripts.
    pub async fn retry_dead_letters(client: &Rc<RefCell<Self>>, reach: &Reach) {
        let number = client.borrow().number;
        retry_dead_letters(reach, number).await;
    }

    /// Retries, for scripts.
    pub async fn retry(client: &Rc<RefCell<Self>>, reach: &Reach, index: usize) {
        let (number, order) = (client.borrow().number, client.borrow().orders[index].clone());
        retry(reach, number, &order).await;
    }

    /// Reads everything that there is to read of every order, for scripts and for the end.
    pub async fn read_all(client: &Rc<RefCell<Self>>, reach: &Reach) {
        let (number, orders) = (client.borrow().number, client.borrow().orders.clone());
        for order in &orders {
            read(reach, number, order).await;
        }
        list(reach, number).await;
    }

    /// Sends every order again whose acceptance was not heard of.
    pub async fn insist(client: &Rc<RefCell<Self>>, reach: &Reach) {
        let count = client.borrow().orders.len();
        for index in 0..count {
            if client.borrow().orders[index].answer.is_none() {
                Self::send_again(client, reach, index).await;
            }
        }
    }
}

async fn other_content(reach: &Reach, who: usize, order: &Order) {
    let (Some(_), Some(_), None) = (&order.answer, order.body.get("order_id"), &order.key) else { return };
    let mut body = order.body.clone();
    body["total_amount"] = json!(1_001);
    if let Some(answer) = reach.send(who, Method::POST, "/v1/orders", None, Some(&body)).await
        && answer.status != 409
    {
        reach.world.violated(format!("order {:?} with other content was answered {}", order.order_id, answer.status));
    }
}

async fn other_body_under_the_key(reach: &Reach, who: usize, order: &Order) {
    let (Some(_), Some(key)) = (&order.answer, &order.key) else { return };
    let mut body = order.body.clone();
    body["total_amount"] = json!(1_001);
    if let Some(answer) = reach.send(who, Method::POST, order.path, Some(key), Some(&body)).await
        && !(answer.status == 422 || answer.is_in_flight())
    {
        reach.world.violated(format!("key {key} with another body was answered {}", answer.status));
    }
}

/// Asks for `action` on the order, half the time under a key, whose first answer is the one for ever.
async fn act(reach: &Reach, who: usize, order: &Order, action: &str) -> Option<Answer> {
    let order_id = order.order_id.as_ref()?;
    let path = format!("/v1/orders/{order_id}/{action}");
    let key = reach.world.chance(0.5).then(|| format!("{action}-{order_id}"));
    let answer = reach.send(who, Method::POST, &path, key.as_deref(), None).await?;
    if let Some(key) = key.filter(|_| !answer.is_in_flight()) {
        let now = (answer.status, answer.body.clone());
        let mut ledger = reach.ledger.borrow_mut();
        let first = ledger.answers.entry(key.clone()).or_insert_with(|| now.clone());
        if *first != now {
            reach.world.violated(format!("key {key} was answered with {first:?}, then with {now:?}"));
        }
    }
    match answer.status {
        200 | 409 => {}
        404 if order.answer.is_none() || answer.replayed => {}
        status => reach.world.violated(format!("{path} was answered {status}")),
    }
    Some(answer)
}

async fn cancel(reach: &Reach, who: usize, order: &Order) {
    if act(reach, who, order, "cancel").await.is_some_and(|answer| answer.status == 200) {
        let user_id = order.body["user_id"].as_str().expect("it has one");
        reach.ledger.borrow_mut().sent.get_mut(user_id).expect("it was sent").cancelled = true;
    }
    (reach.checked)();
}

async fn retry(reach: &Reach, who: usize, order: &Order) {
    act(reach, who, order, "retry").await;
}

async fn read(reach: &Reach, who: usize, order: &Order) {
    let Some(order_id) = &order.order_id else { return };
    for what in ["", "/events", "/attempts"] {
        let path = format!("/v1/orders/{order_id}{what}");
        let Some(answer) = reach.send(who, Method::GET, &path, None, None).await else { continue };
        match answer.status {
            200 => {}
            404 if order.answer.is_none() => {}
            status => reach.world.violated(format!("reading the acknowledged order {order_id} was answered {status}")),
        }
    }
}

async fn list(reach: &Reach, who: usize) {
    for path in ["/v1/dead-letters", "/v1/metrics"] {
        if let Some(answer) = reach.send(who, Method::GET, path, None, None).await
            && answer.status != 200
        {
            reach.world.violated(format!("{path} was answered {}", answer.status));
        }
    }
}

async fn retry_dead_letters(reach: &Reach, who: usize) {
    reach.send(who, Method::POST, "/v1/dead-letters/retry", None, Some(&json!({ "limit": 2 }))).await;
}
