//! The command lines that a trace runs, as data: built here, run by [`crate::bench`], shown on the page.
//!
//! Pure; what is shown is what is run.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use lab::Place;

/// A command line and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub place: Place,
    pub argv: Vec<String>,
}

impl Line {
    pub fn new<S: Into<String>>(place: Place, argv: impl IntoIterator<Item = S>) -> Self {
        Self { place, argv: argv.into_iter().map(Into::into).collect() }
    }

    /// A shell's command line, pipes and all.
    pub fn shell(place: Place, script: impl Into<String>) -> Self {
        Self::new(place, ["sh".to_owned(), "-c".to_owned(), script.into()])
    }
}

impl Line {
    /// One of this program's own subcommands; `filter` is a pipe's other end, or empty.
    pub fn twinplane(place: Place, arguments: &[&str], filter: &str) -> Self {
        let words = std::iter::once("twinplane").chain(arguments.iter().copied());
        let command = words.map(quoted).collect::<Vec<_>>().join(" ");
        Self::shell(place, if filter.is_empty() { command } else { format!("{command} | {filter}") })
    }
}

/// As one would type it.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.argv[..] {
            [shell, flag, script] if shell == "sh" && flag == "-c" => f.write_str(script),
            argv => f.write_str(&argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
        }
    }
}

/// A word in single quotes where a shell would take it apart.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// One request; its last line of output is for [`crate::requests`].
pub fn request(url: &str, limit_s: u64) -> Line {
    let limit = limit_s.to_string();
    Line::new(Place::Client, ["curl", "-s", "--max-time", &limit, "-w", REQUEST_REPORT, url])
}

/// curl's `--write-out` of [`request`].
const REQUEST_REPORT: &str = r"\n%{http_code} %{time_total}\n";

/// Several requests, one after the other, each with a row: the client's end and the status of the answer.
pub fn request_several(url: &str, count: usize, limit_s: u64) -> Line {
    let address = if url.contains('[') { "[%{local_ip}]" } else { "%{local_ip}" };
    let curl = format!(
        r"curl -s -o /dev/null --max-time {limit_s} -w '{address}:%{{local_port}} %{{http_code}}\n' {url}"
    );
    Line::shell(Place::Client, format!("for i in $(seq {count}); do {curl}; done"))
}

/// Segments that begin or end a connection, of either side.
pub fn watch_ends(place: Place, interface: &str, ports: &[u16]) -> Line {
    let ports = ports.iter().collect::<BTreeSet<_>>();
    let ports = ports.into_iter().map(|port| format!("port {port}")).collect::<Vec<_>>().join(" or ");
    let filter = format!("tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and ({ports})");
    Line::new(place, ["tcpdump", "-i", interface, "-n", "-l", &filter])
}

/// What a node's connection tracking remembers of some ports of a client.
pub fn tracked_connections(node: &str, client: IpAddr, ports: &[u16]) -> Line {
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join("|");
    let family = if client.is_ipv4() { "ipv4" } else { "ipv6" };
    let list = format!("conntrack -L -f {family} -p tcp --orig-src {client} 2>/dev/null");
    Line::shell(Place::Node(node.to_owned()), format!("{list} | grep -E ' sport=({ports}) ' || true"))
}

/// What one node's health check and its answer look like on the load balancer's side of the wire, once each.
///
/// Only segments with data. `-A` prints the IP and TCP headers too, as dots: awk leaves the summary and what was said.
pub fn watch_health_check(interface: &str, node: &str, port: u16) -> Line {
    let filter = format!("host {node} and tcp port {port} and tcp[tcpflags] & tcp-push != 0");
    let keep = r"/ IP /{said=0; print} match($0, /(GET |HTTP\/1).*/){said=1; $0=substr($0, RSTART)} said";
    let script = format!("tcpdump -i {interface} -nn -q -A -c 2 '{filter}' | awk '{keep}'");
    Line::shell(Place::Edge, script)
}

/// First segments of connections to the traced ports, on every interface of a node, in the order they pass.
pub fn watch_first_segments(place: Place, interface: &str, ports: &[u16]) -> Line {
    let ports = ports.iter().map(|port| format!("dst port {port}")).collect::<Vec<_>>().join(" or ");
    let filter = format!("tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn and ({ports})");
    Line::new(place, ["tcpdump", "-i", interface, "-nn", "-q", "-l", &filter])
}

/// The rules of some chains, with their counters.
pub fn rules_of(node: &str, chains: &[String]) -> Line {
    let chains = chains.join("|");
    Line::shell(
        Place::Node(node.to_owned()),
        format!("iptables-save -c | grep -E -- '^\\[.*({chains})( |$)'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_as_it_would_be_typed() {
        let line = Line::new(Place::Client, ["curl", "-w", r"\n%{http_code}", "http://203.0.113.1/", "it's"]);
        assert_eq!(line.to_string(), r"curl -w '\n%{http_code}' http://203.0.113.1/ 'it'\''s'");
        assert_eq!(Line::shell(Place::Edge, "a | b").to_string(), "a | b");
    }

    #[test]
    fn a_typed_line_reads_back_as_its_words() {
        let words = ["plain", "two words", "it's", "", "a|b", "$x", r"back\slash", "\"double\""];
        let typed = Line::new(Place::Client, words.map(str::to_owned)).to_string();
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf '%s\\n' {typed}")])
            .output()
            .expect("run sh");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), words);
    }
}
