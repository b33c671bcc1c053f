//! What components import, one module for each: it holds the bindings generated from `wit/`, what the manifest
//! grants a component of it (`Access`), the state behind it, and how it is linked (`add_to_linker`).
//!
//! No module here knows another one, or what is above them: [`component`](crate::component) puts them together.

pub mod key_value;
pub mod outbound_http;
pub mod sqlite;
pub mod variables;
pub mod wasi;
