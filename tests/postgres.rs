//! The PostgreSQL backend, on a server of this test's own.

use std::cell::Cell;

use futures_util::future::join_all;
use order_core::order::{Amount, Currency, Id, NewOrder, Timestamp};
use order_core::postgres::{Connection, Pool, PostgresStore, Row, Value};
use order_core::principal::{NOBODY, Owner, Principal};
use order_core::store::{
    Acceptance, Change, Claims as _, Due, Idempotency as _, IdempotencyRecord, Orders as _, RequestKey, Settlement,
    Store as _, StoreError, Submission, conformance,
};
use system::postgres_server::Server;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};

/// Connections to one schema of the server, each of its own.
struct SchemaPool {
    config: Config,
}

struct TestConnection(Client);

impl Pool for SchemaPool {
    type Connection = TestConnection;

    async fn take(&self) -> Result<TestConnection, StoreError> {
        let (client, connection) = self.config.connect(NoTls).await.map_err(store_error)?;
        tokio::spawn(connection);
        Ok(TestConnection(client))
    }
}

impl Connection for TestConnection {
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Sync>> = parameters.into_iter().map(to_sql).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(AsRef::as_ref).collect();
        let rows = self.0.query(sql, &parameters).await.map_err(store_error)?;
        let value = |row: &tokio_postgres::Row, column: usize| match *row.columns()[column].type_() {
            Type::INT8 => row.get::<_, Option<i64>>(column).map_or(Value::Null, Value::Integer),
            Type::TEXT => row.get::<_, Option<String>>(column).map_or(Value::Null, Value::Text),
            ref other => panic!("no statement answers {other}: {sql}"),
        };
        Ok(rows.iter().map(|row| (0..row.len()).map(|column| value(row, column)).collect()).collect())
    }
}

fn to_sql(value: Value) -> Box<dyn ToSql + Sync> {
    match value {
        Value::Null => Box::new(None::<String>),
        Value::Integer(integer) => Box::new(integer),
        Value::Text(text) => Box::new(text),
        Value::Integers(integers) => Box::new(integers),
        Value::Texts(texts) => Box::new(texts),
    }
}

fn store_error(error: tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        Some(error) => StoreError::from_sqlstate(error.code().code(), error.message()),
        None => StoreError::Unavailable(error.to_string()),
    }
}

/// New, empty schemas of a server, in which databases are played.
struct Schemas {
    server: Server,
    made: Cell<u32>,
}

impl Schemas {
    async fn new() -> Option<Self> {
        let server = Server::start()?;
        server.ready().await;
        Some(Self { server, made: Cell::new(0) })
    }

    async fn next(&self) -> Config {
        self.made.set(self.made.get() + 1);
        let schema = format!("case{}", self.made.get());
        let (client, connection) = self.server.config().connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
        let mut config = self.server.config();
        config.options(format!("-c search_path={schema}"));
        config
    }
}

async fn open(config: &Config, random: u64) -> PostgresStore<SchemaPool> {
    PostgresStore::open(SchemaPool { config: config.clone() }, random).await.unwrap()
}

#[tokio::test]
async fn passes_the_conformance_suite() {
    let Some(schemas) = Schemas::new().await else { return };
    conformance::run(async || {
        let config = schemas.next().await;
        [open(&config, 1).await, open(&config, 2).await]
    })
    .await;
}

#[tokio::test]
async fn ten_hosts_that_start_at_once_migrate_once() {
    let Some(schemas) = Schemas::new().await else { return };
    for _ in 0..5 {
        let config = schemas.next().await;
        let hosts: Vec<_> = (0..10).map(|host| open(&config, host)).collect();
        join_all(hosts).await;
        let pool = SchemaPool { config };
        let rows = pool.take().await.unwrap().execute("SELECT count(*) FROM schema_migrations", vec![]).await.unwrap();
        assert_eq!(rows, [[Value::Integer(order_core::postgres::SCHEMA_VERSION)]]);
    }
}

fn order(name: &str) -> NewOrder {
    NewOrder {
        order_id: Id::from_text(name).unwrap(),
        user_id: Id::from_integer(7),
        item_ids: [Id::from_text("book").unwrap()].into_iter().collect(),
        total_amount: Amount::from_minor(100).unwrap(),
        currency: Currency::default(),
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

async fn query(config: &Config, sql: &str) -> Vec<Row> {
    SchemaPool { config: config.clone() }.take().await.unwrap().execute(sql, vec![]).await.unwrap()
}

/// The counters are what the rows say, every event is the next of its order, and numbers are given once.
async fn assert_consistent(config: &Config) {
    let counted = "SELECT json_build_array(sum(total), sum(pending), sum(processing), sum(completed), sum(failed), sum(cancelled))::text
                   FROM order_counters WHERE owner = ''";
    let rows = "SELECT json_build_array(count(*), count(*) FILTER (WHERE status = 'Pending'),
                       count(*) FILTER (WHERE status = 'Processing'), count(*) FILTER (WHERE status = 'Completed'),
                       count(*) FILTER (WHERE status = 'Failed'), count(*) FILTER (WHERE status = 'Cancelled'))::text FROM orders";
    assert_eq!(query(config, counted).await, query(config, rows).await);
    let twice = "SELECT number FROM (SELECT number FROM orders UNION ALL SELECT number FROM order_events) AS given
                 GROUP BY number HAVING count(*) > 1";
    assert_eq!(query(config, twice).await, Vec::<Row>::new());
    let before_creation = "SELECT o.number FROM orders o JOIN order_events e ON e.order_number = o.number
                           WHERE e.number <= o.number OR e.number > o.last_number";
    assert_eq!(query(config, before_creation).await, Vec::<Row>::new());
    let last_event = "SELECT o.number FROM orders o
                      LEFT JOIN LATERAL (SELECT status FROM order_events e WHERE e.order_number = o.number
                                         ORDER BY number DESC LIMIT 1) AS last ON true
                      WHERE coalesce(last.status, 'Pending') <> o.status";
    assert_eq!(query(config, last_event).await, Vec::<Row>::new());
}

#[tokio::test]
async fn hosts_that_are_sent_the_same_orders_at_once_take_each_in_once() {
    const HOSTS: u64 = 8;
    const BATCHES: usize = 20;
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    open(&config, 0).await;
    let owners = [NOBODY.clone(), Owner::parse("shop").unwrap()];
    let host = async |number: u64| {
        let store = open(&config, number).await;
        let mut created = 0;
        for batch in 0..BATCHES {
            // The same orders from each host, each time in another order.
            let mut orders: Vec<_> = (0..20).map(|index| order(&format!("o{batch}-{index}"))).collect();
            orders.rotate_left((number as usize * 7 + batch) % 20);
            let submissions: Vec<_> = orders
                .iter()
                .enumerate()
                .map(|(index, order)| Submission { owner: &owners[(batch + index) % 2], order })
                .collect();
            let accepted = store.accept(&submissions, at(1), at(2)).await.unwrap();
            assert_eq!(accepted.len(), orders.len());
            for acceptance in accepted {
                match acceptance {
                    Acceptance::Created(_) => created += 1,
                    Acceptance::Existing(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        created
    };
    let created: i64 = join_all((0..HOSTS).map(host)).await.into_iter().sum();
    assert_eq!(query(&config, "SELECT count(*) FROM orders").await, [[Value::Integer(created)]]);
    assert_consistent(&config).await;
}

#[tokio::test]
async fn workers_share_what_is_due_and_process_each_order_once() {
    const ORDERS: usize = 300;
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    let store = open(&config, 0).await;
    let orders: Vec<_> = (0..ORDERS).map(|number| order(&format!("o{number}"))).collect();
    let submissions: Vec<_> = orders.iter().map(|order| Submission { owner: &NOBODY, order }).collect();
    store.accept(&submissions, at(1), at(1)).await.unwrap();
    let worker = async |number: u64| {
        let store = open(&config, number).await;
        let mut done = 0;
        loop {
            let claims = store.claim_due(Due::Unannounced, at(10), at(10_000), 7).await.unwrap();
            if claims.is_empty() {
                return done;
            }
            assert!(claims.iter().all(|claim| claim.attempt == 1));
            let settlements: Vec<_> = claims.iter().map(|claim| (claim, Settlement::Complete)).collect();
            done += store.settle(&settlements, at(20)).await.unwrap();
        }
    };
    let cancels = async {
        let store = open(&config, 99).await;
        let mut cancelled = 0;
        for order in orders.iter().rev() {
            let change = store.cancel(&NOBODY, order.order_id.as_str(), at(15)).await.unwrap();
            cancelled += usize::from(matches!(change, Change::Done(_)));
        }
        cancelled
    };
    let (done, cancelled) = tokio::join!(join_all((1..6).map(worker)), cancels);
    assert_eq!(done.iter().sum::<usize>() + cancelled, ORDERS);
    let busy = done.iter().filter(|done| **done > 0).count();
    assert!(busy > 1, "one worker did it all: {done:?}");
    assert_consistent(&config).await;
    let attempts = "SELECT count(*) FROM order_attempts WHERE number = 1 AND outcome = 'Completed'";
    assert_eq!(query(&config, attempts).await, [[Value::Integer(done.iter().sum::<usize>() as i64)]]);
}

#[tokio::test]
async fn two_hosts_that_answer_one_key_at_once_do_what_it_asks_once() {
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    let [one, other] = [open(&config, 1).await, open(&config, 2).await];
    let key = RequestKey { principal: Principal::default(), key: "k".to_owned() };
    let record = |body: &str| IdempotencyRecord {
        fingerprint: "f".to_owned(),
        status: 202,
        location: None,
        body: body.to_owned(),
    };
    let first = one.begin().await.unwrap();
    let second = other.begin().await.unwrap();
    for (transaction, name) in [(&first, "a"), (&second, "b")] {
        assert_eq!(transaction.writes().records(std::slice::from_ref(&key), at(0)).await.unwrap(), [None]);
        let order = order(name);
        transaction.writes().accept(&[Submission { owner: &NOBODY, order: &order }], at(1), at(2)).await.unwrap();
    }
    first.writes().keep(&[(key.clone(), record("a"))], at(1)).await.unwrap();
    let (kept, committed) = {
        let waits = [(key.clone(), record("b"))];
        let second_keeps = second.writes().keep(&waits, at(1));
        tokio::join!(second_keeps, async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            first.commit().await
        })
    };
    assert_eq!((kept, committed), (Err(StoreError::Conflict), Ok(())));
    second.roll_back().await.unwrap();
    assert_eq!(other.records(&[key], at(0)).await.unwrap(), [Some(record("a"))]);
    assert_eq!(query(&config, "SELECT order_id FROM orders").await, [[Value::Text("a".to_owned())]]);
    assert_consistent(&config).await;
}

#[tokio::test]
async fn a_reader_that_stops_at_the_oldest_transaction_misses_nothing() {
    const WRITERS: u64 = 6;
    const ROUNDS: u64 = 25;
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    open(&config, 0).await;
    let writer = async |number: u64| {
        let store = open(&config, number).await;
        for round in 0..ROUNDS {
            let transaction = store.begin().await.unwrap();
            let writes = transaction.writes();
            let order = order(&format!("o{number}-{round}"));
            writes.accept(&[Submission { owner: &NOBODY, order: &order }], at(1), at(2)).await.unwrap();
            // Others begin later and commit before.
            tokio::time::sleep(std::time::Duration::from_millis((number * 3 + round) % 7)).await;
            // And change what this one changes afterwards: an earlier writer's order of the round before.
            if round > 0 {
                let others = format!("o{}-{}", (number + 1) % WRITERS, round - 1);
                let _ = writes.cancel(&NOBODY, &others, at(3)).await.unwrap();
            }
            transaction.commit().await.unwrap();
        }
    };
    let is_over = Cell::new(false);
    let reader = async {
        let (mut read, mut last) = (Vec::new(), 0);
        loop {
            let is_last = is_over.get();
            let sql = format!(
                "SELECT number FROM (SELECT number FROM orders UNION ALL SELECT number FROM order_events) AS given
                 WHERE number > {last} AND number < pg_snapshot_xmin(pg_current_snapshot())::text::int8 << 20 ORDER BY number"
            );
            for row in query(&config, &sql).await {
                let [Value::Integer(number)] = row[..] else { panic!("{row:?}") };
                read.push(number);
                last = number;
            }
            if is_last {
                return read;
            }
        }
    };
    let writers = async {
        join_all((0..WRITERS).map(writer)).await;
        is_over.set(true);
    };
    let (read, ()) = tokio::join!(reader, writers);
    assert_consistent(&config).await;
    let given = "SELECT number FROM (SELECT number FROM orders UNION ALL SELECT number FROM order_events) AS given ORDER BY number";
    let given: Vec<Row> = query(&config, given).await;
    assert_eq!(read.into_iter().map(|number| vec![Value::Integer(number)]).collect::<Vec<_>>(), given);
}

#[tokio::test]
async fn a_change_by_an_earlier_transaction_comes_behind_what_it_changes() {
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    let [one, other] = [open(&config, 1).await, open(&config, 2).await];
    let [early, late] = [order("early"), order("late")];
    let transaction = one.begin().await.unwrap();
    transaction.writes().accept(&[Submission { owner: &NOBODY, order: &early }], at(1), at(2)).await.unwrap();
    other.accept(&[Submission { owner: &NOBODY, order: &late }], at(1), at(2)).await.unwrap();
    assert!(matches!(transaction.writes().cancel(&NOBODY, "late", at(3)).await.unwrap(), Change::Done(_)));
    transaction.commit().await.unwrap();
    let inverted = "SELECT e.number FROM order_events e JOIN orders o ON o.number = e.order_number
                    WHERE e.number >> 20 <> e.xmin::text::int8";
    assert_eq!(query(&config, inverted).await.len(), 1, "its transaction's own numbers are lower");
    assert_consistent(&config).await;
}

#[tokio::test]
async fn a_database_that_was_moved_to_another_cluster_goes_on_behind_its_numbers() {
    let Some(schemas) = Schemas::new().await else { return };
    let config = schemas.next().await;
    let store = open(&config, 0).await;
    let accept = async |store: &PostgresStore<SchemaPool>, name: &str| {
        let order = order(name);
        let accepted = store.accept(&[Submission { owner: &NOBODY, order: &order }], at(1), at(2)).await.unwrap();
        let [Acceptance::Created(created)] = &accepted[..] else { panic!("{accepted:?}") };
        created.number.0
    };
    accept(&store, "a").await;
    // As if this cluster's transactions counted from far below those of the one that the rows came from.
    query(&config, "UPDATE orders SET number = number + (1::int8 << 40), last_number = last_number + (1::int8 << 40)")
        .await;
    let [row] = &query(&config, "SELECT number FROM orders").await[..] else { panic!("one order") };
    let [Value::Integer(highest)] = row[..] else { panic!("{row:?}") };
    let [one, other] = [open(&config, 1).await, open(&config, 2).await];
    let b = accept(&one, "b").await;
    let c = accept(&other, "c").await;
    assert!(highest < b && b < c, "{highest} {b} {c}");
}
