//! Label selectors: the query-string form and the `LabelSelector` object. Never sees anything but labels.

use serde_json::Value;

use crate::{
    meta::{items, text},
    status::ApiError,
    validation::names,
};

/// Requirements that all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>3`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        split_outside_parentheses(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(ApiError::BadRequest)
    }

    /// Reads `matchLabels` and `matchExpressions`; an object without either selects everything.
    pub(crate) fn from_object(selector: &Value) -> Self {
        let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, value)| {
            let value = value.as_str().unwrap_or("").to_owned();
            Requirement { key: key.clone(), operator: Operator::In(vec![value]) }
        });
        let expressions = items(selector, &["matchExpressions"]).iter().map(|expression| {
            let values =
                items(expression, &["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let operator = match text(expression, &["operator"]) {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                _ => Operator::DoesNotExist,
            };
            Requirement { key: text(expression, &["key"]).to_owned(), operator }
        });
        Self(labels.chain(expressions).collect())
    }

    /// Whether `metadata.labels` (an object or null) satisfies every requirement.
    pub(crate) fn matches(&self, labels: &Value) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels[&requirement.key].as_str()))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|value| value > *bound),
            Operator::LessThan(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Requirement { key, operator }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let unparsable = |what: String| format!("unable to parse requirement: {what}");
    let build = |key: &str, operator| {
        let key = key.trim();
        match names::qualified_name(key).first() {
            None => Ok(Requirement { key: key.to_owned(), operator }),
            Some(problem) => Err(unparsable(format!("<nil>: Invalid value: {key:?}: {problem}"))),
        }
    };
    if let Some(key) = text.strip_prefix('!') {
        return build(key, Operator::DoesNotExist);
    }
    if let Some((left, right)) = text.split_once('(') {
        let values = right
            .trim()
            .strip_suffix(')')
            .ok_or_else(|| unparsable(format!("found '{text}', expected: ',' or ')'")))?
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        return match left.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => build(key, Operator::In(values)),
            Some((key, "notin")) => build(key, Operator::NotIn(values)),
            _ => Err(unparsable(format!("found '{left}', expected: in, notin"))),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return build(key, Operator::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return build(key, Operator::In(vec![value.trim().to_owned()]));
    }
    for (sign, operator) in [
        ('>', Operator::GreaterThan as fn(i64) -> Operator),
        ('<', Operator::LessThan as fn(i64) -> Operator),
    ] {
        if let Some((key, value)) = text.split_once(sign) {
            let bound = value.trim().parse().map_err(|_| {
                unparsable(format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))
            })?;
            return build(key, operator(bound));
        }
    }
    build(text, Operator::Exists)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::LabelSelector;

    fn selects(selector: &str, labels: serde_json::Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_operator() {
        let labels = json!({"app": "web", "n": "5", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,n=5", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db),n", true),
            ("app notin (web)", false),
            ("other notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("empty=", true),
            ("other=", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("!service.kubernetes.io/service-proxy-name", true),
        ] {
            assert_eq!(selects(selector, labels.clone()), expected, "{selector}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["a in b", "a in (b", "a b (c)", "a>x", "=b", "!", "-a=b"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objects_select_as_the_text_form_does() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }));
        assert_eq!(selector, LabelSelector::parse("app=web,tier in (a,b),!old").unwrap());
    }

    proptest! {
        #[test]
        fn printed_selectors_parse_to_themselves(
            parts in prop::collection::vec(("[a-z]{1,4}", 0usize..7, prop::collection::vec("[a-z]{1,3}", 1..3)), 0..4)
        ) {
            let text = parts.iter().map(|(key, kind, values)| match kind {
                0 => format!("{key}={}", values[0]),
                1 => format!("{key}!={}", values[0]),
                2 => format!("{key} in ({})", values.join(",")),
                3 => format!("{key} notin ({})", values.join(", ")),
                4 => format!("!{key}"),
                5 => format!("{key}>7"),
                _ => key.clone(),
            }).collect::<Vec<_>>().join(",");
            let parsed = LabelSelector::parse(&text).unwrap();
            prop_assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed);
        }
    }
}
