//! Objects from the text of manifests, rules with their lines. A field that is not known closes its rule. Pure: the caller
//! reads the files.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1 as core,
    networking::v1::{NetworkPolicy, NetworkPolicyPeer},
};
use model::policy::Direction;
use serde::de::DeserializeOwned;
use serde_json::Value;
use yaml::{Document, Malformed, Node};

use crate::{read::Lines, v1alpha2, world::World};

/// What could not be read, or not as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct Trouble {
    pub file: String,
    /// From 1.
    pub line: u64,
    pub message: String,
}

/// Adds the objects of `text` to `world`: policies of both kinds, namespaces, pods, nodes. Others are left alone.
pub fn read(world: &mut World, file: &str, text: &str) -> Vec<Trouble> {
    let mut reader = Reader { world, file, offset: 0, troubles: vec![] };
    for document in yaml::read(text) {
        match document {
            Ok(Document { offset, root }) => {
                reader.offset = offset;
                reader.object(&root);
            }
            Err(Malformed { line, message }) => {
                reader.offset = 0;
                reader.trouble(line, message);
            }
        }
    }
    reader.troubles
}

struct Reader<'a> {
    world: &'a mut World,
    file: &'a str,
    /// Lines before the document.
    offset: u64,
    troubles: Vec<Trouble>,
}

impl Reader<'_> {
    fn trouble(&mut self, line: u64, message: String) {
        self.troubles.push(Trouble { file: self.file.to_owned(), line: self.offset + line, message });
    }

    fn object(&mut self, root: &Node) {
        match root.get("kind").and_then(Node::text).unwrap_or_default() {
            "List" => root.get("items").into_iter().flat_map(Node::items).for_each(|item| self.object(item)),
            "NetworkPolicy" => self.network_policy(root),
            "ClusterNetworkPolicy" => self.cluster_network_policy(root),
            "Namespace" => {
                if let Some((namespace, _)) = self.typed::<core::Namespace>(root) {
                    let name = namespace.metadata.name.unwrap_or_default();
                    self.world.set_namespace_mode(&name, namespace.metadata.annotations.as_ref());
                    self.world.set_namespace(&name, namespace.metadata.labels.unwrap_or_default());
                }
            }
            "Pod" => {
                if let Some((pod, _)) = self.typed::<core::Pod>(root) {
                    self.namespace_of(pod.metadata.namespace.as_deref());
                    self.world.set_pod(&pod);
                }
            }
            "Node" => {
                if let Some((node, _)) = self.typed::<core::Node>(root) {
                    self.world.set_node(&node);
                }
            }
            _ => {}
        }
    }

    /// The object, and paths of fields that it does not have.
    fn typed<T: DeserializeOwned + serde::Serialize>(&mut self, root: &Node) -> Option<(T, Vec<String>)> {
        let json = root.to_json();
        match serde_json::from_value::<T>(json.clone()) {
            Ok(object) => {
                let mut lost = vec![];
                let kept = serde_json::to_value(&object).unwrap_or_default();
                if let (Some(given), Some(kept)) = (json.get("spec"), kept.get("spec")) {
                    lose(given, kept, "spec", &mut lost);
                }
                Some((object, lost))
            }
            Err(error) => {
                self.trouble(root.line, error.to_string());
                None
            }
        }
    }

    fn namespace_of(&mut self, name: Option<&str>) {
        let name = name.unwrap_or("default");
        if !self.world.namespaces.contains_key(name) {
            self.world.set_namespace(name, BTreeMap::new());
        }
    }

    fn network_policy(&mut self, root: &Node) {
        let Some((mut policy, lost)) = self.typed::<NetworkPolicy>(root) else { return };
        self.report(root, &lost);
        self.namespace_of(policy.metadata.namespace.as_deref());
        let spec = policy.spec.get_or_insert_default();
        let nobody = || Some(vec![NetworkPolicyPeer::default()]);
        for (index, rule) in spec.ingress.iter_mut().flatten().enumerate() {
            if is_doubtful(&lost, "ingress", index) {
                rule.from = nobody();
            }
        }
        for (index, rule) in spec.egress.iter_mut().flatten().enumerate() {
            if is_doubtful(&lost, "egress", index) {
                rule.to = nobody();
            }
        }
        let lines = self.lines(root);
        self.world.set_network_policy(policy, Some(lines));
    }

    fn cluster_network_policy(&mut self, root: &Node) {
        let Some((mut policy, lost)) = self.typed::<v1alpha2::ClusterNetworkPolicy>(root) else { return };
        self.report(root, &lost);
        let unknown = || v1alpha2::Peer {
            other: [("unknown field".to_owned(), Value::Null)].into(),
            ..v1alpha2::Peer::default()
        };
        for (index, rule) in policy.spec.ingress.iter_mut().enumerate() {
            if is_doubtful(&lost, "ingress", index) {
                rule.from.push(unknown());
            }
        }
        for (index, rule) in policy.spec.egress.iter_mut().enumerate() {
            if is_doubtful(&lost, "egress", index) {
                rule.to.push(unknown());
            }
        }
        let lines = self.lines(root);
        self.world.set_cluster_network_policy(policy, Some(lines));
    }

    fn report(&mut self, root: &Node, lost: &[String]) {
        for field in lost {
            self.trouble(
                root.locate(field),
                format!("unknown field {field}: what it is part of allows nothing"),
            );
        }
    }

    fn lines(&self, root: &Node) -> Lines {
        let sides = [("ingress", Direction::Ingress), ("egress", Direction::Egress)];
        let rules = sides.into_iter().flat_map(|(name, direction)| {
            let list = root.get("spec").and_then(|spec| spec.get(name));
            let items = list.into_iter().flat_map(Node::items).enumerate();
            items.map(move |(index, item)| ((direction, index), self.offset + item.line))
        });
        Lines { file: self.file.to_owned(), object: self.offset + root.line, rules: rules.collect() }
    }
}

/// Whether an unknown field may narrow that rule: it is in it, or in what all rules depend on.
fn is_doubtful(lost: &[String], list: &str, index: usize) -> bool {
    let rule = format!("spec.{list}[{index}]");
    let of_rules = |field: &String| field.starts_with("spec.ingress[") || field.starts_with("spec.egress[");
    lost.iter().any(|field| !of_rules(field) || *field == rule || field.starts_with(&format!("{rule}.")))
}

/// Paths of what is `given`, and not `kept`.
fn lose(given: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => lose(value, kept, &path, lost),
                    None if is_nothing(value) => {}
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                lose(given, kept, &format!("{path}[{index}]"), lost);
            }
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
