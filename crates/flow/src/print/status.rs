//! The state of servers, nodes and peers as text. Never asks them.

use super::{table::Table, visible};
use crate::proto::{
    observer::{Node, ServerStatusResponse},
    peer::{ChangeNotification, ChangeNotificationType},
    relay::NodeState,
};

/// The line that says whether a server serves.
pub fn health(address: &str, serving: bool) -> String {
    format!("Healthcheck (via {address}): {}\n", if serving { "Ok" } else { "not healthy" })
}

/// What a server says of itself.
pub fn server_status(status: &ServerStatusResponse) -> String {
    let (flows, most) = (status.num_flows, status.max_flows);
    let share = if most > 0 { format!(" ({:.2}%)", percent(flows, most)) } else { String::new() };
    let mut text = format!("Current/Max Flows: {}/{}{share}\n", grouped(flows), grouped(most));
    let rate = if status.flows_rate > 0.0 {
        format!("{:.2}", status.flows_rate)
    } else if status.uptime_ns > 0 {
        format!("{:.2}", per_second(status.seen_flows, status.uptime_ns))
    } else {
        "N/A".to_owned()
    };
    text += &format!("Flows/s: {rate}\n");
    if let Some(connected) = status.num_connected_nodes {
        let total = status
            .num_unavailable_nodes
            .map_or_else(String::new, |missing| format!("/{}", connected + missing));
        text += &format!("Connected Nodes: {connected}{total}\n");
    }
    if let Some(missing) = status.num_unavailable_nodes.filter(|missing| *missing > 0) {
        text += &format!("Unavailable Nodes: {missing}\n");
        let mut names: Vec<String> = status.unavailable_nodes.iter().map(|name| visible(name)).collect();
        names.sort();
        let named = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if named > 0 && missing > named {
            names.push(format!("and {} more...", missing - named));
        }
        for name in names {
            text += &format!("  - {name}\n");
        }
    }
    text
}

/// One line per node; `wide` adds version, address and TLS.
pub fn nodes(nodes: &[Node], wide: bool) -> String {
    let mut table = Table::new(2);
    let mut head = vec!["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"];
    if wide {
        head.extend(["VERSION", "ADDRESS", "TLS"]);
    }
    table.add(head.into_iter().map(str::to_owned).collect());
    for node in nodes {
        let unknown = || "N/A".to_owned();
        let up = node.uptime_ns > 0;
        let mut row = vec![
            visible(&node.name),
            state(node.state()).to_owned(),
            if up { age(node.uptime_ns) } else { unknown() },
            if up { format!("{:.2}", per_second(node.seen_flows, node.uptime_ns)) } else { unknown() },
            if node.max_flows > 0 {
                let share = percent(node.num_flows, node.max_flows);
                format!("{}/{} ({share:.2}%)", node.num_flows, node.max_flows)
            } else {
                unknown()
            },
        ];
        if wide {
            let tls = node.tls.as_ref().is_some_and(|tls| tls.enabled);
            row.extend([visible(&node.version), visible(&node.address)]);
            row.push(if tls { "Enabled" } else { "Disabled" }.to_owned());
        }
        table.add(row);
    }
    table.render()
}

/// One change of a peer.
pub fn peer(change: &ChangeNotification) -> String {
    let kind = ChangeNotificationType::try_from(change.r#type)
        .map_or_else(|_| change.r#type.to_string(), |kind| kind.as_str_name().to_owned());
    let tls = match &change.tls {
        Some(tls) if !tls.server_name.is_empty() => {
            format!(" (TLS.ServerName: {})", visible(&tls.server_name))
        }
        Some(_) | None => String::new(),
    };
    format!("{kind:<12} {} {}{tls}\n", visible(&change.address), visible(&change.name))
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::NodeConnected => "Connected",
        NodeState::NodeUnavailable => "Unavailable",
        NodeState::NodeGone => "Gone",
        NodeState::NodeError => "Error",
        NodeState::UnknownNodeState => "Unknown",
    }
}

/// `4m57s`, as Go prints durations of whole seconds.
fn age(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn per_second(events: u64, nanos: u64) -> f64 {
    events as f64 / (nanos as f64 / 1e9)
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}

/// Commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{observer, peer::Tls};

    #[test]
    fn a_relays_status() {
        let status = ServerStatusResponse {
            num_flows: 4095,
            max_flows: 4095,
            flows_rate: 401.449,
            num_connected_nodes: Some(1),
            num_unavailable_nodes: Some(1),
            unavailable_nodes: vec!["vm".into()],
            ..ServerStatusResponse::default()
        };
        assert_eq!(
            health("localhost:4245", true) + &server_status(&status),
            "Healthcheck (via localhost:4245): Ok\nCurrent/Max Flows: 4,095/4,095 (100.00%)\nFlows/s: 401.45\n\
             Connected Nodes: 1/2\nUnavailable Nodes: 1\n  - vm\n"
        );
    }

    #[test]
    fn a_nodes_status_has_no_nodes() {
        let status = ServerStatusResponse {
            seen_flows: 30,
            uptime_ns: 60_000_000_000,
            ..ServerStatusResponse::default()
        };
        assert_eq!(server_status(&status), "Current/Max Flows: 0/0\nFlows/s: 0.50\n");
    }

    #[test]
    fn a_list_of_nodes() {
        let node = Node {
            name: "vm".into(),
            version: "v1".into(),
            address: "10.0.20.1:4244".into(),
            state: NodeState::NodeConnected.into(),
            tls: Some(observer::Tls { enabled: true, server_name: "x".into() }),
            uptime_ns: 297_000_000_000,
            num_flows: 4095,
            max_flows: 4095,
            seen_flows: 93_133,
        };
        let gone = Node { name: "b".into(), state: NodeState::NodeUnavailable.into(), ..Node::default() };
        let lines = nodes(std::slice::from_ref(&node), false);
        assert_eq!(lines.lines().nth(1), Some("vm    Connected  4m57s  313.58   4095/4095 (100.00%)"));
        let wide = nodes(&[node, gone], true);
        let cells: Vec<&str> = wide.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["b", "Unavailable", "N/A", "N/A", "N/A", "Disabled"]);
    }

    #[test]
    fn changes_of_peers() {
        let change = ChangeNotification {
            name: "vm".into(),
            address: "10.0.20.1:4244".into(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: None,
        };
        assert_eq!(peer(&change), "PEER_ADDED   10.0.20.1:4244 vm\n");
        let tls = ChangeNotification { tls: Some(Tls { server_name: "n".into() }), ..change };
        assert_eq!(peer(&tls), "PEER_ADDED   10.0.20.1:4244 vm (TLS.ServerName: n)\n");
    }

    #[test]
    fn thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
