//! `spin:sqlite`, as Spin's in-process backend has it: each `open` is a new connection without pragmas of the
//! host's (rollback journal and synchronous=FULL until the guest asks for something else, a busy timeout of
//! 5 s, foreign keys on), 16 statements are cached with it, of several statements in one `execute` the first
//! runs, and dropping the connection rolls its transaction back.
//!
//! Where connections meet, this host is kinder than SQLite: writers queue, see [`write_queue`].

mod write_queue;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use wasmtime::Result;
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, ResourceTable, StreamReader};

use crate::hook::CallKind;
use crate::host_calls::HostCalls;
use write_queue::{WritePermit, WriteQueue};

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/sqlite",
        imports: { default: async | trappable },
        with: { "spin:sqlite/sqlite.connection": super::Connection },
    });
}

use bindings::spin::sqlite3_1_0::sqlite::{self as wit, Error, QueryResult, RowResult, Value};

/// The databases that a component may open.
#[derive(Clone)]
pub struct Access {
    /// Carries its calls out.
    pub calls: Arc<HostCalls>,
    /// What is behind the label `default`, where it is granted.
    pub default: Option<Arc<Database>>,
}

/// An instance's access, and where its open connections are kept.
pub struct View<'a> {
    /// What it may open.
    pub access: &'a Access,
    /// Its resources.
    pub table: &'a mut ResourceTable,
}

/// Links the interface for stores that have such a view.
pub fn add_to_linker<T: Send>(linker: &mut Linker<T>, view: fn(&mut T) -> View<'_>) -> Result<()> {
    bindings::Sqlite::add_to_linker::<_, Sqlite>(linker, view)
}

struct Sqlite;

impl HasData for Sqlite {
    type Data<'a> = View<'a>;
}

/// How long a connection waits to write: SQLite's busy timeout, as Spin and rusqlite set it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may keep the thread of its caller: as long as a guest that computes.
const LOOKUP_TIME: Duration = Duration::from_millis(10);
/// How many steps of SQLite's virtual machine pass from one look at a statement's limit to the next: well under a
/// millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// How many statements are remembered; components have a few dozen.
const MAX_STATEMENTS: usize = 1_000;

/// A database file, and the queue of those who write to it.
///
/// What holds in the end is SQLite's lock, which other processes share.
pub struct Database {
    path: PathBuf,
    write_queue: Arc<WriteQueue>,
    /// Whether a statement only reads, for those that were looked at.
    only_reads: Mutex<HashMap<String, bool>>,
}

impl Database {
    /// The database in the file at `path`.
    pub fn new(path: PathBuf, single_threaded: bool) -> Self {
        Self { path, write_queue: WriteQueue::new(single_threaded), only_reads: Mutex::default() }
    }
}

/// An open connection.
#[derive(Clone)]
pub struct Connection(Arc<Opened>);

struct Opened {
    sqlite: Mutex<rusqlite::Connection>,
    /// Its write permit, while a transaction is open. (It is released after the connection, which is dropped first.)
    /// Whoever has this locked may run a statement: one at a time, in the order in which they come, because whether a
    /// statement has the permit depends on what the one before it left open.
    permit: Arc<tokio::sync::Mutex<Option<WritePermit>>>,
    database: Arc<Database>,
}

impl Connection {
    async fn open(access: &Access, label: &str) -> Result<Result<Self, Error>> {
        let Some(database) = access.default.clone().filter(|_| label == "default") else {
            return Ok(Err(Error::AccessDenied));
        };
        let work = access.calls.run_blocking(move || connect(database).map_err(io));
        access.calls.carry_out(CallKind::SqliteOpen, label, Error::Io, work).await
    }

    /// Runs a statement. One that only reads runs on the caller's thread when it `may_block` it: a lookup takes
    /// less time than handing it to another thread and back. One that takes longer begins anew on another thread.
    ///
    /// Dropping the future interrupts the statement, so that one that never ends keeps neither thread nor permit.
    async fn execute(
        &self,
        calls: &HostCalls,
        sql: String,
        parameters: Vec<Value>,
        may_block: bool,
    ) -> Result<Result<QueryResult, Error>> {
        let sql = calls.rewrite(sql);
        let work = async {
            let mut held = self.0.permit.clone().lock_owned().await;
            // To SQLite, a statement that ends a transaction only reads; it takes as long as the commit does.
            let has_permit = held.is_some();
            let only_reads = !has_permit && self.only_reads(calls, &sql).await;
            if only_reads && may_block {
                match self.0.query(&sql, &parameters, &mut held, on_this_thread(calls)).0 {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
                    done => return done.map_err(io),
                }
            }
            let caller = Caller::default();
            let limit = Limit::Caller(caller.0.clone());
            let (opened, sql, queue) = (self.0.clone(), sql.clone(), &self.0.database.write_queue);
            let outcome = match has_permit || only_reads {
                true => queue.run_now(move || opened.query(&sql, &parameters, &mut held, limit)).await,
                false => {
                    let run = move |permit| {
                        *held = Some(permit);
                        opened.query(&sql, &parameters, &mut held, limit)
                    };
                    queue.run_with_permit(BUSY_TIMEOUT, run).await
                }
            };
            outcome.map_or_else(|not_run| Err(Error::Io(not_run.to_string())), |done| done.map_err(io))
        };
        calls.carry_out(CallKind::SqliteExecute, &sql, Error::Io, work).await
    }

    async fn only_reads(&self, calls: &HostCalls, sql: &str) -> bool {
        let known = self.0.database.only_reads.lock().expect("no access panics").get(sql).copied();
        if let Some(known) = known {
            return known;
        }
        let (opened, sql) = (self.0.clone(), sql.to_owned());
        let look = move || {
            let sqlite = opened.sqlite.lock().expect("no query panics");
            // Several statements, for instance; what cannot be prepared is not worth remembering.
            let Ok(statement) = sqlite.prepare_cached(&sql) else { return false };
            let only_reads = statement.readonly();
            let mut known = opened.database.only_reads.lock().expect("no access panics");
            if known.len() < MAX_STATEMENTS {
                known.insert(sql, only_reads);
            }
            only_reads
        };
        calls.run_blocking(look).await
    }
}

/// When a statement that runs is to be interrupted.
enum Limit {
    /// Never.
    None,
    /// At this time.
    Time(Instant),
    /// When whoever asked for it is gone: its instance was dropped, after its time-out for instance.
    Caller(Arc<AtomicBool>),
}

impl Limit {
    fn is_over(&self) -> bool {
        match self {
            Self::None => false,
            Self::Time(end) => Instant::now() >= *end,
            Self::Caller(is_gone) => is_gone.load(Ordering::Relaxed),
        }
    }
}

/// How long a statement may run on the thread of its caller; in a run that is replayed, real time decides nothing.
fn on_this_thread(calls: &HostCalls) -> Limit {
    match calls.single_threaded() {
        true => Limit::None,
        false => Limit::Time(Instant::now() + LOOKUP_TIME),
    }
}

/// Whoever waits for a statement. It notes when this is dropped.
#[derive(Default)]
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Opened {
    /// Runs a statement with the permit that is `held`, if any. Returns the permit unless a transaction is open,
    /// which keeps it.
    fn query(
        &self,
        sql: &str,
        parameters: &[Value],
        held: &mut Option<WritePermit>,
        limit: Limit,
    ) -> (rusqlite::Result<QueryResult>, Option<WritePermit>) {
        let mut sqlite = self.sqlite.lock().expect("no query panics");
        // Should this panic, the permit is released too.
        let permit = held.take();
        let limited = sqlite.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || limit.is_over()));
        let outcome = limited.and_then(|()| query(&sqlite, sql, parameters));
        if sqlite.is_autocommit() {
            return (outcome, permit);
        }
        *held = permit;
        (outcome, None)
    }
}

fn io(error: rusqlite::Error) -> Error {
    Error::Io(error.to_string())
}

fn connect(database: Arc<Database>) -> rusqlite::Result<Connection> {
    let mut sqlite = rusqlite::Connection::open(&database.path)?;
    sqlite.busy_timeout(BUSY_TIMEOUT)?;
    sqlite.authorizer(Some(|context: AuthContext<'_>| authorize(&context.action)))?;
    Ok(Connection(Arc::new(Opened { sqlite: Mutex::new(sqlite), permit: Arc::default(), database })))
}

/// Keeps statements to the database's own file.
///
/// As on Spin (its PR #3503), `ATTACH` may name a temporary database or one in memory, and no file. `VACUUM INTO` attaches
/// its target and is refused the same way. Beyond Spin, a name that is not a literal is refused, since the authorizer
/// does not learn it, and so is moving temporary files to another folder. (`load_extension` is off in SQLite itself.)
fn authorize(action: &AuthAction<'_>) -> Authorization {
    match action {
        AuthAction::Attach { filename: "" | ":memory:" } => Authorization::Allow,
        AuthAction::Attach { .. } | AuthAction::Unknown { code: rusqlite::ffi::SQLITE_ATTACH, .. } => {
            Authorization::Deny
        }
        AuthAction::Pragma { pragma_name, .. } if is_folder_pragma(pragma_name) => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

fn is_folder_pragma(name: &str) -> bool {
    ["temp_store_directory", "data_store_directory"].iter().any(|pragma| name.eq_ignore_ascii_case(pragma))
}

fn query(connection: &rusqlite::Connection, sql: &str, parameters: &[Value]) -> rusqlite::Result<QueryResult> {
    match connection.prepare_cached(sql) {
        Ok(mut statement) => rows(&mut statement, parameters),
        Err(rusqlite::Error::MultipleStatement) => {
            tracing::warn!("only the first statement runs, as on Spin: {sql}");
            match rusqlite::Batch::new(connection, sql).next()? {
                Some(mut first) => rows(&mut first, parameters),
                None => Ok(QueryResult { columns: Vec::new(), rows: Vec::new() }),
            }
        }
        Err(error) => Err(error),
    }
}

fn rows(statement: &mut rusqlite::Statement<'_>, parameters: &[Value]) -> rusqlite::Result<QueryResult> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut result = Vec::new();
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|column| row.get_ref(column).map(value)).collect::<Result<_, _>>()?;
        result.push(RowResult { values });
    }
    Ok(QueryResult { columns, rows: result })
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

impl wit::Host for View<'_> {}

impl View<'_> {
    fn connection(&self, resource: &Resource<Connection>) -> Result<Connection> {
        Ok(self.table.get(resource)?.clone())
    }
}

impl wit::HostConnection for View<'_> {
    async fn open(&mut self, database: String) -> Result<Result<Resource<Connection>, Error>> {
        match Connection::open(self.access, &database).await? {
            Ok(connection) => Ok(Ok(self.table.push(connection)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<QueryResult, Error>> {
        self.connection(&connection)?.execute(&self.access.calls, statement, parameters, true).await
    }

    async fn last_insert_rowid(&mut self, connection: Resource<Connection>) -> Result<i64> {
        Ok(self.connection(&connection)?.last_insert_rowid())
    }

    async fn changes(&mut self, connection: Resource<Connection>) -> Result<u64> {
        Ok(self.connection(&connection)?.changes())
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl Connection {
    fn last_insert_rowid(&self) -> i64 {
        self.0.sqlite.lock().expect("no query panics").last_insert_rowid()
    }

    fn changes(&self) -> u64 {
        self.0.sqlite.lock().expect("no query panics").changes()
    }
}

type Rows = (Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>);

impl<T: Send> wit::HostConnectionWithStore<T> for Sqlite {
    async fn open_async(accessor: &Accessor<T, Self>, database: String) -> Result<Result<Resource<Connection>, Error>> {
        let access = accessor.with(|mut access| access.get().access.clone());
        match Connection::open(&access, &database).await? {
            Ok(connection) => accessor.with(|mut access| Ok(Ok(access.get().table.push(connection)?))),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<Result<Rows, Error>> {
        let (calls, connection) = accessor.with(|mut access| {
            let view = access.get();
            wasmtime::error::Ok((view.access.calls.clone(), view.connection(&connection)?))
        })?;
        // As on Spin, an error of the statement comes at the end of the rows.
        let (columns, rows, end) = match connection.execute(&calls, statement, parameters, false).await? {
            Ok(result) => (result.columns, result.rows, Ok(())),
            Err(error) => (Vec::new(), Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, rows)?;
            let end = FutureReader::new(&mut access, async move { wasmtime::error::Ok(end) })?;
            Ok(Ok((columns, rows, end)))
        })
    }

    async fn last_insert_rowid_async(accessor: &Accessor<T, Self>, connection: Resource<Connection>) -> Result<i64> {
        accessor.with(|mut access| Ok(access.get().connection(&connection)?.last_insert_rowid()))
    }

    async fn changes_async(accessor: &Accessor<T, Self>, connection: Resource<Connection>) -> Result<u64> {
        accessor.with(|mut access| Ok(access.get().connection(&connection)?.changes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_have_the_settings_that_spins_have() {
        let folder = tempfile::tempdir().unwrap();
        let connection = connect(Arc::new(Database::new(folder.path().join("x.db"), false))).unwrap();
        let connection = connection.0.sqlite.lock().unwrap();
        let pragma = |name: &str| query(&connection, &format!("PRAGMA {name}"), &[]).unwrap().rows[0].values[0].clone();
        assert!(matches!(pragma("journal_mode"), Value::Text(mode) if mode == "delete"));
        assert!(matches!(pragma("synchronous"), Value::Integer(2)));
        assert!(matches!(pragma("foreign_keys"), Value::Integer(1)));
        assert!(matches!(pragma("busy_timeout"), Value::Integer(5_000)));
    }

    #[test]
    fn statements_reach_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let connection = connect(Arc::new(Database::new(folder.path().join("x.db"), false))).unwrap();
        let connection = connection.0.sqlite.lock().unwrap();
        let run = |sql: &str, parameters: &[Value]| query(&connection, sql, parameters).map(drop);
        run("CREATE TABLE a (x)", &[]).unwrap();
        let other = folder.path().join("other.db").to_str().unwrap().to_owned();
        rusqlite::Connection::open(folder.path().join("there.db"))
            .unwrap()
            .execute_batch("CREATE TABLE b (x)")
            .unwrap();
        let there = folder.path().join("there.db").to_str().unwrap().to_owned();
        let folder_name = folder.path().to_str().unwrap();
        for sql in [
            format!("ATTACH '{other}' AS other"),
            format!("ATTACH '{there}' AS other"),
            format!("ATTACH 'file:{there}?mode=ro' AS other"),
            format!("ATTACH '{there}' || '' AS other"),
            format!("ATTACH (SELECT '{there}') AS other"),
            format!("VACUUM INTO '{other}'"),
            format!("VACUUM INTO 'file:{other}'"),
            format!("VACUUM INTO '{other}' || ''"),
            format!("PRAGMA temp_store_directory = '{folder_name}'"),
            format!("PRAGMA Data_Store_Directory = '{folder_name}'"),
            format!("SELECT load_extension('{other}')"),
            format!("SELECT writefile('{other}', 'x')"),
            format!("SELECT readfile('{there}')"),
            format!("CREATE VIRTUAL TABLE c USING csv(filename = '{there}')"),
        ] {
            assert!(run(&sql, &[]).is_err(), "{sql}");
        }
        for sql in ["ATTACH ?1 AS other", "VACUUM INTO ?1"] {
            assert!(run(sql, &[Value::Text(other.clone())]).is_err(), "{sql}");
        }
        assert!(!std::fs::exists(&other).unwrap());
        assert!(query(&connection, "SELECT * FROM other.b", &[]).is_err());
        // What stays inside is allowed.
        for sql in ["VACUUM", "ATTACH ':memory:' AS memory", "ATTACH '' AS temporary", "CREATE TEMP TABLE d (x)"] {
            run(sql, &[]).unwrap();
        }
        // With the schema writable, it is still the schema of this file.
        run("PRAGMA writable_schema = ON", &[]).unwrap();
        run("INSERT INTO sqlite_schema VALUES ('table', 'e', 'e', 0, 'CREATE VIRTUAL TABLE e USING csv(x)')", &[])
            .unwrap();
        assert!(query(&connection, "SELECT * FROM e", &[]).is_err());
    }

    #[test]
    fn the_first_of_several_statements_runs() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        query(&connection, "CREATE TABLE a (x); CREATE TABLE b (x)", &[]).unwrap();
        let tables = query(&connection, "SELECT name FROM sqlite_schema", &[]).unwrap();
        assert_eq!(tables.rows.len(), 1);
    }

    #[tokio::test]
    async fn a_statement_that_never_ends_stops_nobody_and_ends_with_its_caller() {
        const ENDLESS: &str = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)";
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::new(folder.path().join("x.db"), false));
        let [one, other] = [(); 2].map(|()| connect(database.clone()).unwrap());
        let calls = HostCalls::new("test".to_owned(), None, false);
        let run = async |connection: &Connection, sql: &str, may_block: bool| {
            connection.execute(&calls, sql.to_owned(), Vec::new(), may_block).await.unwrap().map(drop)
        };
        run(&other, "CREATE TABLE a (x)", true).await.unwrap();
        for may_block in [true, false] {
            for sql in [format!("{ENDLESS} SELECT count(*) FROM n"), format!("INSERT INTO a {ENDLESS} SELECT x FROM n")]
            {
                // The timer is on this thread too.
                let cut_off = tokio::time::timeout(Duration::from_millis(50), run(&one, &sql, may_block)).await;
                assert!(cut_off.is_err(), "{sql}");
                run(&other, "DELETE FROM a", may_block).await.unwrap();
                run(&one, "SELECT * FROM a", may_block).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_transaction_keeps_the_write_permit_until_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::new(folder.path().join("x.db"), false));
        let [one, other, reader] = [(); 3].map(|()| connect(database.clone()).unwrap());
        let calls = HostCalls::new("test".to_owned(), None, false);
        let run = async |connection: &Connection, sql: &str, may_block: bool| {
            connection.execute(&calls, sql.to_owned(), Vec::new(), may_block).await.unwrap().map(drop)
        };
        for may_block in [true, false] {
            run(&one, "CREATE TABLE IF NOT EXISTS a (x)", may_block).await.unwrap();
            for end in ["COMMIT", "ROLLBACK"] {
                run(&one, "BEGIN IMMEDIATE", may_block).await.unwrap();
                run(&one, "INSERT INTO a VALUES (1)", may_block).await.unwrap();
                run(&one, "SELECT * FROM a", may_block).await.unwrap();
                let waiting = run(&other, "INSERT INTO a VALUES (2)", may_block);
                let mut waiting = std::pin::pin!(waiting);
                assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "it waits");
                // Reads wait for nobody.
                run(&reader, "SELECT * FROM a", may_block).await.unwrap();
                run(&one, end, may_block).await.unwrap();
                waiting.await.unwrap();
            }
            // Statements that come together on one connection come one after the other.
            let together = tokio::join!(
                run(&one, "BEGIN", may_block),
                run(&one, "INSERT INTO a VALUES (4)", may_block),
                run(&one, "COMMIT", may_block),
            );
            assert!(matches!(together, (Ok(()), Ok(()), Ok(()))), "{together:?}");
            // A connection that goes away releases its permit, whatever it was about to do.
            let gone = connect(database.clone()).unwrap();
            run(&gone, "BEGIN IMMEDIATE", may_block).await.unwrap();
            let cancelled = run(&gone, "INSERT INTO a VALUES (5)", may_block);
            let _ = tokio::time::timeout(Duration::ZERO, cancelled).await;
            drop(gone);
            run(&other, "INSERT INTO a VALUES (3)", may_block).await.unwrap();
        }
    }
}
