//! Sets aside what allocation and the clock decided, so that two captures can be compared for what they mean.
//!
//! A value is replaced only when the cluster's own objects say what it is (a [`Vocabulary`]), or when its form
//! alone says that it is a time, an age, a UID or a source port. Equal values get equal placeholders and different
//! values different ones, numbered by first appearance, so that a swap, a repetition or a missing row still shows.
//! Everything else stays as captured: an unknown address is a difference.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, sync::LazyLock};

use regex_lite::Regex;

use crate::attempt::{Attempt, Outcome};

/// What a value is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    ClusterIp,
    Vip,
    NodePort,
    HealthCheckNodePort,
    Pod,
    PodAddress,
    ReplicaSet,
    /// Any address that a node answers to, its gateway towards pods included.
    Node,
    Client,
    Namespace,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster-ip",
            Self::Vip => "vip",
            Self::NodePort => "node-port",
            Self::HealthCheckNodePort => "health-check-port",
            Self::Pod => "pod",
            Self::PodAddress => "pod-address",
            Self::ReplicaSet => "replica-set",
            Self::Node => "node",
            Self::Client => "client",
            Self::Namespace => "network-namespace",
        }
    }
}

/// How a capture's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Kept but for the vocabulary, times and UIDs.
    Plain,
    /// kubectl's tables and descriptions: a lone `4m12s` is an age.
    Kubectl,
    /// tcpdump: source ports from the ephemeral range and byte counts go; what was said stays.
    Wire,
    /// Rows of [`Attempt`]: the start goes, durations are kept to the second, and which of the nodes or pods
    /// took a request goes, because the load balancer and the service choose by hash and by chance.
    Requests,
}

/// The values that one cluster allocated, and what each is. Values are unique; the longest match wins.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary(BTreeMap<String, Role>);

impl Vocabulary {
    /// Learns a value; an empty one is passed over.
    pub fn learn(&mut self, value: impl Into<String>, role: Role) {
        let value = value.into();
        if !value.is_empty() {
            self.0.insert(value, role);
        }
    }

    pub fn role(&self, value: &str) -> Option<Role> {
        self.0.get(value).copied()
    }

    /// The longest known value that `text` starts with and that ends there.
    fn at_start_of(&self, text: &str) -> Option<(&str, Role)> {
        let fits = |value: &&String| text.starts_with(value.as_str()) && ends_at(text, value.len());
        let value = self.0.keys().filter(fits).max_by_key(|value| value.len())?;
        Some((value, self.0[value]))
    }
}

/// Normalises one plane's captures of one layer; numbers are shared between them.
#[derive(Debug)]
pub struct Normaliser<'a> {
    vocabulary: &'a Vocabulary,
    numbers: BTreeMap<(&'static str, String), usize>,
    seen: BTreeMap<&'static str, usize>,
}

impl<'a> Normaliser<'a> {
    pub fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, numbers: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// The text with placeholders for what differs by allocation; runs of blanks become one, because column widths
    /// follow the values in them.
    pub fn text(&mut self, text: &str, style: Style) -> String {
        let lines = text.lines().map(|line| self.line(line, style)).collect::<Vec<_>>();
        lines.join("\n").trim().to_owned()
    }

    fn line(&mut self, line: &str, style: Style) -> String {
        if style == Style::Requests
            && let Ok(attempt) = line.parse::<Attempt>()
        {
            return self.attempt(&attempt);
        }
        squeeze(&self.scan(line, style))
    }

    fn attempt(&self, attempt: &Attempt) -> String {
        let took = match attempt.took_us / 1000 {
            0..500 => "at once".to_owned(),
            ms => format!("after {} s", (ms + 500) / 1000),
        };
        match &attempt.outcome {
            Outcome::Answered { status, client } => {
                let role = self.vocabulary.role(client);
                let client = role.map_or(client.clone(), |role| format!("<{}>", role.as_str()));
                format!("{status} {took} client={client}")
            }
            failed => format!("{} {took}", failed.words()),
        }
    }

    fn scan(&mut self, line: &str, style: Style) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            let before = &line[..line.len() - rest.len()];
            let taken = match may_start_behind(before) {
                true => {
                    let alone = before.chars().next_back().is_none_or(char::is_whitespace);
                    self.token(rest, style, alone, &mut out)
                }
                false => 0,
            };
            if taken == 0 {
                out.push(next);
            }
            rest = &rest[if taken == 0 { next.len_utf8() } else { taken }..];
        }
        out
    }

    /// Writes the placeholder of what `rest` starts with and returns its length; 0 where it is an ordinary text.
    fn token(&mut self, rest: &str, style: Style, alone: bool, out: &mut String) -> usize {
        if let Some((value, role)) = self.vocabulary.at_start_of(rest) {
            let (value, length) = (value.to_owned(), value.len());
            self.numbered(role.as_str(), &value, out);
            return length + self.after_address(&value, &rest[length..], style, out);
        }
        for form in FORMS.iter().filter(|form| form.style.is_none_or(|only| only == style)) {
            let complete = |found: &regex_lite::Match<'_>| match form.alone {
                true => alone && rest[found.end()..].chars().next().is_none_or(char::is_whitespace),
                false => true,
            };
            let found = form.regex.find(rest).filter(|found| ends_at(rest, found.end()));
            if let Some(found) = found.filter(complete) {
                match form.numbered {
                    true => self.numbered(form.name, found.as_str(), out),
                    false => out.push_str(form.name),
                }
                return found.end();
            }
        }
        if style == Style::Wire
            && let Some(address) = ADDRESS.find(rest)
        {
            out.push_str(address.as_str());
            return address.end() + self.after_address(address.as_str(), &rest[address.end()..], style, out);
        }
        0
    }

    /// tcpdump writes a port behind the address as one more dotted number. A source port from the kernel's ephemeral
    /// range (ip_local_port_range, 32768 up) goes; a service's port stays. Returns what it took of `rest`.
    fn after_address(&mut self, address: &str, rest: &str, style: Style, out: &mut String) -> usize {
        if style != Style::Wire || address.parse::<IpAddr>().is_err() {
            return 0;
        }
        let Some(digits) = rest.strip_prefix('.') else { return 0 };
        let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
        match (self.vocabulary.role(digits), digits.parse::<u16>()) {
            (Some(role), _) => {
                out.push('.');
                self.numbered(role.as_str(), digits, out);
            }
            (None, Ok(32768..)) => out.push_str(".<source-port>"),
            _ => return 0,
        }
        1 + digits.len()
    }

    fn numbered(&mut self, name: &'static str, value: &str, out: &mut String) {
        let number = *self.numbers.entry((name, value.to_owned())).or_insert_with(|| {
            let seen = self.seen.entry(name).or_default();
            *seen += 1;
            *seen
        });
        // Writing to a String cannot fail.
        let _ = write!(out, "<{name}-{number}>");
    }
}

/// A form that says by itself what a value is.
struct Form {
    regex: Regex,
    name: &'static str,
    /// Whether different values must stay different.
    numbered: bool,
    /// Whether it must be a word of its own, blanks on both sides.
    alone: bool,
    /// The only style it applies in.
    style: Option<Style>,
}

static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| {
    let form = |pattern: &str, name| Form {
        regex: compile(pattern),
        name,
        numbered: false,
        alone: false,
        style: None,
    };
    vec![
        Form { numbered: true, ..form(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "uid") },
        // A cloud's forwarding rule is named after the Service's UID (cloud-provider, DefaultLoadBalancerName).
        Form { numbered: true, ..form(r"^a[0-9a-f]{31}", "load-balancer") },
        // RFC 3339, and Go's time.String() as kube-proxy's health answers carry it.
        form(
            r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( UTC)?( m=[+-][\d.]+)?",
            "<time>",
        ),
        form(r"^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "<time>"),
        form(r"^\d\d:\d\d:\d\d(\.\d+)?", "<time>"),
        Form {
            alone: true,
            style: Some(Style::Kubectl),
            ..form(r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?( \(x\d+ over [\ddhms]+\))?", "<age>")
        },
        Form { style: Some(Style::Wire), ..form(r"^tcp \d+", "tcp <bytes>") },
        Form { style: Some(Style::Wire), ..form(r"^[Cc]ontent-[Ll]ength: \d+", "content-length: <bytes>") },
    ]
});

static ADDRESS: LazyLock<Regex> = LazyLock::new(|| compile(r"^\d{1,3}(\.\d{1,3}){3}"));

#[expect(clippy::expect_used, reason = "the patterns are constants that every test run compiles")]
fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern compiles")
}

/// Whether a value may start behind `before`: not inside a word or a dotted number.
fn may_start_behind(before: &str) -> bool {
    let mut before = before.chars().rev();
    match (before.next(), before.next()) {
        (None, _) => true,
        (Some('.'), Some(digit)) => !digit.is_ascii_digit(),
        (Some(c), _) => !c.is_alphanumeric() && !matches!(c, '_' | '<'),
    }
}

/// Whether a value may end at byte `at`: the word or the dotted number ends there. A dotted quad may have a port behind it.
fn ends_at(text: &str, at: usize) -> bool {
    let (value, rest) = text.split_at(at);
    if value.is_empty() {
        return false;
    }
    let mut after = rest.chars();
    match (after.next(), after.next()) {
        (Some('.'), Some(digit)) if digit.is_ascii_digit() => value.parse::<IpAddr>().is_ok(),
        (Some(c), _) => !c.is_alphanumeric() && !matches!(c, '_' | '>'),
        (None, _) => true,
    }
}

/// One blank for every run of blanks, one rule character for every run of three or more.
fn squeeze(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        let mut run = 1;
        while chars.peek() == Some(&c)
            || (c.is_whitespace() && chars.peek().is_some_and(|n| n.is_whitespace()))
        {
            chars.next();
            run += 1;
        }
        match c {
            _ if c.is_whitespace() => out.push(' '),
            '-' | '─' | '═' | '=' if run >= 3 => out.push(c),
            _ => out.extend(std::iter::repeat_n(c, run)),
        }
    }
    out
}

#[cfg(test)]
mod tests;
