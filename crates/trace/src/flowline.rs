//! The compact lines of `twinplane observe`, read back: what the page shows is what is counted.
//!
//! Pure. A line of another form is no flow.

use std::str::FromStr;

/// One flow as a line tells it. The client stands on the left, whoever sent the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLine {
    /// The node that saw it; empty where the line does not name it.
    pub node: String,
    pub client: End,
    pub server: End,
    /// Unknown where the arrow points both ways.
    pub is_answer: Option<bool>,
    /// `FORWARDED`
    pub verdict: String,
    /// TCP flags in the line's own order; none where the flow is not TCP.
    pub flags: Vec<String>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// With its port, as printed.
    pub host: String,
    /// `world`, `ID:18565`
    pub identity: String,
}

/// A line that is no flow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse a flow's line")]
pub struct NotAFlow;

impl FlowLine {
    /// The flows of `output`, in order; other lines are passed over.
    pub fn all(output: &str) -> Vec<Self> {
        output.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether this flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|set| set == flag)
    }
}

impl End {
    /// Without the port.
    pub fn name(&self) -> &str {
        self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name)
    }

    /// A number that the cluster gave to a set of labels, not one of the reserved ones.
    pub fn is_workload(&self) -> bool {
        self.identity.strip_prefix("ID:").is_some_and(|number| number.parse().is_ok_and(|id: u32| id >= 256))
    }
}

/// `TIME[ [NODE]]: CLIENT (IDENTITY) ARROW SERVER (IDENTITY) TYPE VERDICT (SUMMARY)`
impl FromStr for FlowLine {
    type Err = NotAFlow;

    fn from_str(line: &str) -> Result<Self, NotAFlow> {
        parse(line).ok_or(NotAFlow)
    }
}

fn parse(line: &str) -> Option<FlowLine> {
    let (stamp, flow) = line.trim_end().split_once(": ")?;
    let node = stamp.split_once(" [").and_then(|(_, node)| node.strip_suffix(']')).unwrap_or_default();
    let (client, rest) = end(flow)?;
    let (arrow, rest) = rest.split_once(' ')?;
    let (server, rest) = end(rest)?;
    // A summary may have parentheses of its own.
    let (seen, summary) = rest.strip_suffix(')')?.split_once(" (")?;
    let is_answer = match arrow {
        "->" => Some(false),
        "<-" => Some(true),
        "<>" => None,
        _ => return None,
    };
    // Before the verdict stands the type, of one word or more.
    let verdict = seen.rsplit_once(' ')?.1.to_owned();
    let flags =
        summary.strip_prefix("TCP Flags: ").map(|flags| flags.split(", ").map(str::to_owned).collect());
    Some(FlowLine {
        node: node.to_owned(),
        client,
        server,
        is_answer,
        verdict,
        flags: flags.unwrap_or_default(),
    })
}

/// `HOST (IDENTITY)`, and what is behind it.
fn end(text: &str) -> Option<(End, &str)> {
    let (host, rest) = text.split_once(" (")?;
    let (identity, rest) = rest.split_once(") ")?;
    Some((End { host: host.to_owned(), identity: identity.to_owned() }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_client_stays_on_the_left() {
        let text = "Nov 23 03:55:02.934 [node-a]: 198.51.100.10:46674 (world-ipv4) <- netflow-test/nginx-5d-x:80 \
                    (ID:23938) from-endpoint FORWARDED (TCP Flags: SYN, ACK)";
        let line: FlowLine = text.parse().expect("a flow");
        assert_eq!((line.node.as_str(), line.is_answer), ("node-a", Some(true)));
        assert_eq!(line.client.name(), "198.51.100.10");
        assert_eq!((line.client.is_workload(), line.server.is_workload()), (false, true));
        assert_eq!(line.server.host, "netflow-test/nginx-5d-x:80");
        assert_eq!(line.verdict, "FORWARDED");
        assert!(line.has("SYN") && line.has("ACK") && !line.has("FIN"));
    }

    #[test]
    fn drops_other_protocols_and_lines_without_a_node_are_read_too() {
        let lines = FlowLine::all(
            "Nov 23 03:55:02.935: 10.244.0.10:41046 (ID:27793) <> [fd00::b]:9090 (ID:255) Policy denied DROPPED (TCP \
             Flags: SYN)\n\
             EVENTS LOST: HUBBLE_RING_BUFFER CPU(0) 3\n\
             flows: 20 shown, 30 seen since the server started; events among those asked for: none lost\n\
             Nov  3 03:55:02.935: 10.244.0.10:35662 (ID:27793) <- 10.244.0.11:5353 (host) to-endpoint FORWARDED (UDP)\n",
        );
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!((lines[0].verdict.as_str(), lines[0].is_answer), ("DROPPED", None));
        assert_eq!(lines[0].server.name(), "[fd00::b]");
        assert!(lines[0].client.is_workload() && !lines[0].server.is_workload(), "255 is reserved");
        assert_eq!((lines[1].server.identity.as_str(), lines[1].flags.len()), ("host", 0));
        assert_eq!(lines[1].node, "");
        let answer = "Nov  3 03:55:02.935: a/b:5 (ID:300) <- a/dns:53 (ID:301) dns-response proxy FORWARDED (DNS Answer \
                      \"1.2.3.4\" TTL: 30 (Proxy name. A))";
        assert_eq!(answer.parse::<FlowLine>().expect("a flow").verdict, "FORWARDED");
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in ".*") {
            let _ = line.parse::<FlowLine>();
        }
    }
}
