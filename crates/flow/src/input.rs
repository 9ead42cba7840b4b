//! Flows that were printed or exported as JSON, asked for as a server is: filters, times and numbers mean the same. Never reads
//! a file: lines come one by one. Bounded: of the last N, no more than N are held.

use std::collections::VecDeque;

use crate::{
    event::{Flow as Kept, Time},
    filter::{FilterError, Filters},
    json,
    mask::{Mask, UnknownPath},
    proto::{
        flow::Flow,
        observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};

/// Why lines cannot be asked so.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Mask(#[from] UnknownPath),
    #[error("follow is not supported with an input file")]
    Follow,
}

/// One request to lines.
#[derive(Debug)]
pub struct Input {
    filters: Filters,
    mask: Mask,
    since: Option<Time>,
    until: Option<Time>,
    /// How many flows are still wanted from the start; `None`: the last ones, or all.
    first: Option<u64>,
    last: u64,
    held: VecDeque<GetFlowsResponse>,
    /// Held answers that are flows.
    flows: u64,
}

impl Input {
    /// A number of 0 is all.
    pub fn new(request: &GetFlowsRequest) -> Result<Self, InputError> {
        if request.follow {
            return Err(InputError::Follow);
        }
        let paths = request.field_mask.as_ref().map_or(&[][..], |mask| mask.paths.as_slice());
        let last = if request.number == 0 { u64::MAX } else { request.number };
        Ok(Self {
            filters: Filters::new(&request.whitelist, &request.blacklist)?,
            mask: Mask::new(paths)?,
            since: request.since.map(Into::into),
            until: request.until.map(Into::into),
            first: request.first.then_some(request.number),
            last,
            held: VecDeque::new(),
            flows: 0,
        })
    }

    /// What a line shows at once; what is held back comes with [`Input::finish`].
    ///
    /// # Errors
    /// The line is not an answer of an observer, nor a flow.
    pub fn take(&mut self, line: &str) -> Result<Option<GetFlowsResponse>, json::ParseError> {
        let mut answer = parse(line)?;
        // A server's answer ends there.
        if self.first == Some(0) {
            return Ok(None);
        }
        if let Some(ResponseTypes::Flow(flow)) = &answer.response_types {
            if !self.wants(flow) {
                return Ok(None);
            }
            if let Some(left) = &mut self.first {
                *left -= 1;
            }
            self.flows += 1;
        }
        if let Some(ResponseTypes::Flow(flow)) = answer.response_types {
            answer.response_types = Some(ResponseTypes::Flow(Box::new(self.mask.apply(*flow))));
        }
        if self.first.is_some() || self.last == u64::MAX {
            return Ok(Some(answer));
        }
        self.held.push_back(answer);
        while self.flows > self.last {
            let old = self.held.pop_front();
            let is_flow = |it: GetFlowsResponse| matches!(it.response_types, Some(ResponseTypes::Flow(_)));
            self.flows -= u64::from(old.is_some_and(is_flow));
        }
        Ok(None)
    }

    /// What was held back, in order.
    pub fn finish(self) -> impl Iterator<Item = GetFlowsResponse> {
        self.held.into_iter()
    }

    fn wants(&self, flow: &Flow) -> bool {
        let time = flow.time.map(Time::from);
        let after = self.since.is_none_or(|since| time.is_some_and(|time| time >= since));
        let before = self.until.is_none_or(|until| time.is_some_and(|time| time <= until));
        after && before && self.filters.keep(&Kept::from(flow))
    }
}

/// An answer, or a flow alone, as older commands printed it.
fn parse(line: &str) -> Result<GetFlowsResponse, json::ParseError> {
    let answer: GetFlowsResponse = json::parse_lenient(line)?;
    if answer.response_types.is_some() {
        return Ok(answer);
    }
    let flow: Flow = json::parse_lenient(line)?;
    let (node_name, time) = (flow.node_name.clone(), flow.time);
    Ok(GetFlowsResponse { node_name, time, response_types: Some(ResponseTypes::Flow(Box::new(flow))) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::L4,
        proto::flow::FlowFilter,
        testing::{at, syn},
    };

    fn line(number: u16) -> String {
        let flow = Kept { l4: L4::Udp { source: number, destination: 53 }, ..syn() };
        json::to_string(&at(i64::from(number) * 1_000_000_000, flow).to_response("vm").expect("a flow"))
            .expect("JSON")
    }

    /// The source ports that a request gets of lines 1 to 9.
    fn ports(request: GetFlowsRequest) -> Vec<u32> {
        let mut input = Input::new(&request).expect("a request");
        let now: Vec<_> = (1..10).filter_map(|n| input.take(&line(n)).expect("an answer")).collect();
        let port = |answer: GetFlowsResponse| match answer.response_types {
            Some(ResponseTypes::Flow(flow)) => match flow.l4?.protocol? {
                crate::proto::flow::layer4::Protocol::Udp(udp) => Some(udp.source_port),
                _ => None,
            },
            _ => None,
        };
        now.into_iter().chain(input.finish()).filter_map(port).collect()
    }

    #[test]
    fn numbers_times_and_filters_mean_what_they_mean_to_a_server() {
        let all = GetFlowsRequest::default();
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        assert_eq!(ports(all.clone()), (1..10).collect::<Vec<_>>());
        assert_eq!(ports(GetFlowsRequest { number: 2, ..all.clone() }), [8, 9]);
        assert_eq!(ports(GetFlowsRequest { number: 2, first: true, ..all.clone() }), [1, 2]);
        assert_eq!(ports(GetFlowsRequest { since: time(4), until: time(6), ..all.clone() }), [4, 5, 6]);
        let filter = FlowFilter { source_port: vec!["3".into(), "7".into()], ..FlowFilter::default() };
        assert_eq!(ports(GetFlowsRequest { whitelist: vec![filter.clone()], ..all.clone() }), [3, 7]);
        assert_eq!(ports(GetFlowsRequest { blacklist: vec![filter], number: 3, ..all }), [6, 8, 9]);
        let mut first =
            Input::new(&GetFlowsRequest { number: 1, first: true, ..Default::default() }).expect("a request");
        let lost = r#"{"lost_events":{"num_events_lost":"3"}}"#;
        let shown = [lost, &line(1), lost].map(|line| first.take(line).expect("an answer").is_some());
        assert_eq!(shown, [true, true, false], "nothing comes after the first ones");
        let follow = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
        assert!(matches!(Input::new(&follow), Err(InputError::Follow)));
    }

    #[test]
    fn a_flow_alone_is_read_too_and_what_another_version_added_is_passed_over() {
        let mut input = Input::new(&GetFlowsRequest::default()).expect("a request");
        let bare = r#"{"verdict":"DROPPED","node_name":"vm","new_field":1}"#;
        let answer = input.take(bare).expect("an answer").expect("at once");
        assert!(matches!(&answer.response_types, Some(ResponseTypes::Flow(flow)) if flow.verdict == 2));
        for wrong in ["", "nonsense", "[1]", r#"{"flow":{"verdict":{}}}"#] {
            assert!(input.take(wrong).is_err(), "{wrong}");
        }
    }
}
