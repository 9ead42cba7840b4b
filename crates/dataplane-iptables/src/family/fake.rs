//! Rules in memory that refuse what the kernel refuses: dangling jumps, missing and busy chains.

use std::collections::BTreeMap;

use crate::{
    kernel::{Refusal, Rules, account::Count},
    names::ChainName,
    parse::{Saved, SavedRule},
    ruleset::Table,
};

type Chains = BTreeMap<ChainName, Vec<SavedRule>>;

/// Starts with the kernel's own chains, all empty.
#[derive(Debug)]
pub(crate) struct Fake {
    pub saved: Saved,
    /// How many restores ran, refused ones included.
    pub restores: usize,
    /// Text of the last restore.
    pub last: String,
    /// Every rule with this text is refused.
    pub poison: Option<&'static str>,
    pub kept: BTreeMap<String, Count>,
}

impl Default for Fake {
    fn default() -> Self {
        let built_in =
            |names: &[&str]| names.iter().map(|name| (ChainName::from(*name), vec![])).collect::<Chains>();
        let mangle = built_in(&["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]);
        let filter = built_in(&["INPUT", "FORWARD", "OUTPUT"]);
        let nat = built_in(&["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]);
        let tables = [(Table::Mangle, mangle), (Table::Filter, filter), (Table::Nat, nat)];
        Self {
            saved: Saved { tables: tables.into() },
            restores: 0,
            last: String::new(),
            poison: None,
            kept: BTreeMap::new(),
        }
    }
}

impl Rules for Fake {
    fn save(&self, table: Option<Table>) -> Result<Saved, Refusal> {
        let mut saved = self.saved.clone();
        saved.tables.retain(|name, _| table.is_none_or(|table| table == *name));
        Ok(saved)
    }

    fn restore(&mut self, text: &str) -> Result<(), Refusal> {
        self.restores += 1;
        text.clone_into(&mut self.last);
        let mut table = None;
        let mut chains = Chains::new();
        for (number, line) in (1..).zip(text.lines()) {
            let refused = |problem| Refusal { program: "fake".into(), problem, line: Some(number) };
            if let Some(name) = line.strip_prefix('*') {
                let named = Table::from_name(name).ok_or_else(|| refused(format!("no table {name}")))?;
                chains = self.saved.tables[&named].clone();
                table = Some(named);
            } else if line == "COMMIT" {
                let table = table.take().ok_or_else(|| refused("COMMIT outside a table".into()))?;
                self.saved.tables.insert(table, std::mem::take(&mut chains));
            } else if self.poison.is_some_and(|poison| line.contains(poison)) {
                return Err(refused("poisoned".into()));
            } else {
                execute(line, &mut chains).map_err(|problem| refused(format!("{problem}: {line}")))?;
            }
        }
        assert!(table.is_none(), "text must end with COMMIT");
        Ok(())
    }

    fn kept(&self) -> Vec<Count> {
        self.kept.values().cloned().collect()
    }

    fn keep(&mut self, counts: &[Count]) {
        self.kept.extend(counts.iter().map(|count| (count.name.clone(), count.clone())));
    }

    fn forget(&mut self) {
        self.kept.clear();
    }
}

fn execute(line: &str, chains: &mut Chains) -> Result<(), &'static str> {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap_or(declared);
        chains.insert(name.into(), vec![]);
        return Ok(());
    }
    let (command, rest) = line.split_once(' ').ok_or("no command")?;
    let (chain, text) = rest.split_once(' ').unwrap_or((rest, ""));
    if command == "-X" {
        return delete(chain, chains);
    }
    // `-I CHAIN [NUMBER] RULE`.
    let number = text.split_once(' ').and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
    let (position, text) = number.map_or((0, text), |(number, rest)| (number - 1, rest));
    let rule = SavedRule { text: text.to_owned(), packets: 0, bytes: 0 };
    if let Some(to) = rule.rule().map_err(|_| "unknown rule")?.jumps_to()
        && !chains.contains_key(to)
    {
        return Err("dangling jump");
    }
    let rules = chains.get_mut(chain).ok_or("no such chain")?;
    match command {
        "-A" => rules.push(rule),
        "-I" if position > rules.len() => return Err("index of insertion too big"),
        "-I" => rules.insert(position, rule),
        "-D" => {
            let at = rules.iter().position(|found| found.text == text).ok_or("no such rule")?;
            rules.remove(at);
        }
        _ => return Err("unknown command"),
    }
    Ok(())
}

fn delete(chain: &str, chains: &mut Chains) -> Result<(), &'static str> {
    let leads_here = |rule: &SavedRule| {
        rule.rule().is_ok_and(|rule| rule.jumps_to().is_some_and(|to| to.as_str() == chain))
    };
    if chains.values().flatten().any(leads_here) {
        return Err("chain is in use");
    }
    match chains.get(chain) {
        None => Err("no such chain"),
        Some(rules) if !rules.is_empty() => Err("chain is not empty"),
        Some(_) => {
            chains.remove(chain);
            Ok(())
        }
    }
}
