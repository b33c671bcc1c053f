//! A hook around every call by which a component reaches the world, for tests that let such calls fail.

use std::time::Duration;

/// A call that a component makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCall<'a> {
    /// The component's name in the manifest.
    pub component: &'a str,
    /// What it asks for.
    pub kind: CallKind,
    /// What it asks about: the statement, the key, the variable, or the URL.
    pub subject: &'a str,
}

/// The kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Open a connection to a database.
    SqliteOpen,
    /// Run a statement.
    SqliteExecute,
    /// Read a key.
    KeyValueGet,
    /// Set a key, or several.
    KeyValueSet,
    /// Delete a key, or several.
    KeyValueDelete,
    /// List the keys.
    KeyValueKeys,
    /// Read a variable.
    Variable,
    /// Send an HTTP request.
    Outbound,
}

/// What is to happen to a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out.
    #[default]
    Proceed,
    /// It is not carried out; the component gets this error.
    FailBefore(String),
    /// It is carried out, and the component gets this error all the same.
    FailAfter(String),
    /// It is not carried out, and the component's instance dies.
    DieBefore,
    /// It is carried out, and the component's instance dies before it learns of it.
    DieAfter,
    /// Something else happens to it, after this time.
    Delay(Duration, Box<Fate>),
}

/// Decides about calls.
pub trait CallHook: Send + Sync {
    /// Is asked before each call.
    fn fate(&self, call: HostCall<'_>) -> Fate;

    /// What is run in the place of a statement, for tests that plant a mistake.
    fn rewrite(&self, _statement: &str) -> Option<String> {
        None
    }
}
