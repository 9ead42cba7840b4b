//! A YAML document as a tree that knows the line of everything in it.
//!
//! Pure. Values follow YAML 1.2 with YAML 1.1's booleans, as Kubernetes reads them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line within the parsed text, from 1: of the key for a mapping's entry, of the value otherwise.
    pub line: u64,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Null, booleans, numbers and strings.
    Scalar(serde_json::Value),
    Sequence(Vec<Node>),
    /// In the order of the text; keys are unique.
    Mapping(Vec<(String, Node)>),
}

impl Node {
    /// The entry `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// A string that is not empty.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(serde_json::Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => entries.iter().map(|(k, node)| (k.clone(), node.to_json())).collect(),
        }
    }

    /// The line of a field in Kubernetes' notation (`spec.ports[1].port`, `metadata.labels[a.b/c]`); of its
    /// nearest parent that exists, where it does not.
    pub fn locate(&self, field: &str) -> u64 {
        let mut node = self;
        for step in steps(field) {
            let next = match &node.value {
                Value::Sequence(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                _ => node.get(&step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }
}

/// `a.b[0].c[d.e]` → a, b, 0, c, d.e
fn steps(field: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut bracket = false;
    for c in field.chars() {
        match c {
            '[' if !bracket => {
                bracket = true;
                steps.push(String::new());
            }
            ']' if bracket => bracket = false,
            '.' if !bracket => steps.push(String::new()),
            _ => steps.last_mut().expect("never empty").push(c),
        }
    }
    steps.retain(|step| !step.is_empty());
    steps
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can express")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(serde_json::Value::Null))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(serde_json::Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = vec![];
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = vec![];
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let value: Value = access.next_value()?;
            entries.push((key.value, Node { line: key.referenced.line(), value }));
        }
        Ok(Value::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: Service
metadata:
  labels:
    a.b/c: x
spec:
  ports:
    - name: http
      port: 80
    -
      port: 80.5
  on: yes
  none: ~
  list: [1, 2]
";

    fn parse(text: &str) -> Node {
        serde_saphyr::from_str(text).expect("parses")
    }

    #[test]
    fn fields_are_found_on_their_lines() {
        let node = parse(TEXT);
        for (field, line) in [
            ("kind", 1),
            ("metadata.labels", 3),
            ("metadata.labels[a.b/c]", 4),
            ("spec.ports", 6),
            ("spec.ports[0].port", 8),
            ("spec.ports[1].port", 10),
            ("spec.list[1]", 13),
        ] {
            assert_eq!(node.locate(field), line, "{field}");
        }
    }

    #[test]
    fn a_missing_field_is_on_the_line_of_its_parent() {
        let node = parse(TEXT);
        assert_eq!(node.locate("spec.selector"), 5);
        assert_eq!(node.locate("spec.ports[0].nodePort"), 7);
        assert_eq!(node.locate("status"), 1);
    }

    #[test]
    fn values_become_json_as_kubernetes_reads_them() {
        let json = parse(TEXT).to_json();
        assert_eq!(json["spec"]["ports"][1]["port"], 80.5);
        assert_eq!(json["spec"]["on"], true);
        assert_eq!(json["spec"]["none"], serde_json::Value::Null);
        assert_eq!(json["spec"]["list"], serde_json::json!([1, 2]));
        assert_eq!(parse("a: '80'").to_json()["a"], "80");
    }
}
