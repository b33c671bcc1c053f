//! Migrations as files.

use super::error::StoreError;

/// The statements of a migration file: each ends with `;` at the end of a line before a blank line or the
/// end of the file. (Statements inside a trigger have no blank line after them.)
pub(crate) fn migration_statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n\n").map(str::trim).filter(|statement| !statement.is_empty())
}

/// The version `found`, if the build knows it, whose last one is `known`.
///
/// # Errors
/// [`StoreError::NewerSchema`]
pub(crate) fn known_version(found: i64, known: i64) -> Result<i64, StoreError> {
    if found <= known { Ok(found) } else { Err(StoreError::NewerSchema { found, known }) }
}
