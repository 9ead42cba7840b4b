//! Which flows a client wants, with the semantics of Hubble's `pkg/hubble/filters`: a list matches if one of its filters
//! does, a filter if all fields that are set do, a field if one of its values does; the result is what the whitelist
//! matches (an empty one matches all) less what the blacklist does. Parsed once per request, into addresses, numbers
//! and automata. Never does IO; a filter that does not parse is refused as a whole, by the name of its field.

mod build;
mod labels;
mod matcher;
mod pattern;

use matcher::Matcher;

use crate::{
    event::{Event, Flow},
    proto::flow::FlowFilter,
};

/// The most filters one list may have, and the most values one field.
pub const MAX_FILTERS: usize = 256;
/// See [`MAX_FILTERS`].
pub const MAX_VALUES: usize = 1024;

/// Which filter does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    #[error("parse {list}[{index}].{field} {value:?}: {reason}")]
    Value { list: List, index: usize, field: &'static str, value: String, reason: String },
    #[error("parse {list}: {count} filters, at most {MAX_FILTERS} are allowed")]
    TooMany { list: List, count: usize },
}

/// One of the two lists of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Whitelist,
    Blacklist,
}

impl std::fmt::Display for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whitelist => "whitelist",
            Self::Blacklist => "blacklist",
        })
    }
}

/// Both lists of a request.
#[derive(Debug, Default)]
pub struct Filters {
    white: Vec<Filter>,
    black: Vec<Filter>,
}

/// One filter: all matchers must match.
#[derive(Debug)]
struct Filter(Vec<Matcher>);

impl Filters {
    pub fn new(whitelist: &[FlowFilter], blacklist: &[FlowFilter]) -> Result<Self, FilterError> {
        let mut patterns = pattern::Budget::default();
        let mut parse = |list, filters: &[FlowFilter]| {
            if filters.len() > MAX_FILTERS {
                return Err(FilterError::TooMany { list, count: filters.len() });
            }
            let parse_one = |(index, filter)| {
                build::matchers(filter, &mut patterns).map(Filter).map_err(|bad| FilterError::Value {
                    list,
                    index,
                    field: bad.field,
                    value: bad.value,
                    reason: bad.reason,
                })
            };
            filters.iter().enumerate().map(parse_one).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { white: parse(List::Whitelist, whitelist)?, black: parse(List::Blacklist, blacklist)? })
    }

    /// Is the flow wanted?
    pub fn keep(&self, flow: &Flow) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(flow));
        (self.white.is_empty() || any(&self.white)) && !any(&self.black)
    }

    /// Is the event a flow that is wanted?
    pub fn keep_flow(&self, event: &Event) -> bool {
        event.flow().is_some_and(|flow| self.keep(flow))
    }
}

impl Filter {
    fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|matcher| matcher.matches(flow))
    }
}
