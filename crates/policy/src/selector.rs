//! Label selectors, all operators. Pure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use model::Labels;

/// Everything that is required of labels. None: everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(pub(crate) BTreeSet<Requirement>);

/// What is required of one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: String,
    pub test: Test,
}

/// As the API's operators; a label `key: value` of `matchLabels` is `In` one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Test {
    In(BTreeSet<String>),
    /// Matches what has no such key, too.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

/// A part of a selector that cannot be read: its field below the selector, and why.
pub(crate) type Fault = (String, String);

impl Selector {
    /// What can be read of `selector`, and what cannot.
    pub(crate) fn read(selector: &LabelSelector) -> (Self, Vec<Fault>) {
        let (mut all, mut faults) = (BTreeSet::new(), vec![]);
        for (key, value) in selector.match_labels.iter().flatten() {
            let test = Test::In([value.clone()].into());
            all.insert(Requirement { key: key.clone(), test });
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let test = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                (operator, empty) => {
                    let reason = match operator {
                        "In" | "NotIn" => format!("{operator} needs values"),
                        "Exists" | "DoesNotExist" if !empty => format!("{operator} has no values"),
                        _ => format!("unknown operator {operator:?}"),
                    };
                    faults.push((format!("matchExpressions[{index}]"), reason));
                    continue;
                }
            };
            if expression.key.is_empty() {
                faults.push((format!("matchExpressions[{index}].key"), "no key".into()));
                continue;
            }
            all.insert(Requirement { key: expression.key.clone(), test });
        }
        (Self(all), faults)
    }

    pub fn is_everyone(&self) -> bool {
        self.0.is_empty()
    }

    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }

    /// Whether labels that `get` looks up meet all requirements.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| requirement.is_met(get(&requirement.key)))
    }

    /// Whether an identity's labels do, by keys with their source.
    pub(crate) fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(|key| labels.get(key))
    }
}

impl Requirement {
    /// Whether `value`, or that there is none, meets it.
    pub fn is_met(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}
