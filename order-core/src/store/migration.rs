//! Migrations as files.

/// The statements of a migration file: each ends with `;` at the end of a line before a blank line or the
/// end of the file. (Statements inside a trigger have no blank line after them.)
pub(crate) fn migration_statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n\n").map(str::trim).filter(|statement| !statement.is_empty())
}
