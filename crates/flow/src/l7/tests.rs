use super::*;
use crate::testing::{dns_answer, dns_question};

const SECOND: i64 = 1_000_000_000;

fn ends(client: u16) -> Ends {
    let at = |text: &str, port| SocketAddr::new(text.parse().expect("address"), port);
    Ends { client: at("10.20.0.5", client), server: at("10.24.0.10", 80) }
}

/// A connection's packets, as both sides send them.
struct Talk {
    conversations: Conversations,
    client: u16,
    now: i64,
}

impl Talk {
    fn new() -> Self {
        Self { conversations: Conversations::new(), client: 40000, now: 0 }
    }

    fn says(&mut self, (sequence, acknowledgment): (u32, u32), text: &str) -> Vec<Message> {
        self.now += 1000;
        let packet = Packet {
            protocol: protocol::TCP,
            time: Time(self.now),
            sequence,
            acknowledgment,
            length: text.len() as u32,
            payload: text.as_bytes(),
        };
        let ends = ends(self.client);
        self.conversations.read(packet, false, |_| Some(ends))
    }

    /// Code, what it answers, and how long after.
    fn answers(&mut self, numbers: (u32, u32), code: u16) -> (u32, String, u64) {
        let messages = self.says(numbers, &format!("HTTP/1.1 {code} x\r\n\r\n"));
        let [Message { layer7, paired }] = &messages[..] else { panic!("{messages:?}") };
        let Some(Record::Http(http)) = &layer7.record else { panic!("{layer7:?}") };
        assert_eq!(*paired, layer7.latency_ns > 0);
        (http.code, format!("{} {}", http.method, http.url), layer7.latency_ns)
    }
}

const LENGTH: u32 = "HTTP/1.1 200 x\r\n\r\n".len() as u32;

#[test]
fn each_response_has_the_request_it_answers() {
    let mut talk = Talk::new();
    let [request] = &talk.says((1, 500), "GET /a HTTP/1.1\r\nHost: web\r\n\r\n")[..] else { panic!("one") };
    assert!(!request.is_response());
    assert_eq!(talk.answers((30, 500), 200), (200, " ".into(), 0), "a number that is not the next");
    assert_eq!(talk.answers((500, 30), 200), (200, "GET http://web/a".into(), 2000));
    talk.says((30, 700), "POST /b HTTP/1.1\r\n\r\n");
    assert_eq!(talk.answers((700, 60), 404), (404, "POST /b".into(), 1000), "on the same connection");
    talk.client = 40001;
    assert_eq!(talk.answers((700, 60), 200), (200, " ".into(), 0), "another connection");
}

#[test]
fn a_lost_record_joins_nothing_that_does_not_belong_together() {
    let mut talk = Talk::new();
    talk.says((1, 500), "GET /a HTTP/1.1\r\n\r\n");
    // Its response is lost.
    talk.says((30, 700), "GET /b HTTP/1.1\r\n\r\n");
    assert_eq!(talk.answers((700, 60), 200), (200, "GET /b".into(), 1000));
    // The next request is lost.
    assert_eq!(talk.answers((900, 90), 200), (200, " ".into(), 0));
    // Pipelined: the second comes before the first is answered.
    talk.says((100, 1000), "GET /c HTTP/1.1\r\n\r\n");
    talk.says((130, 1000), "GET /d HTTP/1.1\r\n\r\n");
    talk.answers((1000 + LENGTH, 160), 200);
}

#[test]
fn what_is_sent_again_is_told_once_and_interim_responses_are_not_the_last() {
    let mut talk = Talk::new();
    assert_eq!(talk.says((1, 500), "PUT /a HTTP/1.1\r\n\r\n").len(), 1);
    assert_eq!(talk.says((1, 500), "PUT /a HTTP/1.1\r\n\r\n").len(), 0);
    assert_eq!(talk.answers((500, 30), 100).1, "PUT /a");
    assert_eq!(talk.answers((500 + LENGTH, 30), 201), (201, "PUT /a".into(), 3000));
    assert_eq!(talk.says((500 + LENGTH, 30), "HTTP/1.1 201 x\r\n\r\n").len(), 0);
    talk.says((30, 900), "GET /ws HTTP/1.1\r\n\r\n");
    assert_eq!(talk.answers((900, 60), 101).1, "GET /ws");
    assert_eq!(talk.answers((900 + LENGTH, 60), 200).1, " ", "101 is the last");
}

fn datagram(payload: &[u8], time: i64) -> Packet<'_> {
    Packet {
        protocol: protocol::UDP,
        time: Time(time),
        sequence: 0,
        acknowledgment: 0,
        length: payload.len() as u32,
        payload,
    }
}

#[test]
fn an_answer_belongs_to_the_question_of_its_number_and_name() {
    let mut conversations = Conversations::new();
    let mut say = |payload: &[u8], time| {
        let messages = conversations.read(datagram(payload, time), true, |_| Some(ends(40000)));
        let [message] = &messages[..] else { panic!("{messages:?}") };
        (message.answer().is_some(), message.layer7.latency_ns)
    };
    let question = dns_question(7, "web.example.", 1);
    let addresses = ["192.0.2.1".parse().expect("address")];
    let answer = dns_answer(&question, 0, None, &addresses, 30);
    assert_eq!(say(&answer, 5), (false, 0), "nobody asked");
    assert_eq!(say(&question, 10), (false, 0));
    assert_eq!(
        say(&dns_answer(&dns_question(8, "web.example.", 1), 0, None, &addresses, 30), 20),
        (false, 0)
    );
    assert_eq!(say(&answer, SECOND), (true, (SECOND - 10) as u64));
    assert_eq!(say(&answer, SECOND), (false, 0), "once");
    assert_eq!(say(&question, 10), (false, 0));
    let other = dns_answer(&dns_question(7, "evil.example.", 1), 0, None, &addresses, 30);
    assert_eq!(say(&other, 20), (false, 0), "another name");
}

#[test]
fn a_segment_may_hold_several_messages_of_dns() {
    let behind_length = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let (a, b) = (dns_question(1, "a.", 1), dns_question(2, "b.", 28));
    let segment = [behind_length(&a), behind_length(&b)].concat();
    let queries = |bytes: &[u8]| -> Vec<String> {
        let packet = Packet { protocol: protocol::TCP, ..datagram(bytes, 1) };
        let messages = Conversations::new().read(packet, true, |_| Some(ends(40000)));
        let query = |message: Message| match message.layer7.record {
            Some(Record::Dns(dns)) => dns.query,
            other => panic!("{other:?}"),
        };
        messages.into_iter().map(query).collect()
    };
    assert_eq!(queries(&segment), ["a.", "b."]);
    assert_eq!(queries(&segment[..segment.len() - 5]), ["a."], "the second is cut");
    assert_eq!(queries(&segment.repeat(20)).len(), MESSAGES);
}
