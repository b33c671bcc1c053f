//! What an order is: identifiers, money, time, and the order itself.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::lifecycle::Status;

/// An identifier as a client names orders, users and items: 1–64 printable ASCII characters
/// (0x20–0x7E) that neither begin nor end with a space. `.` and `..` are refused because no URL path
/// can name them (RFC 3986, section 5.2.4).
///
/// Clients send identifiers as JSON strings or integers. An identifier remembers which it was and goes
/// back the same way, but two identifiers are equal when their text is: `101` and `"101"` name one order.
#[derive(Clone, Debug)]
pub struct Id {
    text: String,
    integer: bool,
}

/// The rule of [`Id`] in words, for error messages.
pub const ID_RULE: &str = "must be a string of 1 to 64 printable ASCII characters without a space at either end, \
     other than \".\" and \"..\", or an integer of at most 64 bits";

impl Id {
    /// The longest identifier, in characters.
    pub const MAX_LEN: usize = 64;

    /// An identifier sent as a string; `None` where it breaks the rule.
    pub fn from_text(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let valid = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
            && !text.starts_with(' ')
            && !text.ends_with(' ')
            && text != "."
            && text != "..";
        valid.then_some(Self { text, integer: false })
    }

    /// An identifier sent as a JSON integer.
    pub fn from_integer(integer: i64) -> Self {
        Self { text: integer.to_string(), integer: true }
    }

    /// Reads a JSON value: a string or an integer. Other types, fractions and exponents are refused.
    pub fn from_json(json: &RawValue) -> Option<Self> {
        match json.get().as_bytes()[0] {
            b'"' => Self::from_text(serde_json::from_str::<String>(json.get()).ok()?),
            // `-0` is a number of its own to JSON, not an identifier.
            b'-' | b'0'..=b'9' if json.get() != "-0" => json.get().parse().ok().map(Self::from_integer),
            _ => None,
        }
    }

    /// An identifier that the store kept, which was checked when it came in.
    pub(crate) fn from_stored(text: String, integer: bool) -> Self {
        Self { text, integer }
    }

    /// The identifier's text, whichever way it was sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the client sent a JSON integer.
    pub fn is_integer(&self) -> bool {
        self.integer
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Id {}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text.parse::<i64>() {
            Ok(integer) if self.integer => serializer.serialize_i64(integer),
            _ => serializer.serialize_str(&self.text),
        }
    }
}

/// An amount of money in minor units: hundredths of the currency's unit, whatever the currency.
/// Between 0 and 99,999,999.99; never a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i64);

/// Why a number is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number as JSON writes them (RFC 8259, section 6).
    #[error("must be a decimal number")]
    NotANumber,
    /// Below zero, minus zero included.
    #[error("must not be negative")]
    Negative,
    /// More than two digits after the decimal point, once the exponent is applied.
    #[error("must have at most two decimals")]
    TooPrecise,
    /// Above [`Amount::MAX`].
    #[error("must not be above 99999999.99")]
    TooLarge,
}

impl Amount {
    /// 99,999,999.99: what a `DECIMAL(10,2)` column holds.
    pub const MAX: Self = Self(9_999_999_999);

    /// From minor units; `None` outside the range.
    pub fn from_minor(minor: i64) -> Option<Self> {
        (0..=Self::MAX.0).contains(&minor).then_some(Self(minor))
    }

    /// The amount in minor units, 0 to 9,999,999,999.
    pub fn minor(self) -> i64 {
        self.0
    }

    /// Reads a JSON number's text exactly, digit by digit: no float ever stands in between, and an
    /// exponent hides neither a sign, nor a third decimal, nor an amount out of range.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (text, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let well_formed = digits(whole)
            && (whole.len() == 1 || !whole.starts_with('0'))
            && fraction.is_none_or(digits)
            && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
        if !well_formed {
            return Err(AmountError::NotANumber);
        }
        if negative {
            return Err(AmountError::Negative);
        }
        let fraction = fraction.unwrap_or("");
        // Saturating keeps an absurd exponent absurd: it can only be too large or too precise.
        let exponent: i64 =
            exponent.map_or(0, |e| e.parse().unwrap_or(if e.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 }));
        let decimals = (fraction.len() as i64).saturating_sub(exponent);
        if decimals > 2 {
            return Err(AmountError::TooPrecise);
        }
        let mut minor: i64 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            minor = minor * 10 + i64::from(digit - b'0');
            if minor > Self::MAX.0 {
                return Err(AmountError::TooLarge);
            }
        }
        // `decimals` <= 2, so the digits are still to be shifted left by 2 - decimals places.
        let mut places = 2i64.saturating_sub(decimals);
        while places > 0 && minor > 0 {
            minor *= 10;
            places -= 1;
            if minor > Self::MAX.0 {
                return Err(AmountError::TooLarge);
            }
        }
        Ok(Self(minor))
    }

    /// Reads a JSON number, or a string that holds one.
    pub fn from_json(json: &RawValue) -> Result<Self, AmountError> {
        if json.get().starts_with('"') {
            let text: String = serde_json::from_str(json.get()).map_err(|_| AmountError::NotANumber)?;
            Self::parse(&text)
        } else {
            Self::parse(json.get())
        }
    }

    /// As a JSON number without needless zeros (`100.5`, `1001`), as the source systems' clients read it.
    pub fn to_json_number(self) -> Box<RawValue> {
        let text = self.to_string();
        let text = text.trim_end_matches('0').trim_end_matches('.');
        RawValue::from_string(text.to_owned()).expect("a decimal is a JSON number")
    }
}

/// With both decimals: `100.50`.
impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A decimal string, so that no reader turns it into a float by accident.
impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A currency code of the form that ISO 4217 gives them: three capital letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Currency(String);

impl Currency {
    /// The currency of an order that names none.
    pub const DEFAULT: &str = "USD";

    /// Three capital ASCII letters; `None` for anything else.
    pub fn parse(code: impl Into<String>) -> Option<Self> {
        let code = code.into();
        (code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase())).then_some(Self(code))
    }

    /// The three letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Currency {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch; negative ones are before it.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment `millis` milliseconds later.
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add_unsigned(millis))
    }

    /// The moment `millis` milliseconds earlier.
    pub fn minus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(millis))
    }

    /// Milliseconds from `earlier` to this moment; 0 where the clock went back.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Reads RFC 3339 text; what is finer than a millisecond is cut off.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse().ok().map(|time: jiff::Timestamp| Self(time.as_millisecond()))
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-20T06:05:04.321Z`.
    pub fn to_rfc3339(self) -> String {
        format!("{:.3}", self.to_jiff())
    }

    /// `YYYY-MM-DD HH:MM:SS` in UTC.
    pub fn to_sql_datetime(self) -> String {
        self.to_jiff().strftime("%Y-%m-%d %H:%M:%S").to_string()
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

/// What a client asked for: an order before anything happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// Names the order, for good.
    pub order_id: Id,
    /// Who ordered.
    pub user_id: Id,
    /// 1–1,000 items, in the client's order; the same item may stand there twice.
    pub item_ids: Vec<Id>,
    /// The order's value.
    pub total_amount: Amount,
    /// The currency of `total_amount`.
    pub currency: Currency,
}

impl NewOrder {
    /// The most items in one order.
    pub const MAX_ITEMS: usize = 1_000;
}

/// An accepted order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the client sent; it never changes.
    pub content: NewOrder,
    /// Where the order stands.
    pub status: Status,
    /// How many attempts at processing it were started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last attempt started.
    pub started_at: Option<Timestamp>,
    /// When it reached a final status.
    pub finished_at: Option<Timestamp>,
    /// Why its last attempt failed.
    pub failure: Option<String>,
}

/// A change of an order's status, or an attempt that follows a lost one. The last event of an order tells its
/// status, and events are never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it happened.
    pub at: Timestamp,
    /// The status from then on.
    pub status: Status,
    /// How many attempts were started by then.
    pub attempt: u32,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

/// An attempt at processing an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended; `None` while it is under way.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<AttemptOutcome>,
    /// Why it did not succeed.
    pub reason: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AttemptOutcome {
    /// The order was processed.
    Completed,
    /// The processor said that it failed.
    Failed,
    /// The worker or the processor did not report in time.
    LeaseLost,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn amounts_are_read_exactly() {
        for (text, minor) in [
            ("0", 0),
            ("0.00", 0),
            ("0.01", 1),
            ("100.5", 10_050),
            ("1001", 100_100),
            ("99999999.99", 9_999_999_999),
            ("1e2", 10_000),
            ("1.5E+1", 1_500),
            ("1.230e1", 1_230),
            ("5e-2", 5),
            ("0e999999999999999999999", 0),
        ] {
            assert_eq!(Amount::parse(text).map(Amount::minor), Ok(minor), "{text}");
            assert_eq!(Amount::from_json(&raw(&format!("\"{text}\""))).map(Amount::minor), Ok(minor), "{text}");
        }
    }

    #[test]
    fn amounts_that_are_none_are_refused_with_the_reason() {
        use AmountError::*;
        for (text, error) in [
            ("", NotANumber),
            ("NaN", NotANumber),
            ("Infinity", NotANumber),
            ("1,5", NotANumber),
            (".5", NotANumber),
            ("5.", NotANumber),
            ("01", NotANumber),
            ("+1", NotANumber),
            (" 1", NotANumber),
            ("1e", NotANumber),
            ("1e+", NotANumber),
            ("0x10", NotANumber),
            ("-1", Negative),
            ("-0", Negative),
            ("-1e-9", Negative),
            ("0.001", TooPrecise),
            ("100.500", TooPrecise),
            ("1e-3", TooPrecise),
            ("100.0000000000000001", TooPrecise),
            ("1e-99999999999999999999", TooPrecise),
            ("100000000", TooLarge),
            ("99999999.991e1", TooLarge),
            ("1e8", TooLarge),
            ("1e99999999999999999999", TooLarge),
            ("9223372036854775808", TooLarge),
        ] {
            assert_eq!(Amount::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_integer_identifier_goes_back_as_one_and_equals_its_text() {
        let number = Id::from_json(&raw("101")).unwrap();
        let text = Id::from_json(&raw("\"101\"")).unwrap();
        assert_eq!(number, text);
        assert_eq!(serde_json::to_string(&number).unwrap(), "101");
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"101\"");
    }

    #[test]
    fn identifiers_that_break_the_rule_are_refused() {
        let long = format!("\"{}\"", "x".repeat(65));
        for json in [
            "\"\"",
            &long,
            "\" a\"",
            "\"a \"",
            "\".\"",
            "\"..\"",
            "\"a\\n\"",
            "\"\\u0000\"",
            "\"é\"",
            "\"\\ud800\"",
            "1.0",
            "1e2",
            "-0",
            "9223372036854775808",
            "null",
            "true",
            "[]",
            "{}",
        ] {
            assert_eq!(Id::from_json(&raw(json)), None, "{json}");
        }
        for json in ["\"a\"", "\"a b\"", "\"~\"", "\"a/b?c#d%\"", "0", "-5", "9223372036854775807", "\"...\""] {
            assert!(Id::from_json(&raw(json)).is_some(), "{json}");
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_and_as_the_fifth_dialect_writes_them() {
        let time = Timestamp::from_millis(1_740_830_400_007);
        assert_eq!(time.to_rfc3339(), "2025-03-01T12:00:00.007Z");
        assert_eq!(time.to_sql_datetime(), "2025-03-01 12:00:00");
    }

    proptest! {
        #[test]
        fn every_amount_survives_its_own_text(minor in 0i64..=Amount::MAX.minor()) {
            let amount = Amount::from_minor(minor).unwrap();
            prop_assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
            prop_assert_eq!(Amount::parse(amount.to_json_number().get()), Ok(amount));
        }

        #[test]
        fn shifting_the_point_by_an_exponent_changes_nothing(minor in 0i64..=Amount::MAX.minor(), shift in 0i32..30) {
            let whole = format!("{minor}e-2");
            let shifted = format!("{minor}{}e-{}", "0".repeat(shift as usize), shift + 2);
            prop_assert_eq!(Amount::parse(&whole).map(Amount::minor), Ok(minor));
            // Zeros that the exponent takes away again are digits all the same, so only the size may object.
            match Amount::parse(&shifted) {
                Ok(amount) => prop_assert_eq!(amount.minor(), minor),
                Err(error) => prop_assert!(shift > 0 && matches!(error, AmountError::TooPrecise | AmountError::TooLarge)),
            }
        }

        #[test]
        fn no_text_makes_an_amount_out_of_range(text in "[-+]?[0-9]{0,14}(\\.[0-9]{0,5})?([eE][-+]?[0-9]{0,20})?") {
            if let Ok(amount) = Amount::parse(&text) {
                prop_assert!((0..=Amount::MAX.minor()).contains(&amount.minor()));
            }
        }

        #[test]
        fn every_identifier_survives_json(text in "[!-~]([ -~]{0,62}[!-~])?") {
            prop_assume!(text != "." && text != "..");
            let id = Id::from_text(text.clone()).unwrap();
            let json = serde_json::to_string(&id).unwrap();
            let back = Id::from_json(&raw(&json)).unwrap();
            prop_assert_eq!(back.as_str(), text);
            prop_assert!(!back.is_integer());
        }

        #[test]
        fn every_integer_identifier_survives_json(integer: i64) {
            let back = Id::from_json(&raw(&integer.to_string())).unwrap();
            prop_assert_eq!(serde_json::to_string(&back).unwrap(), integer.to_string());
        }
    }
}
