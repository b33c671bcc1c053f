//! Which failed orders a request means, whether a query or a body says so: the same fields under the same rules.

use crate::json::{Errors, FieldError, Fields, REPEATED, Rejection};
use crate::order::{ID_RULE, Id, Timestamp};
use crate::page::{Cursor, List};

/// Which failed orders are meant. Nothing given means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Those with one of these identifiers.
    pub order_ids: Option<Vec<String>>,
    /// Those of this user.
    pub user_id: Option<String>,
    /// Those that failed at this moment or later.
    pub failed_from: Option<Timestamp>,
    /// Those that failed before this moment.
    pub failed_before: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// What an order's failure must lie behind, as (moment, number), and the moment before which it must lie, given that
    /// the list goes on behind `after`.
    pub(crate) fn range(&self, after: Option<Cursor>) -> ((i64, i64), i64) {
        // A number is above zero: what failed at `failed_from` is behind (`failed_from`, 0).
        let from = (self.failed_from.map_or(i64::MIN, Timestamp::as_millis), 0);
        let behind = after.map_or(from, |after| after.position().max(from));
        (behind, self.failed_before.map_or(i64::MAX, Timestamp::as_millis))
    }
}

/// A request about failed orders: which ones, from where on, and how many at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRequest {
    /// Which ones.
    pub filter: DeadLetterFilter,
    /// Those behind this place in their list.
    pub after: Option<Cursor>,
    /// 1 to [`Self::MAX_LIMIT`].
    pub limit: u32,
}

const TIME_RULE: &str = "must be an RFC 3339 timestamp";

impl DeadLetterRequest {
    /// The most failed orders that one request lists or retries.
    pub const MAX_LIMIT: u32 = 1_000;
    /// How many parameters of a query are looked at; the one behind them is refused.
    const MAX_PARAMETERS: usize = 16;
    /// How many a request without a limit lists.
    pub const DEFAULT_PAGE: u32 = 100;

    /// Reads `{order_ids?, user_id?, failed_from?, failed_before?, limit?}`; an empty body means all. Other fields are
    /// refused: a filter that is misspelt must not mean everything.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for what is not JSON, [`Rejection::Invalid`] with an entry for each field that breaks
    /// its rule.
    pub fn from_json(body: &[u8]) -> Result<Self, Rejection> {
        let mut fields = Fields::parse(if body.is_empty() { b"{}" } else { body })?;
        let mut errors = Errors(Vec::new());
        fields.repeated.iter().for_each(|name| errors.push(name, REPEATED));
        let mut request = Self { filter: DeadLetterFilter::default(), after: None, limit: Self::MAX_LIMIT };
        if let Some(json) = fields.take("order_ids") {
            let ids = errors.items("order_ids", json);
            request.filter.order_ids = ids.map(|ids| ids.to_ids().iter().map(|id| id.as_str().to_owned()).collect());
        }
        if let Some(json) = fields.take("user_id") {
            request.filter.user_id = errors.id("user_id", &json).map(|id| id.as_str().to_owned());
        }
        for name in ["failed_from", "failed_before"] {
            if let Some(json) = fields.take(name) {
                let text: Option<String> = serde_json::from_str(json.get()).ok();
                request.set_time(name, text.as_deref(), &mut errors);
            }
        }
        if let Some(json) = fields.take("limit") {
            request.set_limit(json.get(), &mut errors);
        }
        for name in fields.values.keys() {
            errors.push(name, "is not a field of this request");
        }
        if errors.0.is_empty() { Ok(request) } else { Err(Rejection::Invalid(errors.0)) }
    }

    /// Reads the parameters `user_id`, `failed_from`, `failed_before`, `limit` and `after` of a query, decoded.
    ///
    /// # Errors
    /// An entry for each parameter that is unknown, appears twice or breaks its rule; never empty.
    pub fn from_query(parameters: &[(String, String)]) -> Result<Self, Vec<FieldError>> {
        let mut errors = Errors(Vec::new());
        let mut request = Self { filter: DeadLetterFilter::default(), after: None, limit: Self::DEFAULT_PAGE };
        // A few parameters are known: more than that are not worth a comparison each.
        for (place, (name, value)) in parameters.iter().enumerate().take(Self::MAX_PARAMETERS) {
            if parameters[..place].iter().any(|(earlier, _)| earlier == name) {
                errors.push(name, REPEATED);
                continue;
            }
            match name.as_str() {
                "user_id" => match Id::from_text(value.as_str()) {
                    Some(id) => request.filter.user_id = Some(id.as_str().to_owned()),
                    None => errors.push(name, ID_RULE),
                },
                "failed_from" | "failed_before" => request.set_time(name, Some(value), &mut errors),
                "limit" => request.set_limit(value, &mut errors),
                "after" => {
                    request.after = Cursor::parse(List::DeadLetters, value);
                    if request.after.is_none() {
                        errors.push(name, "must be the value of next from an earlier page");
                    }
                }
                _ => errors.push(name, "is not a parameter of this request"),
            }
        }
        if let Some((name, _)) = parameters.get(Self::MAX_PARAMETERS) {
            errors.push(name, "exceeds the maximum number of parameters");
        }
        if errors.0.is_empty() { Ok(request) } else { Err(errors.0) }
    }

    fn set_time(&mut self, name: &str, text: Option<&str>, errors: &mut Errors) {
        let time = text.and_then(Timestamp::parse_rfc3339);
        if time.is_none() {
            errors.push(name, TIME_RULE);
        }
        match name {
            "failed_from" => self.filter.failed_from = time,
            _ => self.filter.failed_before = time,
        }
    }

    fn set_limit(&mut self, text: &str, errors: &mut Errors) {
        match text.parse() {
            Ok(number @ 1..=Self::MAX_LIMIT) => self.limit = number,
            _ => errors.push("limit", format!("must be a whole number from 1 to {}", Self::MAX_LIMIT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(filter: DeadLetterFilter, after: Option<Cursor>, limit: u32) -> DeadLetterRequest {
        DeadLetterRequest { filter, after, limit }
    }

    #[test]
    fn a_filter_says_which_dead_letters_are_meant() {
        assert_eq!(DeadLetterRequest::from_json(b""), Ok(request(DeadLetterFilter::default(), None, 1_000)));
        let body = br#"{"order_ids": [1, "b"], "user_id": "u", "failed_from": "2025-03-01T12:00:00Z", "limit": 5}"#;
        let DeadLetterRequest { filter, limit, .. } = DeadLetterRequest::from_json(body).unwrap();
        assert_eq!(filter.order_ids, Some(vec!["1".to_owned(), "b".to_owned()]));
        assert_eq!(filter.user_id.as_deref(), Some("u"));
        assert_eq!(filter.failed_from, Some(Timestamp::from_millis(1_740_830_400_000)));
        assert_eq!((filter.failed_before, limit), (None, 5));
        for (body, pointer) in [
            (r#"{"usr_id": "u"}"#, "#/usr_id"),
            (r#"{"a b~%\"": "u"}"#, "#/a%20b~0%25%22"),
            (r#"{"failed_before": "yesterday"}"#, "#/failed_before"),
            (r#"{"limit": 0}"#, "#/limit"),
            (r#"{"limit": 1001}"#, "#/limit"),
            (r#"{"order_ids": []}"#, "#/order_ids"),
            (r#"{"user_id": "u", "user_id": "v"}"#, "#/user_id"),
        ] {
            match DeadLetterRequest::from_json(body.as_bytes()) {
                Err(Rejection::Invalid(errors)) => assert_eq!(errors[0].pointer, pointer),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_query_keeps_the_rules_of_a_body() {
        let read = |query: &[(&str, &str)]| {
            let owned: Vec<_> = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            DeadLetterRequest::from_query(&owned)
        };
        assert_eq!(read(&[]), Ok(request(DeadLetterFilter::default(), None, 100)));
        let cursor = Cursor::behind(List::DeadLetters, 1, 2);
        let all = [
            ("user_id", "u"),
            ("failed_before", "2025-03-01T12:00:00Z"),
            ("limit", "7"),
            ("after", &cursor.to_string()),
        ];
        let filter = DeadLetterFilter {
            user_id: Some("u".to_owned()),
            failed_before: Some(Timestamp::from_millis(1_740_830_400_000)),
            ..DeadLetterFilter::default()
        };
        assert_eq!(read(&all), Ok(request(filter, Some(cursor), 7)));
        for parameter in [
            ("user_id", ""),
            ("user_id", " u"),
            ("usr_id", "u"),
            ("failed_from", "yesterday"),
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "x"),
            ("after", "x"),
        ] {
            let errors = read(&[parameter]).unwrap_err();
            assert_eq!(errors[0].pointer, format!("#/{}", parameter.0));
        }
        assert_eq!(read(&[("limit", "1"), ("limit", "2")]).unwrap_err()[0].detail, REPEATED);
    }
}
