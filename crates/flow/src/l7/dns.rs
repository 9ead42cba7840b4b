//! DNS messages (RFC 1035), as far as their bytes go: a message that was cut short says what is there. Never follows a name
//! forward, so that it ends; never holds more than its bytes say.
//!
//! Own, because parsers of whole messages refuse those that were cut.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::proto::flow::Dns;

const HEADER: usize = 12;
/// Octets of a name on the wire (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// A question, or the answer to one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) is_answer: bool,
    pub(super) dns: Dns,
}

/// The message that `bytes` begin with; `None` where they are none, or none that asks for one name.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let word = |at| word(bytes, at);
    let (id, flags, questions, answers) = (word(0)?, word(2)?, word(4)?, word(6)?);
    let is_answer = flags & 0x8000 != 0;
    let is_standard = flags & 0x7800 == 0;
    if bytes.len() < HEADER || !is_standard || questions != 1 {
        return None;
    }
    let (query, end) = name(bytes, HEADER)?;
    let kind = word(end)?;
    word(end + 2)?;
    let mut dns = Dns {
        query,
        qtypes: vec![type_name(kind)],
        // Where Hubble's clients expect messages from that were seen as they passed.
        observation_source: "proxy".into(),
        rcode: if is_answer { u32::from(flags & 0xf) } else { 0 },
        ..Dns::default()
    };
    let (mut at, mut shortest) = (end + 4, None);
    for _ in 0..if is_answer { answers } else { 0 } {
        let Some((ttl, next)) = answer(bytes, at, &mut dns) else { break };
        shortest = Some(shortest.unwrap_or(ttl).min(ttl));
        at = next;
    }
    dns.ttl = shortest.unwrap_or_default();
    Some(Message { id, is_answer, dns })
}

/// Adds the record at `at`; its time to live, and where the next one begins.
fn answer(bytes: &[u8], at: usize, dns: &mut Dns) -> Option<(u32, usize)> {
    let (_, at) = name(bytes, at)?;
    let (kind, ttl) = (word(bytes, at)?, (word(bytes, at + 4)?, word(bytes, at + 6)?));
    let length = usize::from(word(bytes, at + 8)?);
    let data = bytes.get(at + 10..at + 10 + length)?;
    match kind {
        A => {
            let octets: [u8; 4] = data.try_into().ok()?;
            dns.ips.push(IpAddr::from(Ipv4Addr::from(octets)).to_string());
        }
        AAAA => {
            let octets: [u8; 16] = data.try_into().ok()?;
            dns.ips.push(IpAddr::from(Ipv6Addr::from(octets)).to_string());
        }
        CNAME => dns.cnames.push(name(bytes, at + 10)?.0),
        _ => {}
    }
    dns.rrtypes.push(type_name(kind));
    let ttl = u32::from(ttl.0) << 16 | u32::from(ttl.1);
    // RFC 2181, section 8.
    let ttl = if ttl >> 31 == 1 { 0 } else { ttl };
    Some((ttl, at + 10 + length))
}

/// The name at `at`, in lower case and with its final dot, and where it ends there.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut text, mut octets, mut end) = (String::new(), 1, None);
    // Of this part of the name: a pointer leads before it.
    let mut start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length >> 6 {
            0 if length == 0 => break,
            0 => {
                octets += length + 1;
                if octets > LONGEST_NAME {
                    return None;
                }
                escape(bytes.get(at + 1..at + 1 + length)?, &mut text);
                at += 1 + length;
            }
            3 => {
                let target = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                end.get_or_insert(at + 2);
                if target >= start {
                    return None;
                }
                (start, at) = (target, target);
            }
            // Reserved (RFC 6891, section 5).
            _ => return None,
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    Some((text, end.unwrap_or(at + 1)))
}

/// A label as zone files have it (RFC 1035, section 5.1), and its dot.
fn escape(label: &[u8], text: &mut String) {
    for byte in label {
        match byte {
            b'.' | b'\\' | b'"' => text.extend(['\\', char::from(*byte)]),
            0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "\\{byte:03}")),
        }
    }
    text.push('.');
}

/// Of a type that this has no name for: as RFC 3597, section 5 has it.
fn type_name(number: u16) -> String {
    let known = TYPES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("TYPE{number}"), |(_, name)| (*name).to_owned())
}

/// IANA, "Resource Record (RR) TYPEs": those that are met.
const TYPES: [(u16, &str); 22] = [
    (A, "A"),
    (2, "NS"),
    (CNAME, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (AAAA, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (39, "DNAME"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (255, "ANY"),
    (257, "CAA"),
];

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{dns_answer, dns_question};

    #[test]
    fn a_question_and_its_answer_say_what_they_hold() {
        let question = dns_question(7, "Web.Example.", 28);
        let asked = parse(&question).expect("a question");
        assert_eq!((asked.id, asked.is_answer), (7, false));
        assert_eq!(
            (asked.dns.query.as_str(), &asked.dns.qtypes[..]),
            ("web.example.", &["AAAA".to_owned()][..])
        );
        let addresses = ["fd00::1", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().expect("address"));
        let answer = dns_answer(&question, 0, Some("cdn.example."), &addresses, 30);
        let answered = parse(&answer).expect("an answer");
        assert!(answered.is_answer);
        let Dns { query, ips, ttl, cnames, rcode, qtypes, rrtypes, .. } = answered.dns;
        assert_eq!((query.as_str(), rcode, ttl), ("web.example.", 0, 30));
        assert_eq!(
            (ips, cnames),
            (vec!["fd00::1".to_owned(), "192.0.2.1".into()], vec!["cdn.example.".to_owned()])
        );
        assert_eq!(
            (qtypes, rrtypes),
            (vec!["AAAA".to_owned()], vec!["CNAME".to_owned(), "AAAA".into(), "A".into()])
        );
        let refused = parse(&dns_answer(&question, 3, None, &[], 0)).expect("an answer");
        assert_eq!((refused.dns.rcode, refused.dns.ips.len()), (3, 0));
    }

    /// Cut anywhere: what is there, and no more.
    #[test]
    fn a_cut_message_says_what_is_left_of_it() {
        let question = dns_question(7, "a.b.", 1);
        let addresses = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let whole = dns_answer(&question, 0, None, &addresses, 30);
        let records = |length: usize| parse(&whole[..length]).map(|message| message.dns.ips.len());
        let (end, step) = (question.len(), (whole.len() - question.len()) / 3);
        for length in 0..=whole.len() {
            assert_eq!(records(length), length.checked_sub(end).map(|rest| rest / step), "{length}");
        }
    }

    #[test]
    fn names_that_lead_nowhere_or_on_for_ever_are_none() {
        let named = |bytes: &[u8]| parse(&[&dns_question(7, ".", 1)[..HEADER], bytes].concat());
        assert_eq!(named(b"\0\0\x01\0\x01").map(|message| message.dns.query), Some(".".into()));
        for (bad, why) in [
            (&b"\xc0\x0c\0\x01\0\x01"[..], "leads to itself"),
            (b"\x01a\xc0\x0c\0\x01\0\x01", "leads to its beginning"),
            (b"\xc0\xff\0\x01\0\x01", "leads forward"),
            (b"\x41aaa\0\0\x01\0\x01", "a reserved kind of label"),
            (b"\x3faaa\0\0\x01\0\x01", "longer than the message"),
        ] {
            assert_eq!(named(bad), None, "{why}");
        }
        let long = [&[63; 64][..]; 4].concat();
        assert_eq!(named(&[&long[..], b"\0\0\x01\0\x01"].concat()), None, "256 octets");
        let odd = named(b"\x05a.\\\x07\"\0\0\x01\0\x01").expect("a name");
        assert_eq!(odd.dns.query, r#"a\.\\\007\"."#);
    }

    #[test]
    fn others_messages_are_none() {
        let question = dns_question(7, "a.", 1);
        for (at, value) in [(2, 0x28), (5, 0), (5, 2)] {
            let mut other = question.clone();
            other[at] = value;
            assert_eq!(parse(&other), None, "byte {at}: {value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..600_usize, flips in proptest::collection::vec((0..200_usize, any::<u8>()), 0..8)) {
            check(&bytes);
            let question = dns_question(7, "www.shop.example.", 1);
            let mut answer = dns_answer(&question, 0, Some("cdn.example."), &[IpAddr::from([192, 0, 2, 1]); 9], 30);
            for (at, value) in flips {
                if let Some(byte) = answer.get_mut(at) {
                    *byte = value;
                }
            }
            answer.truncate(cut);
            check(&answer);
        }
    }

    fn check(bytes: &[u8]) {
        let Some(Message { dns, .. }) = parse(bytes) else { return };
        for name in [&dns.query].into_iter().chain(&dns.cnames) {
            assert!(name.len() <= 4 * LONGEST_NAME && name.ends_with('.'), "{name}");
            assert!(name.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{name}");
        }
        // A record has at least eleven bytes.
        assert!(dns.rrtypes.len() <= bytes.len() / 11);
        assert!(dns.ips.len() + dns.cnames.len() <= dns.rrtypes.len() + 1);
    }
}
