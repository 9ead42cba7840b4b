//! What packets say, as flows: those of the packet, with the message in place of where it was seen.

use std::net::SocketAddr;

use abi::{Be16, L7Event, event_flags};

use super::{Decoder, Parts, UnknownRecord};
use crate::{
    directory::Directory,
    event::{Body, Event, L4, Seen, TcpFlags, Time},
    l7::{Ends, Packet},
};

const DNS_PORT: u16 = 53;

impl Decoder {
    /// The messages of `payload`, the first bytes of what a packet carried; empty where it holds none, or was seen before.
    /// `boot` is as for [`Self::decode`].
    ///
    /// # Errors
    /// The record has a number that this version does not know.
    pub fn decode_l7(
        &mut self,
        record: &L7Event,
        payload: &[u8],
        directory: &Directory,
        boot: Time,
    ) -> Result<Vec<Event>, UnknownRecord> {
        let head = &record.event;
        let parts = Parts::of(head)?;
        let time = self.time(head, boot);
        let packet = Packet {
            protocol: head.protocol,
            time,
            sequence: record.sequence,
            acknowledgment: record.acknowledgment,
            length: record.length,
            payload,
        };
        let came = [head.source_port, head.destination_port];
        let leaves = [head.new_source_port, head.new_destination_port];
        let is_dns = came.iter().chain(&leaves).any(|port| port.get() == DNS_PORT);
        let messages = self.conversations.read(packet, is_dns, |answers| ends(head, parts, answers));
        let mut events = Vec::with_capacity(messages.len());
        for message in messages {
            let mut flow = self.flow(head, parts, directory, time);
            if let Some(dns) = message.answer() {
                self.names.learn(flow.destination.id, dns, time);
            }
            let is_response = message.is_response();
            flow.is_reply = Some(is_response);
            flow.direction = parts.direction(Some(is_response));
            flow.seen = Seen::L7(Box::new(message.layer7));
            if let L4::Tcp { flags, .. } = &mut flow.l4 {
                *flags = TcpFlags::default();
            }
            events.push(Event { time, body: Body::Flow(flow) });
        }
        Ok(events)
    }
}

/// As the client sees it: questions as they were addressed, answers as they arrive.
fn ends(record: &abi::Event, parts: Parts, answers: bool) -> Option<Ends> {
    let at = |words, port: Be16| Some(SocketAddr::new((parts.address)(words)?, port.get()));
    let (source, destination) = match answers && record.flags & event_flags::TRACKED != 0 {
        true => (
            at(record.new_source, record.new_source_port)?,
            at(record.new_destination, record.new_destination_port)?,
        ),
        false => (at(record.source, record.source_port)?, at(record.destination, record.destination_port)?),
    };
    Some(match answers {
        true => Ends { client: destination, server: source },
        false => Ends { client: source, server: destination },
    })
}

#[cfg(test)]
mod tests;
