//! A rule of policies as the kernel has it, read. Pure; never guesses: what no rule of ours has is an error.

use model::Protocol;

use super::sets::SetName;
use crate::{names::ChainName, parse};

/// Matches that must all hold, and what happens then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clause {
    pub input: Option<String>,
    pub output: Option<String>,
    pub l4: Layer4,
    pub states: Option<Vec<String>>,
    /// Of the packet within its flow.
    pub is_reply: Option<bool>,
    /// Of its flow: whether these bits are set, or are not.
    pub mark: Option<(bool, u32)>,
    pub set: Option<(SetName, End)>,
    pub comment: Option<String>,
    pub target: Option<Target>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layer4 {
    #[default]
    Any,
    /// First and last destination port.
    Ports(Protocol, u16, u16),
    IcmpV6,
}

/// The address that a set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Return,
    Drop,
    Log { prefix: String },
    Jump(ChainName),
    Goto(ChainName),
}

/// A rule in one of our chains that none of ours looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read rule {rule:?}: {problem}")]
pub(crate) struct Foreign {
    pub rule: String,
    pub problem: String,
}

impl Clause {
    /// Of what follows `-A CHAIN `.
    ///
    /// # Errors
    /// It is none of ours.
    pub(crate) fn read(text: &str) -> Result<Self, Foreign> {
        let words = parse::words(text);
        let mut words = words.iter().map(|word| &**word);
        let mut clause = Self::default();
        clause.take(&mut words).map_err(|problem| Foreign { rule: text.to_owned(), problem })?;
        Ok(clause)
    }

    fn take<'a>(&mut self, words: &mut impl Iterator<Item = &'a str>) -> Result<(), String> {
        while let Some(word) = words.next() {
            let (holds, word) = if word == "!" { (false, value(words, word)?) } else { (true, word) };
            if !holds && word != "--mark" {
                return Err(format!("{word} is negated"));
            }
            match word {
                // What the match module is called says nothing that its options do not.
                "-m" => _ = value(words, word)?,
                "-i" => self.input = Some(value(words, word)?.to_owned()),
                "-o" => self.output = Some(value(words, word)?.to_owned()),
                "-p" => self.l4 = layer4(value(words, word)?)?,
                "--dport" => self.ports(value(words, word)?)?,
                "--ctstate" => {
                    self.states = Some(value(words, word)?.split(',').map(str::to_owned).collect())
                }
                "--ctdir" => self.is_reply = Some(value(words, word)? == "REPLY"),
                "--mark" => self.mark = Some((holds, mark(value(words, word)?)?)),
                "--match-set" => {
                    let name = SetName::read(value(words, word)?);
                    self.set = Some((name, end(value(words, "set")?)?));
                }
                "--comment" => self.comment = Some(value(words, word)?.to_owned()),
                "-g" => self.target = Some(Target::Goto(ChainName::new(value(words, word)?))),
                "-j" => self.target = Some(target(value(words, word)?, words)?),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(())
    }

    fn ports(&mut self, text: &str) -> Result<(), String> {
        let Layer4::Ports(protocol, ..) = self.l4 else { return Err("ports without a protocol".to_owned()) };
        let port = |text: &str, open| match text {
            "" => Ok(open),
            text => text.parse().map_err(|error| format!("port {text:?}: {error}")),
        };
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        self.l4 = Layer4::Ports(protocol, port(first, 0)?, port(last, u16::MAX)?);
        Ok(())
    }
}

fn value<'a>(words: &mut impl Iterator<Item = &'a str>, of: &str) -> Result<&'a str, String> {
    words.next().ok_or_else(|| format!("{of} lacks its value"))
}

fn layer4(name: &str) -> Result<Layer4, String> {
    match name {
        "ipv6-icmp" => Ok(Layer4::IcmpV6),
        name => Ok(Layer4::Ports(name.to_ascii_uppercase().parse()?, 0, u16::MAX)),
    }
}

fn end(name: &str) -> Result<End, String> {
    match name {
        "src" => Ok(End::Source),
        "dst" => Ok(End::Destination),
        other => Err(format!("unknown end {other:?}")),
    }
}

fn mark(text: &str) -> Result<u32, String> {
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let bits = text.split_once('/').and_then(|(bits, mask)| Some((hex(bits)?, hex(mask)?)));
    match bits {
        Some((bits, mask)) if bits == mask => Ok(bits),
        _ => Err(format!("unknown mark {text:?}")),
    }
}

fn target<'a>(name: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<Target, String> {
    Ok(match name {
        "RETURN" => Target::Return,
        "DROP" => Target::Drop,
        "NFLOG" => {
            let mut prefix = String::new();
            while let Some(word) = words.next() {
                let value = value(words, word)?;
                if word == "--nflog-prefix" {
                    value.clone_into(&mut prefix);
                }
            }
            Target::Log { prefix }
        }
        chain => Target::Jump(ChainName::new(chain)),
    })
}
