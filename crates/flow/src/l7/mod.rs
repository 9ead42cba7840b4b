//! What the payloads of packets say: DNS messages and HTTP/1 start lines as Hubble's `Layer7`, answers with what they answer.
//! Pure. Never guesses: an answer whose question was not seen has no latency, and an HTTP one no method or URL.
//!
//! An HTTP response belongs to the request that acknowledged the byte before it, so that a lost record never joins what does not
//! belong together; those that a pipelining client gets after its first are told by themselves. What is sent again is told once.

mod dns;
mod http;
mod recent;
mod seen_names;

use std::{mem, net::SocketAddr};

use abi::protocol;

use self::recent::Recent;
pub(crate) use self::seen_names::SeenNames;
use crate::{
    event::Time,
    proto::flow::{Dns, Http, L7FlowType, Layer7, layer7::Record},
};

/// Questions, and connections with requests, that are remembered; up to twice as many are kept.
const CONVERSATIONS: usize = 4096;
/// Messages of one segment that are told of.
const MESSAGES: usize = 8;

/// One packet's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// IANA protocol number.
    pub(crate) protocol: u8,
    pub(crate) time: Time,
    /// Of the TCP header.
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    /// Of the whole payload in bytes; there may be fewer.
    pub(crate) length: u32,
    pub(crate) payload: &'a [u8],
}

/// Who talks to whom, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) layer7: Layer7,
    /// The question was seen.
    pub(crate) paired: bool,
}

impl Message {
    pub(crate) fn is_response(&self) -> bool {
        self.layer7.r#type() == L7FlowType::Response
    }

    /// What an answer says whose question was seen.
    pub(crate) fn answer(&self) -> Option<&Dns> {
        match &self.layer7.record {
            Some(Record::Dns(dns)) if self.paired => Some(dns),
            _ => None,
        }
    }
}

/// Everyone's, with the ends, protocol and number of a question.
type Question = (Ends, u8, u16);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Conversations {
    questions: Recent<Question, (String, Time)>,
    connections: Recent<Ends, Connection>,
}

/// Of the requests on one connection, the last.
#[derive(Clone, Debug, Default)]
struct Connection {
    request: Option<Request>,
    /// Sequence numbers of the last request and the last response.
    asked: Option<u32>,
    answered: Option<u32>,
}

#[derive(Clone, Debug)]
struct Request {
    /// Sequence number of the response to it.
    expects: u32,
    time: Time,
    method: String,
    url: String,
}

impl Conversations {
    pub(crate) fn new() -> Self {
        Self { questions: Recent::new(CONVERSATIONS), connections: Recent::new(CONVERSATIONS) }
    }

    /// What the packet says; `ends` are asked for once it is known whether the packet comes from the server.
    pub(crate) fn read(
        &mut self,
        packet: Packet<'_>,
        is_dns: bool,
        ends: impl Fn(bool) -> Option<Ends>,
    ) -> Vec<Message> {
        match (is_dns, packet.protocol) {
            (true, protocol::TCP) => {
                let messages = segment(packet.payload).filter_map(dns::parse).take(MESSAGES);
                messages.filter_map(|message| self.dns(&packet, message, &ends)).collect()
            }
            (true, _) => dns::parse(packet.payload)
                .and_then(|message| self.dns(&packet, message, &ends))
                .into_iter()
                .collect(),
            (false, _) => http::parse(packet.payload)
                .and_then(|message| self.http(&packet, message, &ends))
                .into_iter()
                .collect(),
        }
    }

    fn dns(
        &mut self,
        packet: &Packet<'_>,
        message: dns::Message,
        ends: &impl Fn(bool) -> Option<Ends>,
    ) -> Option<Message> {
        let dns::Message { id, is_answer, dns } = message;
        let key = (ends(is_answer)?, packet.protocol, id);
        if !is_answer {
            self.questions.insert(key, (dns.query.clone(), packet.time));
            return Some(told(L7FlowType::Request, None, Record::Dns(dns)));
        }
        let asked = self.questions.remove(&key).filter(|(query, _)| *query == dns.query);
        let since = asked.map(|(_, time)| latency(time, packet.time));
        Some(told(L7FlowType::Response, since, Record::Dns(dns)))
    }

    fn http(
        &mut self,
        packet: &Packet<'_>,
        message: http::Message,
        ends: &impl Fn(bool) -> Option<Ends>,
    ) -> Option<Message> {
        match message {
            http::Message::Request { method, url, protocol } => {
                let connection = self.connections.entry(ends(false)?, Connection::default);
                if connection.asked.replace(packet.sequence) == Some(packet.sequence) {
                    return None;
                }
                connection.request = Some(Request {
                    expects: packet.acknowledgment,
                    time: packet.time,
                    method: method.clone(),
                    url: url.clone(),
                });
                let http = Http { method, url, protocol, ..Http::default() };
                Some(told(L7FlowType::Request, None, Record::Http(http)))
            }
            http::Message::Response { code, protocol } => {
                let connection = self.connections.entry(ends(true)?, Connection::default);
                if connection.answered.replace(packet.sequence) == Some(packet.sequence) {
                    return None;
                }
                let (request, since) = connection.answer(packet, code).unzip();
                let (method, url) = request.unwrap_or_default();
                let http = Http { code: code.into(), method, url, protocol, ..Http::default() };
                Some(told(L7FlowType::Response, since, Record::Http(http)))
            }
        }
    }
}

impl Connection {
    /// The method and URL that `packet` answers, and how long after.
    fn answer(&mut self, packet: &Packet<'_>, code: u16) -> Option<((String, String), u64)> {
        // One that another follows (RFC 9110, section 15.2); after 101 it is HTTP no more.
        let is_interim = (100..200).contains(&code) && code != 101;
        let request = self.request.as_mut().filter(|request| request.expects == packet.sequence)?;
        let since = latency(request.time, packet.time);
        if is_interim {
            request.expects = packet.sequence.wrapping_add(packet.length);
            return Some(((request.method.clone(), request.url.clone()), since));
        }
        let asked = (mem::take(&mut request.method), mem::take(&mut request.url));
        self.request = None;
        Some((asked, since))
    }
}

fn told(kind: L7FlowType, since: Option<u64>, record: Record) -> Message {
    let layer7 = Layer7 { r#type: kind.into(), latency_ns: since.unwrap_or_default(), record: Some(record) };
    Message { layer7, paired: since.is_some() }
}

/// Records of two CPUs may overtake each other: no less than nothing.
fn latency(from: Time, to: Time) -> u64 {
    u64::try_from(to.0.saturating_sub(from.0)).unwrap_or_default()
}

/// The messages of a TCP segment, each behind its length (RFC 1035, section 4.2.2); the last may be cut short.
fn segment(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        bytes = rest;
        Some(message)
    })
}

#[cfg(test)]
mod tests;
