//! Answers of an observer as text, in the lines of the `hubble` command. Control characters of what others sent are made
//! visible. Never writes: text for stdout and stderr is returned.

mod colour;
mod coverage;
mod flow;
mod status;
mod table;
mod tally;
mod time;

pub use self::{
    colour::Colour,
    coverage::Coverage,
    status::{health, nodes, peer, server_status},
    tally::Tally,
    time::TimeFormat,
};

use self::table::Table;
use crate::{
    json,
    proto::{
        flow::{Flow, LostEvent, LostEventSource},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        relay::{NodeState, NodeStatusEvent},
    },
};

/// How flows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Compact,
    Dict,
    #[value(alias = "table")]
    Tab,
    #[value(alias = "JSON")]
    Json,
    Jsonpb,
}

/// What a line has.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub output: Output,
    pub time: TimeFormat,
    pub node_name: bool,
    pub colour: Colour,
    /// Names of pods, services and hosts instead of their addresses.
    pub ip_translation: bool,
    /// Also node events that are no trouble.
    pub debug: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::Compact,
            time: TimeFormat::default(),
            node_name: false,
            colour: Colour::Never,
            ip_translation: true,
            debug: false,
        }
    }
}

/// Text for the two streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub out: String,
    pub err: String,
}

impl Text {
    fn out(out: String) -> Self {
        Self { out, err: String::new() }
    }

    fn err(err: String) -> Self {
        Self { out: String::new(), err }
    }
}

/// Remembers what a table or a separator needs to know of the lines before.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    lines: u64,
    table: Table,
}

const SEPARATOR: &str = "------------\n";

impl Printer {
    pub fn new(options: Options) -> Self {
        // A table's columns could not be aligned with colours in them.
        let colour = if options.output == Output::Tab { Colour::Never } else { options.colour };
        Self { options: Options { colour, ..options }, lines: 0, table: Table::new(3) }
    }

    /// One answer. A table is not shown before [`Printer::finish`].
    ///
    /// # Errors
    /// An extension of a type that is not known cannot be written as JSON.
    pub fn print(&mut self, response: &GetFlowsResponse) -> Result<Text, serde_json::Error> {
        let is_json = matches!(self.options.output, Output::Json | Output::Jsonpb);
        Ok(match &response.response_types {
            Some(ResponseTypes::NodeStatus(status)) if !self.shows(status) => Text::default(),
            Some(ResponseTypes::NodeStatus(_)) if is_json => Text::err(json::to_string(response)? + "\n"),
            Some(_) if is_json => Text::out(json::to_string(response)? + "\n"),
            Some(ResponseTypes::Flow(flow)) => Text::out(self.flow(flow)),
            Some(ResponseTypes::LostEvents(lost)) => Text::out(self.lost(lost)),
            Some(ResponseTypes::NodeStatus(status)) => Text::err(self.node_status(response, status)),
            None => Text::default(),
        })
    }

    /// What was held back.
    pub fn finish(&mut self) -> String {
        self.table.render()
    }

    fn flow(&mut self, flow: &Flow) -> String {
        let columns = flow::Columns::of(flow, &self.options);
        match self.options.output {
            Output::Compact => columns.compact(&self.options),
            Output::Tab => {
                self.row(columns.row());
                String::new()
            }
            Output::Dict => {
                let mut text = self.separator();
                let field = |name: &str, value: &str| format!("{name:>11}: {value}\n");
                text += &field("TIMESTAMP", &columns.time);
                if self.options.node_name {
                    text += &field("NODE", &columns.node);
                }
                for (name, value) in
                    ["SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"].iter().zip(columns.fields())
                {
                    text += &field(name, value);
                }
                text
            }
            Output::Json | Output::Jsonpb => unreachable!("JSON has no columns"),
        }
    }

    fn lost(&mut self, lost: &LostEvent) -> String {
        let source = LostEventSource::try_from(lost.source)
            .map_or_else(|_| lost.source.to_string(), |source| source.as_str_name().to_owned());
        let (cpu, events) = (lost.cpu.unwrap_or_default(), lost.num_events_lost);
        match self.options.output {
            Output::Compact => format!("EVENTS LOST: {source} CPU({cpu}) {events}\n"),
            Output::Tab => {
                let summary = format!("CPU({cpu}) - {events}");
                let row = ["", "", &source, "", "EVENTS LOST", "", &summary].map(str::to_owned);
                self.row(row);
                String::new()
            }
            Output::Dict => {
                let node = if self.options.node_name { "       NODE: \n" } else { "" };
                format!(
                    "{}  TIMESTAMP: \n{node}     SOURCE: {source}\n       TYPE: EVENTS LOST\n    VERDICT: \n    SUMMARY: \
                     CPU({cpu}) - {events}\n",
                    self.separator()
                )
            }
            Output::Json | Output::Jsonpb => unreachable!("JSON has no columns"),
        }
    }

    /// A line of the table: time, node, and the five columns.
    fn row(&mut self, row: [String; 7]) {
        if self.lines == 0 {
            let head = ["TIMESTAMP", "NODE", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"];
            self.table.add(self.without_node(head.map(str::to_owned)));
        }
        self.lines += 1;
        self.table.add(self.without_node(row));
    }

    fn without_node(&self, row: [String; 7]) -> Vec<String> {
        let mut row = row.to_vec();
        if !self.options.node_name {
            row.remove(1);
        }
        row
    }

    /// Between two records of the dict output.
    fn separator(&mut self) -> String {
        self.lines += 1;
        if self.lines > 1 { SEPARATOR.to_owned() } else { String::new() }
    }

    fn shows(&self, status: &NodeStatusEvent) -> bool {
        self.options.debug
            || matches!(status.state_change(), NodeState::NodeError | NodeState::NodeUnavailable)
    }

    fn node_status(&mut self, response: &GetFlowsResponse, status: &NodeStatusEvent) -> String {
        let time = self.options.time.format(response.time);
        let nodes = visible(&join_cut_off(&status.node_names));
        let message = visible(&status.message);
        if self.options.output == Output::Dict {
            let message = if message.is_empty() { "N/A".to_owned() } else { format!("{message:?}") };
            let state = status.state_change().as_str_name();
            return format!(
                "{}  TIMESTAMP: {time}\n      STATE: {state}\n      NODES: {nodes}\n    MESSAGE: {message}\n",
                self.separator()
            );
        }
        let count = status.node_names.len();
        let text = match status.state_change() {
            NodeState::NodeConnected => format!("Receiving flows from {count} nodes: {nodes}"),
            NodeState::NodeUnavailable => format!("{count} nodes are unavailable: {nodes}"),
            NodeState::NodeGone => format!("{count} nodes removed from cluster: {nodes}"),
            NodeState::NodeError => format!("Error {message:?} on {count} nodes: {nodes}"),
            NodeState::UnknownNodeState => {
                format!("unknown node status event {}: {nodes}", status.state_change)
            }
        };
        format!("{time} [{}]: {text}\n", visible(&response.node_name))
    }
}

/// Names with ", " between, cut off after about 50 characters, at least one.
fn join_cut_off(names: &[String]) -> String {
    let mut length = 0;
    let fit = names.iter().take_while(|name| {
        length += name.len() + 2;
        length <= 50
    });
    let shown = fit.count().max(1).min(names.len());
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        text += &format!(" (and {} more)", names.len() - shown);
    }
    text
}

/// Control characters as text, so that a name cannot move the cursor or forge a line.
fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| match c {
            '\u{1b}' => "^[".to_owned(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_off() {
        let names = |count: usize| (0..count).map(|n| format!("node-{n:04}")).collect::<Vec<_>>();
        assert_eq!(join_cut_off(&names(2)), "node-0000, node-0001");
        assert_eq!(join_cut_off(&names(6)), "node-0000, node-0001, node-0002, node-0003 (and 2 more)");
        assert_eq!(join_cut_off(&["x".repeat(80), "y".into()]), format!("{} (and 1 more)", "x".repeat(80)));
        assert_eq!(join_cut_off(&[]), "");
    }

    #[test]
    fn control_characters_are_visible() {
        assert_eq!(visible("a\u{1b}[2Jb\r\n"), "a^[[2Jb\\r\\n");
    }
}
