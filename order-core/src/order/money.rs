//! Amounts and currencies: never a float.

use serde::Serialize;
use serde_json::value::RawValue;

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
    }
}
