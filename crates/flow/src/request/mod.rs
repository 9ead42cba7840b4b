//! The flags of `hubble observe` and the request that they mean. Never sends it, never reads a clock.

mod answers;
mod filters;
mod flags;
mod when;

pub use self::{answers::add_answers, filters::FilterArgs, when::InvalidTime};

use crate::{
    event::Time,
    json,
    print::{Colour, Options, Output, TimeFormat},
    proto::{flow::FlowFilter, observer::GetFlowsRequest},
};

/// What the `hubble` command asks for unless it prints JSON. Directions, match types and DNS names are not in it, so its
/// lines do not show them.
pub const HUBBLE_MASK: &[&str] = &[
    "time",
    "verdict",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "is_reply",
    "Summary",
    "ip_trace_id",
];

/// What a line can show beyond [`HUBBLE_MASK`]: with these nothing is printed as unknown that is known.
pub const LINE_MASK: &[&str] = &[
    "traffic_direction",
    "policy_match_type",
    "source_names",
    "destination_names",
    "sock_xlate_point",
    "debug_capture_point",
    "auth_type",
];

/// How many flows are shown if nothing else is asked for.
const DEFAULT_LAST: u64 = 20;

/// Which flags make no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot set both --{0} and --{1}")]
    Contradiction(&'static str, &'static str),
    #[error("table output format is not compatible with follow mode")]
    EndlessTable,
    #[error("only JSON output is compatible with a custom field mask")]
    MaskedLines,
    #[error("parse --{flag}")]
    Time {
        flag: &'static str,
        #[source]
        source: InvalidTime,
    },
    #[error("parse --{flag}")]
    Json {
        flag: &'static str,
        #[source]
        source: json::ParseError,
    },
}

/// All flags of `observe`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ObserveArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Flows that match one of these filters, as JSON of flow.FlowFilter; may be given more than once
    #[arg(long, value_name = "JSON", help_heading = "Raw filters")]
    pub allowlist: Vec<String>,
    /// No flows that match one of these filters, as JSON of flow.FlowFilter; may be given more than once
    #[arg(long, value_name = "JSON", help_heading = "Raw filters")]
    pub denylist: Vec<String>,
    #[command(flatten)]
    pub format: FormatArgs,
}

/// Which part of the ring.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Selectors")]
pub struct SelectArgs {
    /// All flows that are stored
    #[arg(long)]
    pub all: bool,
    /// The last N flows (of each node, from a relay) [default: 20]
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// The first N flows that are stored
    #[arg(long, value_name = "N")]
    pub first: Option<u64>,
    /// Go on with new flows
    #[arg(long, short)]
    pub follow: bool,
    /// Flows since then: a duration ("5m", "1h30m"), a day, or a time (RFC 3339, RFC 1123)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Flows until then; in the same forms
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// How flows are shown.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Format")]
pub struct FormatArgs {
    /// How to show flows
    #[arg(long, short, value_enum, ignore_case = true, default_value = "compact")]
    pub output: Output,
    /// How to show times in lines
    #[arg(long, value_enum, ignore_case = true, default_value = "StampMilli")]
    pub time_format: TimeFormat,
    /// Also show the node's name
    #[arg(long, visible_alias = "node-name-column")]
    pub print_node_name: bool,
    /// Addresses instead of names
    #[arg(long)]
    pub numeric: bool,
    /// Names of pods, services and hosts instead of addresses
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        require_equals = true, action = clap::ArgAction::Set)]
    pub ip_translation: bool,
    /// Whether to colour lines
    #[arg(long, value_enum, default_value = "auto")]
    pub color: When,
    /// Only these fields (JSON output)
    #[arg(long, value_name = "PATH", value_delimiter = ',', visible_alias = "experimental-field-mask")]
    pub field_mask: Vec<String>,
}

impl Default for FormatArgs {
    fn default() -> Self {
        Self {
            output: Output::default(),
            time_format: TimeFormat::default(),
            print_node_name: false,
            numeric: false,
            ip_translation: true,
            color: When::default(),
            field_mask: Vec::new(),
        }
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

impl FormatArgs {
    /// `auto`: what `--color auto` means where this runs.
    pub fn options(&self, auto: Colour) -> Options {
        Options {
            output: self.output,
            time: self.time_format,
            node_name: self.print_node_name,
            colour: match self.color {
                When::Auto => auto,
                When::Always => Colour::Always,
                When::Never => Colour::Never,
            },
            ip_translation: self.ip_translation && !self.numeric,
            debug: false,
        }
    }
}

impl ObserveArgs {
    /// The request, at the time `now`.
    pub fn request(&self, now: Time) -> Result<GetFlowsRequest, RequestError> {
        self.check()?;
        let select = &self.select;
        let time = |flag, text: &Option<String>| {
            let parse = |text: &String| when::parse(text, now).map(Into::into);
            text.as_ref().map(parse).transpose().map_err(|source| RequestError::Time { flag, source })
        };
        let since = time("since", &select.since)?;
        // A follower has no end.
        let until = if select.follow { None } else { time("until", &select.until)? };
        let raw = |flag, texts: &[String]| {
            let parsed: Result<Vec<Vec<FlowFilter>>, _> =
                texts.iter().map(|text| json::parse_all(text)).collect();
            parsed.map(|filters| filters.concat()).map_err(|source| RequestError::Json { flag, source })
        };
        let (mut whitelist, mut blacklist) = self.filters.lists();
        whitelist.extend(raw("allowlist", &self.allowlist)?);
        blacklist.extend(raw("denylist", &self.denylist)?);
        let unbounded = since.is_none() && until.is_none();
        Ok(GetFlowsRequest {
            number: match (select.first, select.last) {
                (Some(number), _) | (None, Some(number)) => number,
                (None, None) if unbounded && select.all => u64::MAX,
                (None, None) if unbounded && !select.follow => DEFAULT_LAST,
                (None, None) => 0,
            },
            first: select.first.is_some(),
            follow: select.follow,
            since,
            until,
            whitelist,
            blacklist,
            field_mask: self.mask(),
            ..GetFlowsRequest::default()
        })
    }

    fn check(&self) -> Result<(), RequestError> {
        let select = &self.select;
        let first = ("first", select.first.is_some());
        for ((one, one_set), (other, other_set)) in [
            (first, ("last", select.last.is_some())),
            (first, ("all", select.all)),
            (first, ("follow", select.follow)),
            (("last", select.last.is_some()), ("all", select.all)),
        ] {
            if one_set && other_set {
                return Err(RequestError::Contradiction(one, other));
            }
        }
        if select.follow && self.format.output == Output::Tab {
            return Err(RequestError::EndlessTable);
        }
        if !self.is_json() && !self.format.field_mask.is_empty() {
            return Err(RequestError::MaskedLines);
        }
        Ok(())
    }

    fn is_json(&self) -> bool {
        matches!(self.format.output, Output::Json | Output::Jsonpb)
    }

    fn mask(&self) -> Option<prost_types::FieldMask> {
        let paths: Vec<String> = if self.is_json() {
            self.format.field_mask.clone()
        } else {
            HUBBLE_MASK.iter().chain(LINE_MASK).map(|path| (*path).to_owned()).collect()
        };
        (!paths.is_empty()).then_some(prost_types::FieldMask { paths })
    }
}
