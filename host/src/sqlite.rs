//! `spin:sqlite`, as Spin's in-process backend has it: each `open` is a new connection without pragmas of the
//! host's (rollback journal and synchronous=FULL until the guest asks for something else, a busy timeout of
//! 5 s, foreign keys on), 16 statements are cached with it, of several statements in one `execute` the first
//! runs, and dropping the connection rolls its transaction back.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{ToSqlOutput, ValueRef};
use wasmtime::Result;
use wasmtime::component::{Access, Accessor, FutureReader, Resource, StreamReader};

use crate::bindings::spin::sqlite3_1_0::sqlite::{self as wit, Error, QueryResult, RowResult, Value};
use crate::hook::CallKind;
use crate::instance::{Grants, HostInterfaces, InstanceState};

/// An open connection.
#[derive(Clone)]
pub struct Connection(Arc<Mutex<rusqlite::Connection>>);

impl Connection {
    async fn open(grants: &Grants, label: &str) -> Result<Result<Self, Error>> {
        let Some(path) = grants.database.clone().filter(|_| label == "default") else {
            return Ok(Err(Error::AccessDenied));
        };
        grants.call(CallKind::SqliteOpen, label, true, Error::Io, move || connect(&path).map_err(io)).await
    }

    async fn execute(
        &self,
        grants: &Grants,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<Result<QueryResult, Error>> {
        let connection = self.0.clone();
        let sql = grants.hook.as_ref().and_then(|hook| hook.rewrite(&sql)).unwrap_or(sql);
        let subject = sql.clone();
        let work = move || query(&connection.lock().expect("no query panics"), &sql, &parameters).map_err(io);
        grants.call(CallKind::SqliteExecute, &subject, true, Error::Io, work).await
    }
}

fn io(error: rusqlite::Error) -> Error {
    Error::Io(error.to_string())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Ok(Connection(Arc::new(Mutex::new(rusqlite::Connection::open(path)?))))
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

impl wit::Host for InstanceState {}

impl InstanceState {
    fn connection(&self, resource: &Resource<Connection>) -> Result<Connection> {
        Ok(self.table.get(resource)?.clone())
    }
}

impl wit::HostConnection for InstanceState {
    async fn open(&mut self, database: String) -> Result<Result<Resource<Connection>, Error>> {
        match Connection::open(&self.grants, &database).await? {
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
        self.connection(&connection)?.execute(&self.grants, statement, parameters).await
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
        self.0.lock().expect("no query panics").last_insert_rowid()
    }

    fn changes(&self) -> u64 {
        self.0.lock().expect("no query panics").changes()
    }
}

type Rows = (Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>);

impl<T: Send> wit::HostConnectionWithStore<T> for HostInterfaces {
    async fn open_async(accessor: &Accessor<T, Self>, database: String) -> Result<Result<Resource<Connection>, Error>> {
        let grants = accessor.with(|mut access| access.get().grants.clone());
        match Connection::open(&grants, &database).await? {
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
        let (grants, connection) = accessor.with(|mut access: Access<'_, T, Self>| {
            let state = access.get();
            wasmtime::error::Ok((state.grants.clone(), state.connection(&connection)?))
        })?;
        // As on Spin, an error of the statement comes at the end of the rows.
        let (columns, rows, end) = match connection.execute(&grants, statement, parameters).await? {
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
        let connection = connect(&folder.path().join("x.db")).unwrap();
        let connection = connection.0.lock().unwrap();
        let pragma = |name: &str| query(&connection, &format!("PRAGMA {name}"), &[]).unwrap().rows[0].values[0].clone();
        assert!(matches!(pragma("journal_mode"), Value::Text(mode) if mode == "delete"));
        assert!(matches!(pragma("synchronous"), Value::Integer(2)));
        assert!(matches!(pragma("foreign_keys"), Value::Integer(1)));
        assert!(matches!(pragma("busy_timeout"), Value::Integer(5_000)));
    }

    #[test]
    fn the_first_of_several_statements_runs() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        query(&connection, "CREATE TABLE a (x); CREATE TABLE b (x)", &[]).unwrap();
        let tables = query(&connection, "SELECT name FROM sqlite_schema", &[]).unwrap();
        assert_eq!(tables.rows.len(), 1);
    }
}
