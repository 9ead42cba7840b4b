//! Protobuf messages as the JSON that Hubble's clients print and read: Go's protojson with proto field names, passed
//! through Go's encoding/json. Never writes a byte that those two would not: fields in the order of their declaration,
//! defaults left out, enums by name (an unknown one by number), 64-bit integers as strings, `<`, `>` and `&` escaped.

use prost::{Message, Name};
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, ReflectMessage, SerializeOptions, Value};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::proto::DESCRIPTORS;

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
#[error("parse JSON of {message}")]
pub struct ParseError {
    message: String,
    #[source]
    source: serde_json::Error,
}

/// `message` on one line, without a line feed.
///
/// # Errors
/// An `Any` whose type is not one of ours cannot be written.
pub fn to_string<M: Message + Name>(message: &M) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(&Fields(&reflect(message)))?;
    Ok(escape_html(json))
}

/// Every message of `text`: JSON objects one after the other, as Hubble's `--allowlist` takes them.
pub fn parse_all<M: Message + Name + Default>(text: &str) -> Result<Vec<M>, ParseError> {
    let failed = |source| ParseError { message: M::full_name(), source };
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let descriptor = DESCRIPTORS.get_message_by_name(&M::full_name()).expect("compiled into the pool");
    serde_json::Deserializer::from_str(text)
        .into_iter::<serde_json::Value>()
        .map(|value| {
            let value = value.map_err(failed)?;
            let message = DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
                .map_err(failed)?;
            message.transcode_to::<M>().map_err(|error| failed(serde::de::Error::custom(error)))
        })
        .collect()
}

/// A message, without the fields that it does not have here.
pub fn parse_lenient<M: Message + Name + Default>(text: &str) -> Result<M, ParseError> {
    let failed = |source| ParseError { message: M::full_name(), source };
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let descriptor = DESCRIPTORS.get_message_by_name(&M::full_name()).expect("compiled into the pool");
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options)
        .and_then(|message| deserializer.end().map(|()| message))
        .map_err(failed)?;
    message.transcode_to::<M>().map_err(|error| failed(serde::de::Error::custom(error)))
}

fn reflect<M: Message + Name>(message: &M) -> DynamicMessage {
    let descriptor = DESCRIPTORS.get_message_by_name(&M::full_name()).expect("compiled into the pool");
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes by its own descriptor")
}

/// encoding/json escapes these so that its output can stand in HTML; they occur in JSON only inside strings.
fn escape_html(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", c as u32)),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// A message's set fields in the order of their declaration; prost-reflect alone would sort them by number.
struct Fields<'a>(&'a DynamicMessage);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = self.0.descriptor();
        if descriptor.full_name().starts_with("google.protobuf.") {
            return self.0.serialize_with_options(serializer, &SerializeOptions::new());
        }
        let mut map = serializer.serialize_map(None)?;
        for declared in &descriptor.descriptor_proto().field {
            let field = descriptor.get_field(declared.number() as u32).ok_or_else(|| {
                S::Error::custom(format!("no field {} in {}", declared.number(), descriptor.full_name()))
            })?;
            if self.0.has_field(&field) {
                map.serialize_entry(
                    field.name(),
                    &Item { value: self.0.get_field(&field).as_ref(), kind: field.kind() },
                )?;
            }
        }
        map.end()
    }
}

struct Item<'a> {
    value: &'a Value,
    kind: Kind,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::F32(value) => float(f64::from(*value), serializer),
            Value::F64(value) => float(*value, serializer),
            Value::String(value) => serializer.serialize_str(value),
            Value::EnumNumber(number) => {
                let name =
                    self.kind.as_enum().and_then(|kind| Some(kind.get_value(*number)?.name().to_owned()));
                match name {
                    Some(name) => serializer.serialize_str(&name),
                    None => serializer.serialize_i32(*number),
                }
            }
            Value::Message(message) => Fields(message).serialize(serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&Item { value, kind: self.kind.clone() })?;
                }
                list.end()
            }
            Value::Bytes(_) | Value::Map(_) => Err(S::Error::custom("no message here has bytes or maps")),
        }
    }
}

/// protojson writes whole numbers without a fraction.
fn float<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_nan() {
        serializer.serialize_str("NaN")
    } else if value.is_infinite() {
        serializer.serialize_str(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(value as i64)
    } else {
        serializer.serialize_f64(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        flow::{self, FlowFilter},
        observer::{GetFlowsResponse, ServerStatusResponse, get_flows_response::ResponseTypes},
        relay::NodeStatusEvent,
    };

    #[test]
    fn a_response_reads_as_hubble_prints_it() {
        let flow = flow::Flow {
            time: Some(prost_types::Timestamp { seconds: 1_763_870_102, nanos: 934_000_000 }),
            verdict: flow::Verdict::Forwarded.into(),
            ip: Some(flow::Ip {
                source: "10.244.0.10".into(),
                destination: "10.244.0.11".into(),
                ip_version: flow::IpVersion::IPv4.into(),
                ..flow::Ip::default()
            }),
            l4: Some(flow::Layer4 {
                protocol: Some(flow::layer4::Protocol::Tcp(flow::Tcp {
                    source_port: 44092,
                    destination_port: 8080,
                    flags: Some(flow::TcpFlags { ack: true, fin: true, ..flow::TcpFlags::default() }),
                })),
            }),
            source: Some(flow::Endpoint { id: 1277, identity: 27793, ..flow::Endpoint::default() }),
            r#type: flow::FlowType::L3L4.into(),
            node_name: "vm".into(),
            is_reply: Some(false),
            socket_cookie: 39633,
            summary: "TCP Flags: ACK, FIN".into(),
            ..flow::Flow::default()
        };
        let response = GetFlowsResponse {
            node_name: "vm".into(),
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(Box::new(flow))),
        };
        assert_eq!(
            to_string(&response).unwrap(),
            concat!(
                r#"{"flow":{"time":"2025-11-23T03:55:02.934Z","verdict":"FORWARDED","#,
                r#""IP":{"source":"10.244.0.10","destination":"10.244.0.11","ipVersion":"IPv4"},"#,
                r#""l4":{"TCP":{"source_port":44092,"destination_port":8080,"flags":{"FIN":true,"ACK":true}}},"#,
                r#""source":{"ID":1277,"identity":27793},"Type":"L3_L4","node_name":"vm","is_reply":false,"#,
                r#""socket_cookie":"39633","Summary":"TCP Flags: ACK, FIN"},"#,
                r#""node_name":"vm","time":"2025-11-23T03:55:02.934Z"}"#,
            )
        );
    }

    #[test]
    fn a_value_without_a_name_is_a_number() {
        let flow = flow::Flow { drop_reason_desc: 250, ..flow::Flow::default() };
        assert_eq!(to_string(&flow).unwrap(), r#"{"drop_reason_desc":250}"#);
    }

    #[test]
    fn markup_is_escaped_as_go_does() {
        let event = NodeStatusEvent { message: "<a> & b".into(), ..NodeStatusEvent::default() };
        assert_eq!(to_string(&event).unwrap(), r#"{"message":"\u003ca\u003e \u0026 b"}"#);
    }

    #[test]
    fn wrappers_and_doubles() {
        let status = ServerStatusResponse {
            num_flows: 4095,
            num_connected_nodes: Some(0),
            flows_rate: 2.0,
            ..ServerStatusResponse::default()
        };
        assert_eq!(
            to_string(&status).unwrap(),
            r#"{"num_flows":"4095","num_connected_nodes":0,"flows_rate":2}"#
        );
    }

    #[test]
    fn filters_are_read_by_either_name() {
        let filters: Vec<FlowFilter> =
            parse_all(r#"{"source_pod":["a/b"]} {"sourcePod":["c"],"verdict":["DROPPED"]}"#).unwrap();
        assert_eq!(filters[0].source_pod, ["a/b"]);
        assert_eq!(filters[1].source_pod, ["c"]);
        assert_eq!(filters[1].verdict, [flow::Verdict::Dropped as i32]);
        let error = parse_all::<FlowFilter>(r#"{"sorce_pod":["a/b"]}"#).unwrap_err();
        assert_eq!(error.to_string(), "parse JSON of flow.FlowFilter");
        assert!(error.source.to_string().contains("sorce_pod"), "{}", error.source);
    }
}
