//! `twinplane status --relay`: the nodes that a relay knows, their flows per second, how full their rings are, what they lost.

use std::{collections::BTreeMap, process::ExitCode};

use flow::proto::{
    flow::{FlowFilter, LostEventSource},
    observer::{
        GetFlowsRequest, GetNodesRequest, Node, ServerStatusRequest, get_flows_response::ResponseTypes,
        observer_client::ObserverClient,
    },
    relay::NodeState,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::commands::{
    output::{Output, columns},
    server::Server,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    relay: String,
    version: String,
    connected: u32,
    unavailable: u32,
    /// Over the last minute, all nodes together.
    flows_per_second: f64,
    /// In the rings of all connected nodes.
    kept: u64,
    capacity: u64,
    seen: u64,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeReport {
    name: String,
    address: String,
    /// The name in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
    state: &'static str,
    /// Since its agent started; `None` where it does not answer, as all below.
    flows_per_second: Option<f64>,
    kept: Option<u64>,
    capacity: Option<u64>,
    seen: Option<u64>,
    /// Events among those that are kept which were lost before the ring.
    lost: Option<u64>,
}

/// Exit 0 where every node is connected, 1 where one is not, or none is known.
///
/// # Errors
/// The relay cannot be asked, or the server is none.
pub(super) fn run(server: &Server, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (channel, address) = server.connect().await?;
        ask(address, channel).await
    })?;
    output.write(&report, table)?;
    let fine = report.connected > 0
        && report.unavailable == 0
        && report.nodes.iter().all(|node| node.seen.is_some());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(relay: String, channel: Channel) -> anyhow::Result<Report> {
    let refused = |status: tonic::Status| {
        anyhow::anyhow!("ask the relay: {:?}: {} (a node's server is none)", status.code(), status.message())
    };
    let mut client = ObserverClient::new(channel);
    let status = client.server_status(ServerStatusRequest {}).await.map_err(refused)?.into_inner();
    let nodes = client.get_nodes(GetNodesRequest {}).await.map_err(refused)?.into_inner().nodes;
    let lost = lost(&mut client).await.map_err(refused)?;
    Ok(Report {
        relay,
        version: status.version,
        connected: status.num_connected_nodes.unwrap_or_default(),
        unavailable: status.num_unavailable_nodes.unwrap_or_default(),
        flows_per_second: status.flows_rate,
        kept: status.num_flows,
        capacity: status.max_flows,
        seen: status.seen_flows,
        nodes: nodes.into_iter().map(|node| of_node(node, &lost)).collect(),
    })
}

/// By node. A filter that no flow matches leaves what was lost: that passes every filter.
async fn lost(client: &mut ObserverClient<Channel>) -> Result<BTreeMap<String, u64>, tonic::Status> {
    let none = FlowFilter { uuid: vec!["lost events only".to_owned()], ..FlowFilter::default() };
    let request = GetFlowsRequest { number: u64::MAX, whitelist: vec![none], ..GetFlowsRequest::default() };
    let mut answers = client.get_flows(request).await?.into_inner();
    let mut lost = BTreeMap::new();
    while let Some(answer) = answers.message().await? {
        // What this very request was too slow for is no loss of the node's.
        if let Some(ResponseTypes::LostEvents(event)) = answer.response_types
            && event.source() != LostEventSource::HubbleRingBuffer
        {
            let count: &mut u64 = lost.entry(answer.node_name).or_default();
            *count = count.saturating_add(event.num_events_lost);
        }
    }
    Ok(lost)
}

fn of_node(node: Node, lost: &BTreeMap<String, u64>) -> NodeReport {
    let state = match node.state() {
        NodeState::NodeConnected => "connected",
        NodeState::NodeUnavailable => "unavailable",
        NodeState::NodeGone => "gone",
        NodeState::NodeError => "error",
        NodeState::UnknownNodeState => "unknown",
    };
    // A node that answers has a ring.
    let answers = node.max_flows > 0;
    let uptime = node.uptime_ns as f64 / 1e9;
    NodeReport {
        state,
        flows_per_second: (answers && uptime > 0.0).then(|| node.seen_flows as f64 / uptime),
        kept: answers.then_some(node.num_flows),
        capacity: answers.then_some(node.max_flows),
        seen: answers.then_some(node.seen_flows),
        lost: answers.then(|| lost.get(&node.name).copied().unwrap_or_default()),
        tls: node.tls.filter(|tls| tls.enabled).map(|tls| tls.server_name),
        name: node.name,
        address: node.address,
    }
}

fn table(report: &Report) -> String {
    let fill = |kept: u64, capacity: u64| match capacity {
        0 => "-".to_owned(),
        _ => format!("{kept} of {capacity} ({}%)", kept * 100 / capacity),
    };
    let head = vec![
        vec!["relay".to_owned(), format!("{} ({})", report.relay, report.version)],
        vec!["nodes".into(), format!("{} connected, {} unavailable", report.connected, report.unavailable)],
        vec!["flows/s".into(), format!("{:.2} in the last minute", report.flows_per_second)],
        vec!["kept".into(), fill(report.kept, report.capacity)],
        vec!["seen".into(), report.seen.to_string()],
    ];
    let or_dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = |node: &NodeReport| {
        vec![
            node.name.clone(),
            node.state.to_owned(),
            node.flows_per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}")),
            node.kept.zip(node.capacity).map_or_else(|| "-".to_owned(), |(kept, most)| fill(kept, most)),
            or_dash(node.seen),
            or_dash(node.lost),
            node.address.clone(),
            if node.tls.is_some() { "yes" } else { "no" }.to_owned(),
        ]
    };
    let titles = ["NODE", "STATE", "FLOWS/S", "KEPT", "SEEN", "LOST", "ADDRESS", "TLS"];
    let head = columns(&["", ""], head).trim_start().to_owned();
    format!("{head}\n{}", columns(&titles, report.nodes.iter().map(row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_has_no_numbers() {
        let node = |name: &str, state: NodeState, max_flows| Node {
            name: name.into(),
            address: "10.0.0.1:4244".into(),
            state: state.into(),
            num_flows: max_flows / 2,
            max_flows,
            seen_flows: max_flows * 4,
            uptime_ns: 10_000_000_000 * u64::from(max_flows > 0),
            ..Node::default()
        };
        let lost = [("a".to_owned(), 7)].into();
        let nodes = [node("a", NodeState::NodeConnected, 15), node("b", NodeState::NodeUnavailable, 0)];
        let report = Report {
            relay: "unix:///r".into(),
            version: "v".into(),
            connected: 1,
            unavailable: 1,
            flows_per_second: 6.0,
            kept: 7,
            capacity: 15,
            seen: 60,
            nodes: nodes.into_iter().map(|node| of_node(node, &lost)).collect(),
        };
        let text = table(&report);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "relay unix:///r (v)",
                "nodes 1 connected, 1 unavailable",
                "flows/s 6.00 in the last minute",
                "kept 7 of 15 (46%)",
                "seen 60",
                "",
                "NODE STATE FLOWS/S KEPT SEEN LOST ADDRESS TLS",
                "a connected 6.00 7 of 15 (46%) 60 7 10.0.0.1:4244 no",
                "b unavailable - - - - 10.0.0.1:4244 no",
            ]
        );
    }
}
