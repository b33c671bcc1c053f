//! The variables of the application, their rules and their defaults, in one place for all components.

use crate::batch::BatchSize;
use crate::lifecycle::RetryPolicy;

/// A variable that does not keep its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable {name} must be {rule}, not {value:?}")]
pub struct SettingError {
    /// The variable's name.
    pub name: &'static str,
    /// What it must be.
    pub rule: String,
    /// What it is.
    pub value: String,
}

/// A variable that is a whole number.
#[derive(Clone, Copy, Debug)]
pub struct NumberVariable {
    /// Its name.
    pub name: &'static str,
    /// What it is where it is not declared.
    pub default: u64,
    /// The least that it may be.
    pub min: u64,
    /// The most that it may be.
    pub max: u64,
}

/// How long the default processor takes, in milliseconds.
pub const PROCESSING_TIME_MS: NumberVariable =
    NumberVariable { name: "processing_time_ms", default: 1_000, min: 0, max: 86_400_000 };

/// How long a worker owns what it claimed, in milliseconds: five times what a slow outgoing call takes. A crashed
/// worker's orders wait no longer than this.
pub const LEASE_MS: NumberVariable = NumberVariable { name: "lease_ms", default: 30_000, min: 1_000, max: 3_600_000 };

/// How many attempts an order gets.
pub const MAX_ATTEMPTS: NumberVariable =
    NumberVariable { name: "max_attempts", default: RetryPolicy::DEFAULT_MAX_ATTEMPTS as u64, min: 1, max: 1_000 };

/// How many orders the processor gets at once.
pub const MAX_BATCH: NumberVariable =
    NumberVariable { name: "max_batch", default: BatchSize::MAX as u64, min: 1, max: BatchSize::MAX as u64 };

/// How many orders may be unfinished before new ones are refused: some minutes of work, beyond which waiting clients
/// are better told.
pub const MAX_BACKLOG: NumberVariable =
    NumberVariable { name: "max_backlog", default: 100_000, min: 1, max: 1_000_000_000 };

/// How many days orders are kept once they are final; 0 keeps them for good.
pub const RETENTION_DAYS: NumberVariable = NumberVariable { name: "retention_days", default: 0, min: 0, max: 36_500 };

/// The variable that names the header in which a gateway says who asks; empty where there is none.
const CALLER_HEADER: &str = "caller_header";

/// The values of all variables, each after its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`PROCESSING_TIME_MS`]
    pub processing_time_ms: u64,
    /// [`LEASE_MS`]
    pub lease_ms: u64,
    /// [`MAX_ATTEMPTS`]
    pub max_attempts: u32,
    /// [`MAX_BATCH`]
    pub max_batch: u32,
    /// [`MAX_BACKLOG`]
    pub max_backlog: u64,
    /// [`RETENTION_DAYS`]
    pub retention_days: u64,
    /// The header in which a gateway says who asks, in lower case.
    pub caller_header: Option<String>,
}

impl Settings {
    /// Reads all variables by their names; `get` answers `None` for one that is not declared.
    ///
    /// # Errors
    /// Those of `get`, and the first variable that breaks its rule.
    pub fn read<E: From<SettingError>>(get: impl Fn(&str) -> Result<Option<String>, E>) -> Result<Self, E> {
        Ok(Self {
            processing_time_ms: PROCESSING_TIME_MS.get(&get)?,
            lease_ms: LEASE_MS.get(&get)?,
            max_attempts: MAX_ATTEMPTS.get_small(&get)?,
            max_batch: MAX_BATCH.get_small(&get)?,
            max_backlog: MAX_BACKLOG.get(&get)?,
            retention_days: RETENTION_DAYS.get(&get)?,
            caller_header: caller_header(get(CALLER_HEADER)?.as_deref())?,
        })
    }
}

impl NumberVariable {
    /// The variable's value by `get`, which answers `None` where it is not declared.
    pub(crate) fn get<E: From<SettingError>>(&self, get: impl Fn(&str) -> Result<Option<String>, E>) -> Result<u64, E> {
        Ok(self.read(get(self.name)?.as_deref())?)
    }

    /// [`Self::get`], for a variable whose greatest value fits.
    pub(crate) fn get_small<E: From<SettingError>>(
        &self,
        get: impl Fn(&str) -> Result<Option<String>, E>,
    ) -> Result<u32, E> {
        Ok(u32::try_from(self.get(get)?).expect("the variable's greatest value fits"))
    }

    /// Reads the variable's value; `None` where it is not declared.
    ///
    /// # Errors
    /// What the value must be.
    fn read(&self, value: Option<&str>) -> Result<u64, SettingError> {
        let Some(value) = value else { return Ok(self.default) };
        match value.trim().parse() {
            Ok(number) if (self.min..=self.max).contains(&number) => Ok(number),
            _ => Err(SettingError {
                name: self.name,
                rule: format!("a whole number from {} to {}", self.min, self.max),
                value: value.to_owned(),
            }),
        }
    }
}

/// Reads [`CALLER_HEADER`]: a header's name in lower case (RFC 9110, section 5.1), `None` where it is empty.
///
/// # Errors
/// What the value must be.
fn caller_header(value: Option<&str>) -> Result<Option<String>, SettingError> {
    let name = value.unwrap_or("").trim();
    // RFC 9110, section 5.6.2: the characters of a token.
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token || name.len() > 64 {
        return Err(SettingError {
            name: CALLER_HEADER,
            rule: "a header name of at most 64 characters, or empty".to_owned(),
            value: name.to_owned(),
        });
    }
    Ok((!name.is_empty()).then(|| name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [NumberVariable; 6] =
        [PROCESSING_TIME_MS, LEASE_MS, MAX_ATTEMPTS, MAX_BATCH, MAX_BACKLOG, RETENTION_DAYS];

    #[test]
    fn all_variables_are_read_and_the_first_bad_one_is_told() {
        let settings = Settings::read::<SettingError>(|_| Ok(None)).unwrap();
        assert_eq!((settings.lease_ms, settings.max_attempts, settings.caller_header), (30_000, 8, None));
        for variable in NUMBERS {
            let get = |name: &str| Ok((name == variable.name).then(|| (variable.max + 1).to_string()));
            assert_eq!(Settings::read::<SettingError>(get).unwrap_err().name, variable.name);
            let other = if variable.default == variable.max { variable.min } else { variable.max };
            let get = |name: &str| Ok((name == variable.name).then(|| other.to_string()));
            assert_ne!(
                Settings::read::<SettingError>(get).unwrap(),
                Settings::read::<SettingError>(|_| Ok(None)).unwrap()
            );
        }
        let get = |name: &str| Ok((name == CALLER_HEADER).then(|| "X-Caller".to_owned()));
        assert_eq!(Settings::read::<SettingError>(get).unwrap().caller_header.as_deref(), Some("x-caller"));
    }

    #[test]
    fn a_number_keeps_to_its_range_or_is_told_with_its_rule() {
        assert_eq!(LEASE_MS.read(None), Ok(30_000));
        assert_eq!(LEASE_MS.read(Some(" 1000 ")), Ok(1_000));
        for value in ["", "999", "3600001", "-1", "1.5", "a lot"] {
            let error = LEASE_MS.read(Some(value)).unwrap_err();
            let told = format!("variable lease_ms must be a whole number from 1000 to 3600000, not {value:?}");
            assert_eq!(error.to_string(), told);
        }
        for variable in NUMBERS {
            assert!((variable.min..=variable.max).contains(&variable.default), "{variable:?}");
        }
    }

    #[test]
    fn the_caller_header_is_a_name_or_nothing() {
        assert_eq!(caller_header(None), Ok(None));
        assert_eq!(caller_header(Some("")), Ok(None));
        assert_eq!(caller_header(Some("X-Consumer-Id")), Ok(Some("x-consumer-id".to_owned())));
        for name in ["a b", "x:", "é", &"x".repeat(65)] {
            assert!(caller_header(Some(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn the_manifest_declares_every_variable_with_its_default() {
        let manifest = include_str!("../../spin.toml");
        for variable in NUMBERS {
            let declared = format!("{} = {{ default = \"{}\" }}", variable.name, variable.default);
            assert!(manifest.contains(&declared), "{declared}");
        }
        assert!(manifest.contains("caller_header = { default = \"\" }"));
    }
}
