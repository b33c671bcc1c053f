//! The native twin: the same rules, schema, durability and group commit as the service, by axum and rusqlite
//! without a Wasm runtime between them. What it does more per second is what the runtime costs.
//!
//! It has what is measured and no more: create, read, metrics, and a worker. There is no message to the worker, no
//! look at the backlog, no Idempotency-Key, and errors have no body.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as PathParameter, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use order_core::draft::{OrderIdField, Shape};
use order_core::intake;
use order_core::order::{NewOrder, Timestamp};
use order_core::sqlite::SqliteStore;
use order_core::test_doubles::RusqliteConnection;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;
use tokio::sync::oneshot;

use crate::database;
use crate::measure::BATCH;

const ORDER: Shape = Shape { order_id: OrderIdField::Optional, items_field: "item_ids" };

/// An order on its way to the writer, and whom to tell that it is durable.
struct Job {
    order: NewOrder,
    durable: oneshot::Sender<bool>,
}

#[derive(Clone)]
struct App {
    database: Arc<Path>,
    writer: mpsc::Sender<Job>,
}

/// Serves on `listen` until the process is killed.
pub async fn serve(listen: SocketAddr, database: PathBuf, with_worker: bool) -> Result<()> {
    drop(SqliteStore::open(RusqliteConnection(database::open(&database)?)).await?);
    let (writer, jobs) = mpsc::channel();
    let connection = database::open(&database)?;
    // As in the service's host, writers take turns instead of polling for SQLite's lock.
    let turn = Arc::new(Mutex::new(()));
    let writers_turn = turn.clone();
    std::thread::spawn(move || write(connection, &jobs, &writers_turn));
    if with_worker {
        let connection = database::open(&database)?;
        std::thread::spawn(move || {
            loop {
                let worked = {
                    let _turn = turn.lock().expect("no writer panics");
                    database::work_once(&connection, BATCH).expect("the database works")
                };
                if worked == 0 {
                    std::thread::sleep(Duration::from_millis(25));
                }
            }
        });
    }
    let app = Router::new()
        .route("/v1/orders", post(create))
        .route("/v1/orders/{order_id}", get(read))
        .route("/v1/metrics", get(metrics))
        .with_state(App { database: database.into(), writer });
    let listener = tokio::net::TcpListener::bind(listen).await?.tap_io(|stream| _ = stream.set_nodelay(true));
    axum::serve(listener, app).await?;
    Ok(())
}

/// Group commit: everything that has come while the last transaction was synced is the next one.
fn write(mut connection: Connection, jobs: &mpsc::Receiver<Job>, turn: &Mutex<()>) {
    while let Ok(first) = jobs.recv() {
        let _turn = turn.lock().expect("no writer panics");
        let group: Vec<Job> = std::iter::once(first).chain(jobs.try_iter()).collect();
        let written = insert(&mut connection, &group);
        for (index, job) in group.into_iter().enumerate() {
            let _ = job.durable.send(written.as_ref().is_ok_and(|created| created[index]));
        }
    }
}

fn insert(connection: &mut Connection, group: &[Job]) -> rusqlite::Result<Vec<bool>> {
    let transaction = connection.transaction()?;
    let now = database::now();
    let mut created = Vec::with_capacity(group.len());
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO orders (seq, owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency,
                                 status, created_at, changed_at, due_at)
             VALUES ((SELECT number FROM last_event) + 1, '', ?1, ?2, ?3, ?4, ?5, ?6, ?7, 'Pending', ?8, ?8, ?8)
             ON CONFLICT (owner, order_id) DO NOTHING",
        )?;
        for Job { order, .. } in group {
            let rows = insert.execute(params![
                order.order_id.as_str(),
                order.order_id.is_integer(),
                order.user_id.as_str(),
                order.user_id.is_integer(),
                order.item_ids.as_json(),
                order.total_amount.minor(),
                order.currency.as_str(),
                now,
            ])?;
            created.push(rows == 1);
        }
    }
    transaction.commit()?;
    Ok(created)
}

async fn create(State(app): State<App>, body: Bytes) -> Response {
    let new_id = || intake::new_order_id(Timestamp::from_millis(database::now()), rand::random());
    let Ok(order) = ORDER.parse(&body, new_id) else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    let told = json!({
        "order_id": order.order_id, "user_id": order.user_id, "item_ids": order.item_ids, "total_amount": order.total_amount,
        "currency": order.currency, "status": "Pending", "attempts": 0,
        "created_at": Timestamp::from_millis(database::now()).to_rfc3339(), "started_at": null, "completed_at": null,
        "failure": null,
    });
    let (durable, is_durable) = oneshot::channel();
    if app.writer.send(Job { order, durable }).is_err() || !is_durable.await.unwrap_or(false) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    (StatusCode::ACCEPTED, axum::Json(told)).into_response()
}

thread_local! {
    /// Each thread of the server reads by a connection of its own.
    static READING: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

fn reading<T>(app: &App, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    READING.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(database::open(&app.database)?);
        }
        read(slot.as_ref().expect("it is there"))
    })
}

async fn read(State(app): State<App>, PathParameter(order_id): PathParameter<String>) -> Response {
    let order = reading(&app, |connection| {
        let mut select = connection.prepare_cached(
            "SELECT user_id, item_ids, total_amount, currency, status, attempts, created_at, started_at, finished_at, failure
             FROM orders WHERE owner = '' AND order_id = ?1",
        )?;
        let order = select.query_row([&order_id], |row| {
            let items: String = row.get(1)?;
            let time = |millis: Option<i64>| millis.map(|millis| Timestamp::from_millis(millis).to_rfc3339());
            Ok(json!({
                "order_id": order_id, "user_id": row.get::<_, String>(0)?,
                "item_ids": serde_json::from_str::<Vec<String>>(&items).unwrap_or_default(),
                "total_amount": row.get::<_, i64>(2)?, "currency": row.get::<_, String>(3)?,
                "status": row.get::<_, String>(4)?, "attempts": row.get::<_, i64>(5)?,
                "created_at": time(row.get(6)?), "started_at": time(row.get(7)?), "completed_at": time(row.get(8)?),
                "failure": row.get::<_, Option<String>>(9)?,
            }))
        });
        order.optional()
    });
    match order {
        Ok(Some(order)) => axum::Json(order).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn metrics(State(app): State<App>) -> Response {
    match reading(&app, database::counters) {
        Ok([total, pending, processing, completed]) => axum::Json(json!({
            "total_orders": total,
            "orders_by_status": { "Pending": pending, "Processing": processing, "Completed": completed },
        }))
        .into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
