//! The PostgreSQL backend, on a server of this test's own.

use std::cell::Cell;

use order_core::postgres::{Connection, Pool, PostgresStore, Row, Value};
use order_core::store::{StoreError, conformance};
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
        futures_util::future::join_all(hosts).await;
        let pool = SchemaPool { config };
        let rows = pool.take().await.unwrap().execute("SELECT count(*) FROM schema_migrations", vec![]).await.unwrap();
        assert_eq!(rows, [[Value::Integer(order_core::postgres::SCHEMA_VERSION)]]);
    }
}
