//! The component's variables.

use order_core::settings::{SettingError, Settings};
use order_core::worker::Config;

use crate::bindings::fermyon::spin::variables;

/// Why there is no value.
#[derive(Debug)]
pub enum VariableError {
    /// The variable breaks its rule; says its name, its rule and its value.
    BreaksRule(String),
    /// The host could not read it now.
    Unreadable(String),
}

impl std::fmt::Display for VariableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BreaksRule(error) | Self::Unreadable(error) => f.write_str(error),
        }
    }
}

impl From<SettingError> for VariableError {
    fn from(error: SettingError) -> Self {
        Self::BreaksRule(error.to_string())
    }
}

/// The value of a variable; `None` where it is not declared.
fn get(name: &str) -> Result<Option<String>, VariableError> {
    match variables::get(name) {
        Ok(value) => Ok(Some(value)),
        Err(variables::Error::Undefined(_)) => Ok(None),
        Err(error) => Err(VariableError::Unreadable(format!("variable {name} cannot be read: {error}"))),
    }
}

/// The values of all variables.
///
/// # Errors
/// See [`VariableError`].
pub fn settings() -> Result<Settings, VariableError> {
    Settings::read(get)
}

/// What a worker goes by.
///
/// # Errors
/// See [`VariableError`].
pub fn worker_config() -> Result<Config, VariableError> {
    Config::read(get)
}
