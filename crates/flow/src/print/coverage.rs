//! How much of what happened a client was shown: the line at the end of every view. Never guesses: what was lost is what was
//! told to be lost, and by whom.

use std::collections::BTreeMap;

use super::visible;
use crate::proto::{
    flow::LostEventSource,
    observer::{GetFlowsResponse, ServerStatusResponse, get_flows_response::ResponseTypes},
};

/// Counts answers.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    shown: u64,
    /// By node, source and CPU.
    lost: BTreeMap<(String, i32, Option<i32>), u64>,
}

impl Coverage {
    pub fn add(&mut self, response: &GetFlowsResponse) {
        match &response.response_types {
            Some(ResponseTypes::Flow(_)) => self.shown += 1,
            Some(ResponseTypes::LostEvents(lost)) => {
                let key = (response.node_name.clone(), lost.source, lost.cpu);
                let count = self.lost.entry(key).or_default();
                *count = count.saturating_add(lost.num_events_lost);
            }
            Some(ResponseTypes::NodeStatus(_)) | None => {}
        }
    }

    /// `status`: of the server that was asked, if it answers.
    pub fn line(&self, status: Option<&ServerStatusResponse>) -> String {
        let seen = match status {
            Some(status) => format!(
                "{} seen since the server started, {} of at most {} kept",
                status.seen_flows, status.num_flows, status.max_flows
            ),
            None => "seen: unknown, the server does not answer".to_owned(),
        };
        self.with(&seen)
    }

    /// Of answers that were read from so many lines.
    pub fn of_lines(&self, lines: u64, unreadable: u64) -> String {
        self.with(&format!("of {lines} lines, {unreadable} of which could not be read"))
    }

    fn with(&self, seen: &str) -> String {
        let total = self.lost.values().fold(0_u64, |all, lost| all.saturating_add(*lost));
        let places: Vec<String> =
            self.lost.iter().map(|(place, lost)| format!("{lost} {}", at(place))).collect();
        let lost =
            if total == 0 { "none lost".to_owned() } else { format!("{total} lost: {}", places.join(", ")) };
        format!("flows: {} shown, {seen}; events among those asked for: {lost}\n", self.shown)
    }
}

fn at((node, source, cpu): &(String, i32, Option<i32>)) -> String {
    let place = match LostEventSource::try_from(*source) {
        Ok(LostEventSource::PerfEventRingBuffer) => "between kernel and agent",
        Ok(LostEventSource::ObserverEventsQueue) => "by the agent",
        Ok(LostEventSource::HubbleRingBuffer) => "on the way to this client, which was too slow",
        Ok(LostEventSource::UnknownLostEventSource) | Err(_) => "at an unknown place",
    };
    let cpu = cpu.map(|cpu| format!(", CPU {cpu}")).unwrap_or_default();
    let node = if node.is_empty() { String::new() } else { format!(" ({})", visible(node)) };
    format!("{place}{cpu}{node}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::LostEvent;

    fn lost(node: &str, source: LostEventSource, cpu: Option<i32>, count: u64) -> GetFlowsResponse {
        let event = LostEvent { source: source.into(), num_events_lost: count, cpu, ..LostEvent::default() };
        GetFlowsResponse {
            node_name: node.into(),
            time: None,
            response_types: Some(ResponseTypes::LostEvents(event)),
        }
    }

    #[test]
    fn losses_are_summed_by_place() {
        let mut coverage = Coverage::default();
        let flow = ResponseTypes::Flow(Box::default());
        coverage.add(&GetFlowsResponse { response_types: Some(flow), ..GetFlowsResponse::default() });
        let status =
            ServerStatusResponse { seen_flows: 312, num_flows: 300, max_flows: 4095, ..Default::default() };
        assert_eq!(
            coverage.line(Some(&status)),
            "flows: 1 shown, 312 seen since the server started, 300 of at most 4095 kept; \
             events among those asked for: none lost\n"
        );
        for count in [4, 5] {
            coverage.add(&lost("a", LostEventSource::PerfEventRingBuffer, Some(1), count));
        }
        coverage.add(&lost("a", LostEventSource::HubbleRingBuffer, None, u64::MAX));
        let line = coverage.line(None);
        assert!(line.contains("seen: unknown"), "{line}");
        assert!(line.contains("9 between kernel and agent, CPU 1 (a)"), "{line}");
        assert!(line.contains(&format!("{} lost: ", u64::MAX)), "{line}");
    }
}
