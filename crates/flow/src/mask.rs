//! Field masks: which fields of a flow a client wants. Works on the encoded message, so that a field nobody knows costs
//! nothing and no copy per field is written by hand. Never changes a flow for anyone else.

use std::collections::BTreeMap;

use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};
use prost_reflect::{Kind, MessageDescriptor};

use crate::proto::{DESCRIPTORS, flow::Flow};

/// Which path of a mask names nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("parse field mask: path {path:?} names no field of flow.Flow")]
pub struct UnknownPath {
    path: String,
}

/// The wanted fields; empty: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(Tree);

/// Wanted field numbers; an empty subtree wants the whole field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree(BTreeMap<u32, Tree>);

impl Mask {
    /// From paths like `source.pod_name`.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Result<Self, UnknownPath> {
        let flow = DESCRIPTORS.get_message_by_name("flow.Flow").expect("compiled into the pool");
        let mut tree = Tree::default();
        for path in paths {
            let path = path.as_ref();
            tree.add(&flow, path).ok_or_else(|| UnknownPath { path: path.to_owned() })?;
        }
        Ok(Self(tree))
    }

    /// True if flows are to be sent whole.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Only the wanted fields of `flow`.
    pub fn apply(&self, flow: Flow) -> Flow {
        if self.is_empty() {
            return flow;
        }
        let mut kept = Vec::new();
        let encoded = flow.encode_to_vec();
        self.0.keep(&encoded, &mut kept).expect("a message reads back as it was written");
        Flow::decode(kept.as_slice()).expect("a message without some of its fields is one")
    }
}

impl Tree {
    fn add(&mut self, message: &MessageDescriptor, path: &str) -> Option<()> {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let field = message.get_field_by_name(name)?;
        let known = self.0.contains_key(&field.number());
        let entry = self.0.entry(field.number()).or_default();
        match (rest, field.kind()) {
            (None, _) => *entry = Self::default(),
            // The whole field is wanted already.
            (Some(_), Kind::Message(_)) if known && entry.0.is_empty() => {}
            // A path cannot go into a list (google.protobuf.FieldMask).
            (Some(rest), Kind::Message(inner)) if !field.is_list() => entry.add(&inner, rest)?,
            _ => return None,
        }
        Some(())
    }

    fn keep(&self, mut bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), prost::DecodeError> {
        while !bytes.is_empty() {
            let start = bytes;
            let (number, wire) = decode_key(&mut bytes)?;
            match self.0.get(&number) {
                Some(inner) if !inner.0.is_empty() && wire == WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes)? as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    let mut part = Vec::new();
                    inner.keep(value, &mut part)?;
                    encode_key(number, wire, kept);
                    encode_varint(part.len() as u64, kept);
                    kept.extend_from_slice(&part);
                }
                wanted => {
                    skip_field(wire, number, &mut bytes, DecodeContext::default())?;
                    if wanted.is_some() {
                        kept.extend_from_slice(&start[..start.len() - bytes.len()]);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::{Endpoint, IcmPv4, Layer4, layer4};

    fn flow() -> Flow {
        Flow {
            uuid: "u".into(),
            verdict: 2,
            l4: Some(Layer4 { protocol: Some(layer4::Protocol::IcmPv4(IcmPv4 { r#type: 8, code: 0 })) }),
            source: Some(Endpoint {
                identity: 7,
                namespace: "a".into(),
                pod_name: "b".into(),
                ..Endpoint::default()
            }),
            source_names: vec!["x".into(), "y".into()],
            summary: "s".into(),
            ..Flow::default()
        }
    }

    #[test]
    fn only_the_named_fields_stay() {
        let mask = Mask::new(&["verdict", "l4", "source.namespace", "source.identity", "Summary"]).unwrap();
        let wanted = Flow {
            uuid: String::new(),
            source: Some(Endpoint { identity: 7, namespace: "a".into(), ..Endpoint::default() }),
            source_names: vec![],
            ..flow()
        };
        assert_eq!(mask.apply(flow()), wanted);
    }

    #[test]
    fn no_path_is_the_whole_flow() {
        assert_eq!(Mask::new::<&str>(&[]).unwrap().apply(flow()), flow());
    }

    #[test]
    fn the_wider_of_two_paths_wins() {
        for paths in [["source", "source.identity"], ["source.identity", "source"]] {
            let kept = Mask::new(&paths).unwrap().apply(flow());
            assert_eq!(kept, Flow { source: flow().source, ..Flow::default() });
        }
    }

    #[test]
    fn a_path_to_nothing_is_named() {
        for path in ["sorce", "source.pod", "verdict.x", "source_names.x", ""] {
            let error = Mask::new(&["verdict", path]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("parse field mask: path {path:?} names no field of flow.Flow")
            );
        }
    }
}
