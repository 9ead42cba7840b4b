//! Who talked to whom how often, and what was dropped between whom and why. Bounded: pairs beyond a number are one.

use std::{cmp::Reverse, collections::HashMap};

use super::{flow::client_and_server, table::Table};
use crate::{
    names::{EventType, drop_reason},
    proto::{
        flow::{Flow, Verdict},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

/// Pairs that are told apart.
const MAX_PAIRS: usize = 65_536;
/// Rows of each table.
const SHOWN: usize = 10;
const OTHERS: &str = "(others)";

type Pair = (String, String);

/// Counts flows by pair and by drop reason.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pairs: HashMap<Pair, Counts>,
    drops: HashMap<(String, Pair), u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    forwarded: u64,
    dropped: u64,
    other: u64,
}

impl Tally {
    pub fn add(&mut self, response: &GetFlowsResponse) {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else { return };
        let unreadable = || ("(unreadable)".to_owned(), String::new());
        let pair = client_and_server(flow).unwrap_or_else(unreadable);
        // What a verdict is about is told of besides.
        let is_verdict = flow.event_type.is_some_and(|event| event.r#type == EventType::PolicyVerdict as i32);
        if flow.verdict() == Verdict::Dropped && !is_verdict {
            *room(&mut self.drops, (reason(flow), pair.clone()), |(reason, _)| (reason, others())) += 1;
        }
        let counts = room(&mut self.pairs, pair, |_| others());
        match flow.verdict() {
            _ if is_verdict => counts.other += 1,
            Verdict::Forwarded | Verdict::Redirected => counts.forwarded += 1,
            Verdict::Dropped | Verdict::Error => counts.dropped += 1,
            Verdict::Unknown | Verdict::Audit | Verdict::Traced | Verdict::Translated => counts.other += 1,
        }
    }

    /// Both tables; the second only if anything was dropped.
    pub fn render(&self) -> String {
        let mut table = Table::new(3);
        table.add(["CLIENT", "SERVER", "FORWARDED", "DROPPED", "OTHER"].map(str::to_owned).into());
        let all = |counts: &Counts| counts.forwarded + counts.dropped + counts.other;
        for ((client, server), counts) in top(&self.pairs, all) {
            let numbers = [counts.forwarded, counts.dropped, counts.other].map(|number| number.to_string());
            table.add([client.clone(), server.clone()].into_iter().chain(numbers).collect());
        }
        let mut text = format!(
            "Top talkers, {} of {} pairs\n{}",
            self.pairs.len().min(SHOWN),
            self.pairs.len(),
            table.render()
        );
        if !self.drops.is_empty() {
            table.add(["REASON", "CLIENT", "SERVER", "DROPPED"].map(str::to_owned).into());
            for ((reason, (client, server)), count) in top(&self.drops, |count| *count) {
                table.add(vec![reason.clone(), client.clone(), server.clone(), count.to_string()]);
            }
            text += &format!("\nDrops by reason and pair\n{}", table.render());
        }
        text
    }
}

fn others() -> Pair {
    (OTHERS.to_owned(), OTHERS.to_owned())
}

/// The count of `key`, or of what it is `folded` into where there is no room.
fn room<K: Eq + std::hash::Hash, V: Default>(
    map: &mut HashMap<K, V>,
    key: K,
    folded: impl FnOnce(K) -> K,
) -> &mut V {
    let key = if map.len() < MAX_PAIRS || map.contains_key(&key) { key } else { folded(key) };
    map.entry(key).or_default()
}

/// The largest, those of one size by name.
fn top<K: Ord, V>(map: &HashMap<K, V>, size: impl Fn(&V) -> u64) -> Vec<(&K, &V)> {
    let mut rows: Vec<_> = map.iter().collect();
    rows.sort_by_key(|(key, value)| (Reverse(size(value)), *key));
    rows.truncate(SHOWN);
    rows
}

fn reason(flow: &Flow) -> String {
    // The datapath's number has eight bits.
    drop_reason(flow.event_type.unwrap_or_default().sub_type as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Flow as Kept, L4, PolicyMatch, Seen, TcpFlags},
        proto::flow::DropReason,
        testing::{at, pod, syn},
    };

    fn add(tally: &mut Tally, flow: Kept) {
        tally.add(&at(0, flow).to_response("vm").expect("a flow"));
    }

    fn connection(client: u16) -> [Kept; 2] {
        let (web, shopper) = (pod("shop", "web", 300), pod("shop", "client", 301));
        let l4 = |source, destination| L4::Tcp { source, destination, flags: TcpFlags::SYN };
        let there = Kept { source: shopper.clone(), destination: web.clone(), l4: l4(client, 80), ..syn() };
        let back =
            Kept { source: web, destination: shopper, l4: l4(80, client), is_reply: Some(true), ..syn() };
        [there, back]
    }

    #[test]
    fn connections_of_one_pair_are_one_row_in_both_directions() {
        let mut tally = Tally::default();
        for flow in (40_000..40_003).flat_map(connection) {
            add(&mut tally, flow);
        }
        let dropped = Kept {
            verdict: Verdict::Dropped,
            seen: Seen::Drop(DropReason::ServiceBackendNotFound),
            is_reply: None,
            ..connection(40_003)[0].clone()
        };
        add(&mut tally, dropped.clone());
        add(&mut tally, Kept { seen: Seen::PolicyVerdict(PolicyMatch::None), ..dropped });
        let text = tally.render();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("   ").map(str::trim).filter(|c| !c.is_empty()).collect())
            .collect();
        assert_eq!(rows[0], ["Top talkers, 1 of 1 pairs"]);
        assert_eq!(rows[2], ["shop/client", "shop/web:80", "6", "1", "1"]);
        assert_eq!(rows[6], ["Service backend not found", "shop/client", "shop/web:80", "1"], "{text}");
    }

    #[test]
    fn memory_is_bounded_and_nothing_goes_uncounted() {
        let mut map = HashMap::new();
        for number in 0..MAX_PAIRS + 100 {
            *room(&mut map, number, |_| usize::MAX) += 1;
        }
        assert_eq!(
            (map.len(), map[&usize::MAX], map.values().sum::<usize>()),
            (MAX_PAIRS + 1, 100, MAX_PAIRS + 100)
        );
    }
}
