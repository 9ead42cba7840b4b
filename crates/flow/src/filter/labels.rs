//! Label selectors: the whole grammar of Kubernetes (`k8s.io/apimachinery/pkg/labels`), with a source before a key
//! (`k8s:app`, `reserved:world`); without one the source does not matter. Never asks the cluster anything.

use crate::event::Label;

/// All requirements must hold; none: everything matches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    /// Empty: any.
    source: String,
    key: String,
    test: Test,
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    /// A missing label is not in any set.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Selector {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut requirements = Vec::new();
        while !rest.is_empty() {
            let (requirement, left) = Requirement::parse(rest)?;
            requirements.push(requirement);
            rest = match left.trim_start().strip_prefix(',') {
                Some(next) if next.trim().is_empty() => return Err("nothing after ','".into()),
                Some(next) => next.trim_start(),
                None if left.trim().is_empty() => "",
                None => return Err(format!("expected ',' before {:?}", left.trim())),
            };
        }
        Ok(Self(requirements))
    }

    pub(super) fn matches<'a>(&self, labels: impl Iterator<Item = &'a Label> + Clone) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels.clone()))
    }
}

impl Requirement {
    /// The first requirement of a text, and what follows it.
    fn parse(text: &str) -> Result<(Self, &str), String> {
        let (negated, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let end = text.find(|c: char| c.is_whitespace() || "=!<>,()".contains(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        check_key(key)?;
        let rest = rest.trim_start();
        let (test, rest) = if negated { (Test::Missing, rest) } else { Test::parse(rest)? };
        Ok((Self { source: source.into(), key: key.into(), test }, rest))
    }

    fn holds<'a>(&self, mut labels: impl Iterator<Item = &'a Label>) -> bool {
        let found = labels
            .find(|label| label.key == self.key && (self.source.is_empty() || label.source == self.source))
            .map(|label| label.value.as_str());
        let number = || found.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => found.is_some(),
            Test::Missing => found.is_none(),
            Test::In(values) => found.is_some_and(|found| values.iter().any(|value| value == found)),
            Test::NotIn(values) => found.is_none_or(|found| values.iter().all(|value| value != found)),
            Test::Above(limit) => number().is_some_and(|number| number > *limit),
            Test::Below(limit) => number().is_some_and(|number| number < *limit),
        }
    }
}

impl Test {
    fn parse(text: &str) -> Result<(Self, &str), String> {
        for (operator, negated) in [("==", false), ("!=", true), ("=", false)] {
            if let Some(rest) = text.strip_prefix(operator) {
                let (value, rest) = value(rest)?;
                let values = vec![value.to_owned()];
                return Ok((if negated { Self::NotIn(values) } else { Self::In(values) }, rest));
            }
        }
        for (operator, test) in [(">", Self::Above as fn(i64) -> Self), ("<", Self::Below)] {
            if let Some(rest) = text.strip_prefix(operator) {
                let (value, rest) = value(rest)?;
                let limit =
                    value.parse().map_err(|_| format!("{value:?} after '{operator}' is not an integer"))?;
                return Ok((test(limit), rest));
            }
        }
        for (operator, test) in [("notin", Self::NotIn as fn(Vec<String>) -> Self), ("in", Self::In)] {
            if let Some(rest) = text.strip_prefix(operator) {
                let (values, rest) = set(rest)?;
                return Ok((test(values), rest));
            }
        }
        Ok((Self::Exists, text))
    }
}

fn value(text: &str) -> Result<(&str, &str), String> {
    let text = text.trim_start();
    let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    check_value(value)?;
    Ok((value, rest))
}

fn set(text: &str) -> Result<(Vec<String>, &str), String> {
    let inner = text.trim_start().strip_prefix('(').ok_or("expected '(' after in or notin")?;
    let (inner, rest) = inner.split_once(')').ok_or("'(' without ')'")?;
    let values: Vec<String> = inner.split(',').map(|value| value.trim().to_owned()).collect();
    values.iter().try_for_each(|value| check_value(value))?;
    Ok((values, rest))
}

/// `[prefix/]name`: the name at most 63 characters, the prefix a DNS name.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let prefix_ok =
        prefix.is_none_or(|prefix| !prefix.is_empty() && prefix.len() <= 253 && prefix.chars().all(dns));
    if name.is_empty() || !is_qualified(name) || !prefix_ok {
        return Err(format!("{key:?} is not a label key"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_qualified(value) {
        Ok(())
    } else {
        Err(format!("{value:?} is not a label value"))
    }
}

fn is_qualified(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends(text.chars().next())
        && ends(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select() {
        let labels =
            ["k8s:app=nginx", "k8s:io.kubernetes.pod.namespace=test", "reserved:world", "k8s:rank=3"]
                .map(Label::parse);
        for (selector, matches) in [
            ("", true),
            ("app=nginx", true),
            ("app == nginx", true),
            ("k8s:app=nginx", true),
            ("any:app=nginx", false),
            ("app=apache", false),
            ("app!=apache", true),
            ("missing!=apache", true),
            ("app", true),
            ("!app", false),
            ("! missing", true),
            ("reserved:world", true),
            ("k8s:world", false),
            ("world", true),
            ("app in (apache, nginx),world", true),
            ("app notin (apache,nginx)", false),
            ("missing notin (a)", true),
            ("k8s:app in (nginx), k8s:missing", false),
            ("rank > 2", true),
            ("rank<3", false),
            ("app>1", false),
            ("io.kubernetes.pod.namespace=test", true),
            ("k8s:io.kubernetes.pod.namespace=test,!reserved:host", true),
            ("world=", true),
        ] {
            let parsed = Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(parsed.matches(labels.iter()), matches, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_explained() {
        for (selector, reason) in [
            ("=a", "\"\" is not a label key"),
            ("a b", "expected ',' before \"b\""),
            ("a,", "nothing after ','"),
            ("a in b", "expected '(' after in or notin"),
            ("a in (b", "'(' without ')'"),
            ("a=b c", "expected ',' before \"c\""),
            ("a>b", "\"b\" after '>' is not an integer"),
            ("a=-", "\"-\" is not a label value"),
            ("/a", "\"/a\" is not a label key"),
            ("a=$", "\"$\" is not a label value"),
        ] {
            assert_eq!(Selector::parse(selector), Err(reason.to_owned()), "{selector}");
        }
    }
}
