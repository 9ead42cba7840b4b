//! Reads the text of rules: what [`crate::rule`] writes and what `iptables-save` prints.
//!
//! Rules of other programs are kept as text, never guessed at.

use std::{borrow::Cow, collections::BTreeMap, iter::Peekable};

use ipnet::IpNet;
use model::{Port, Protocol, told::Stop};

use crate::{
    names::ChainName,
    rule::{ConnState, Match, Prefix, Probability, Rule, Target},
    ruleset::Table,
};

/// A rule that is none of ours, or not well formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read rule {rule:?}: {problem}")]
pub struct ParseError {
    pub rule: String,
    pub problem: String,
}

/// The answer of `iptables-save`, with or without `-c`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub tables: BTreeMap<Table, BTreeMap<ChainName, Vec<SavedRule>>>,
}

/// One rule as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// What follows `-A CHAIN `.
    pub text: String,
    /// Zero without `-c`.
    pub packets: u64,
    pub bytes: u64,
}

impl SavedRule {
    /// # Errors
    /// The rule uses something that no rule of ours does.
    pub fn rule(&self) -> Result<Rule, ParseError> {
        rule(&self.text)
    }
}

impl Saved {
    /// Reads all tables that [`Table`] names; others are skipped.
    pub fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::from_name(name);
                if let Some(table) = table {
                    saved.tables.entry(table).or_default();
                }
            } else if let Some(chains) = table.and_then(|table| saved.tables.get_mut(&table)) {
                read_line(line, chains);
            }
        }
        saved
    }

    pub fn chain(&self, table: Table, chain: &str) -> Option<&[SavedRule]> {
        self.tables.get(&table)?.get(chain).map(Vec::as_slice)
    }

    pub fn chains(&self, table: Table) -> impl Iterator<Item = (&ChainName, &[SavedRule])> {
        self.tables.get(&table).into_iter().flatten().map(|(name, rules)| (name, rules.as_slice()))
    }
}

fn read_line(line: &str, chains: &mut BTreeMap<ChainName, Vec<SavedRule>>) {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap_or(declared);
        chains.entry(ChainName::new(name)).or_default();
        return;
    }
    let (packets, bytes, rest) = counters(line);
    if let Some((chain, text)) =
        rest.strip_prefix("-A ").map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
    {
        let rule = SavedRule { text: text.to_owned(), packets, bytes };
        chains.entry(ChainName::new(chain)).or_default().push(rule);
    }
}

/// `[packets:bytes] ` in front of a rule.
fn counters(line: &str) -> (u64, u64, &str) {
    let read = || {
        let (counters, rest) = line.strip_prefix('[')?.split_once("] ")?;
        let (packets, bytes) = counters.split_once(':')?;
        Some((packets.parse().ok()?, bytes.parse().ok()?, rest))
    };
    read().unwrap_or((0, 0, line))
}

/// Reads one rule, without its `-A CHAIN`.
///
/// # Errors
/// It uses something that no rule of ours does.
pub fn rule(text: &str) -> Result<Rule, ParseError> {
    Parser { words: words(text).into_iter().peekable(), rule: Rule::new() }
        .read()
        .map_err(|problem| ParseError { rule: text.to_owned(), problem })
}

/// Splits as a shell would: blanks, double quotes, backslash within them.
pub(crate) fn words(text: &str) -> Vec<Cow<'_, str>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut word = String::new();
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => word.extend(chars.next().map(|(_, c)| c)),
                    c => word.push(c),
                }
            }
            words.push(Cow::Owned(word));
            rest = quoted[end..].trim_start();
        } else {
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            words.push(Cow::Borrowed(word));
            rest = tail.trim_start();
        }
    }
    words
}

struct Parser<'a, I: Iterator<Item = Cow<'a, str>>> {
    words: Peekable<I>,
    rule: Rule,
}

impl<'a, I: Iterator<Item = Cow<'a, str>>> Parser<'a, I> {
    fn read(mut self) -> Result<Rule, String> {
        while let Some(word) = self.words.next() {
            let (negated, word) = if word == "!" { (true, self.value("!")?) } else { (false, word) };
            match word.as_ref() {
                "-s" => self.rule.source = self.prefix(negated)?,
                "-d" => self.rule.destination = self.prefix(negated)?,
                "-p" if !negated => self.rule.protocol = Some(self.protocol()?),
                "-m" if !negated => {
                    let condition = self.condition()?;
                    self.rule.matches.push(condition);
                }
                "-j" if !negated => self.rule.target = Some(self.target()?),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(self.rule)
    }

    fn value(&mut self, of: &str) -> Result<Cow<'a, str>, String> {
        self.words.next().ok_or_else(|| format!("{of} lacks its value"))
    }

    /// The value of the option `flag`, if it comes next.
    fn option(&mut self, flag: &str) -> Option<Cow<'a, str>> {
        self.words.next_if(|word| word == flag)?;
        self.words.next()
    }

    fn flag(&mut self, flag: &str) -> bool {
        self.words.next_if(|word| word == flag).is_some()
    }

    fn required(&mut self, flag: &str) -> Result<Cow<'a, str>, String> {
        self.option(flag).ok_or_else(|| format!("expected {flag}"))
    }

    fn prefix(&mut self, negated: bool) -> Result<Option<Prefix>, String> {
        let value = self.value("address")?;
        let net = match value.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => value.parse::<std::net::IpAddr>().map_err(|e| format!("{value:?}: {e}"))?.into(),
        };
        Ok(Prefix::new(net, negated))
    }

    fn protocol(&mut self) -> Result<Protocol, String> {
        protocol(&self.value("-p")?)
    }

    fn condition(&mut self) -> Result<Match, String> {
        let name = self.value("-m")?;
        Ok(match name.as_ref() {
            "comment" => Match::Comment(self.required("--comment")?.into_owned()),
            "tcp" | "udp" | "sctp" => Match::Transport {
                protocol: protocol(&name)?,
                destination: self
                    .option("--dport")
                    .map(|port| number::<u16>(&port))
                    .transpose()?
                    .and_then(Port::new),
            },
            "conntrack" => {
                let negated = self.flag("!");
                Match::ConnState { negated, states: states(&self.required("--ctstate")?)? }
            }
            "mark" => {
                let negated = self.flag("!");
                let (value, mask) = masked(&self.required("--mark")?)?;
                Match::Mark { negated, value, mask }
            }
            "addrtype" => self.address_type()?,
            "statistic" => {
                if self.required("--mode")? != "random" {
                    return Err("unknown statistic mode".to_owned());
                }
                let fraction = self.required("--probability")?;
                Match::Statistic(Probability::from_fraction(number(&fraction)?))
            }
            "recent" => self.recent()?,
            "nfacct" => Match::Account(self.required("--nfacct-name")?.into_owned()),
            other => return Err(format!("unknown match {other:?}")),
        })
    }

    fn address_type(&mut self) -> Result<Match, String> {
        let flag = self.value("addrtype")?;
        match (flag.as_ref(), self.value("address type")?.as_ref()) {
            ("--src-type", "LOCAL") => Ok(Match::SourceLocal),
            ("--dst-type", "LOCAL") => Ok(Match::DestinationLocal),
            (flag, kind) => Err(format!("unknown address type {flag} {kind}")),
        }
    }

    fn recent(&mut self) -> Result<Match, String> {
        let check = self.flag("--rcheck");
        if !check && !self.flag("--set") {
            return Err("unknown kind of recent".to_owned());
        }
        let seconds = self.option("--seconds").map(|seconds| number(&seconds)).transpose()?;
        let reap = self.flag("--reap");
        let list = ChainName::new(self.required("--name")?);
        if let Some(mask) = self.option("--mask")
            && mask != "255.255.255.255"
            && mask != "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        {
            return Err(format!("unknown mask {mask}"));
        }
        if !self.flag("--rsource") {
            return Err("expected --rsource".to_owned());
        }
        match (check, seconds, reap) {
            (true, Some(seconds), true) => Ok(Match::RecentCheck { list, seconds }),
            (false, None, false) => Ok(Match::RecentSet { list }),
            _ => Err("unknown options of recent".to_owned()),
        }
    }

    fn target(&mut self) -> Result<Target, String> {
        let name = self.value("-j")?;
        Ok(match name.as_ref() {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "REJECT" => match self.option("--reject-with").as_deref() {
                None | Some("icmp-port-unreachable" | "icmp6-port-unreachable") => Target::Reject,
                Some(other) => return Err(format!("unknown rejection {other:?}")),
            },
            "MARK" => {
                let (value, mask) = masked(&self.required("--set-xmark")?)?;
                Target::SetMark { value, mask }
            }
            "MASQUERADE" => Target::Masquerade { random_fully: self.flag("--random-fully") },
            "DNAT" => {
                let address = self.required("--to-destination")?;
                Target::Dnat(address.parse().map_err(|e| format!("{address:?}: {e}"))?)
            }
            "NFLOG" => {
                let prefix = self.required("--nflog-prefix")?;
                let stop = Stop::from_name(&prefix).ok_or_else(|| format!("unknown prefix {prefix:?}"))?;
                Target::Log { group: number(&self.required("--nflog-group")?)?, stop }
            }
            // Any other target of the kernel is in capitals without a dash; ours would have options that fail above.
            chain => Target::Jump(ChainName::new(chain)),
        })
    }
}

fn protocol(name: &str) -> Result<Protocol, String> {
    name.to_ascii_uppercase().parse()
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

fn states(text: &str) -> Result<Vec<ConnState>, String> {
    let mut states = text
        .split(',')
        .map(|name| {
            let known = ConnState::ALL.iter().find(|(_, known)| *known == name);
            known.map(|(state, _)| *state).ok_or_else(|| format!("unknown state {name:?}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    states.sort_unstable();
    Ok(states)
}

/// `VALUE/MASK`, or `VALUE` alone with a full mask.
fn masked(text: &str) -> Result<(u32, u32), String> {
    let hex = |text: &str| {
        u32::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|error| format!("{text:?}: {error}"))
    };
    match text.split_once('/') {
        Some((value, mask)) => Ok((hex(value)?, hex(mask)?)),
        None => Ok((hex(text)?, u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_save_adds_is_understood() {
        let written =
            "-p tcp -m comment --comment \"a/b\" -m recent --set --name KUBE-SEP-X --rsource -j REJECT";
        let saved = "-p tcp -m comment --comment \"a/b\" -m recent --set --name KUBE-SEP-X --mask 255.255.255.255 \
                     --rsource -j REJECT --reject-with icmp-port-unreachable";
        assert_eq!(rule(written), rule(saved));
        assert_eq!(rule(written).map(|rule| rule.to_string()), Ok(written.to_owned()));
    }

    #[test]
    fn a_rounded_probability_is_the_same_probability() {
        for n in 2..2000 {
            let probability = Probability::one_in(n);
            let printed = Match::Statistic(probability).to_string();
            assert_eq!(rule(&printed).map(|rule| rule.matches), Ok(vec![Match::Statistic(probability)]));
        }
        assert_eq!(format!("{:.11}", Probability::one_in(3).fraction()), "0.33333333349");
    }

    #[test]
    fn quotes_in_a_comment_do_not_end_it() {
        let text = Rule::new().comment(r#"a " b \ -j DROP"#).to_string();
        assert_eq!(
            rule(&text).map(|rule| rule.comment_text().map(str::to_owned)),
            Ok(Some(r#"a " b \ -j DROP"#.into()))
        );
    }

    #[test]
    fn foreign_rules_are_refused_and_kept_as_text() {
        let saved = Saved::parse(
            "*filter\n:INPUT DROP [1:2]\n[3:4] -A INPUT -i eth0 -m limit --limit 1/s -j LOG\nCOMMIT\n",
        );
        let [only] = saved.chain(Table::Filter, "INPUT").expect("chain") else { panic!("one rule") };
        assert_eq!((only.packets, only.bytes), (3, 4));
        assert!(only.rule().is_err());
    }
}
