//! The filter flags: one table for parser, help and conflicts. Never holds state.

/// A flag with a value, or one that means something by being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    /// What the value is; `None`: there is none.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: Some(value), help }
}

const fn short(short: char, flag: Flag) -> Flag {
    Flag { short: Some(short), ..flag }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: None, help }
}

/// In the order of the help.
pub(super) const FLAGS: &[Flag] = &[
    switch("not", "Leave out what the next filter matches"),
    flag("uuid", "UUID", "The flow with this identifier"),
    flag("node-name", "PATTERN", "Flows seen by these nodes (\"k8s*\", \"cluster/*.example.com\")"),
    flag("node-label", "SELECTOR", "Flows seen by nodes with these labels"),
    flag("cluster", "NAME", "Flows from or to endpoints of this cluster"),
    flag("from-cluster", "NAME", "Flows from endpoints of this cluster"),
    flag("to-cluster", "NAME", "Flows to endpoints of this cluster"),
    flag("protocol", "PROTOCOL", "Flows of this protocol (\"udp\", \"http\")"),
    flag("tcp-flags", "FLAGS", "Flows with these TCP flags (\"syn\", \"syn,ack\")"),
    short(
        't',
        flag("type", "TYPE[:SUBTYPE]", "Events of this type (\"trace\", \"trace:to-endpoint\", \"drop\")"),
    ),
    flag(
        "verdict",
        "VERDICT",
        "Flows with this verdict (FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED, TRANSLATED)",
    ),
    flag("drop-reason-desc", "REASON", "Flows dropped for this reason (\"POLICY_DENIED\")"),
    flag("http-status", "CODE", "HTTP responses with this status (\"404\", \"5+\")"),
    flag("http-method", "METHOD", "HTTP requests with this method"),
    flag("http-path", "REGEX", "HTTP requests with such a path"),
    flag("http-url", "REGEX", "HTTP requests with such a URL"),
    flag("http-header", "NAME:VALUE", "HTTP messages with this header"),
    flag("dns-query", "REGEX", "DNS messages about such a name"),
    flag("trace-id", "ID", "Flows with this trace id"),
    flag("ip-trace-id", "ID", "Flows with this IP trace id"),
    flag("fqdn", "PATTERN", "Flows from or to such a name (\"*.example.com\")"),
    flag("from-fqdn", "PATTERN", "Flows from such a name"),
    flag("to-fqdn", "PATTERN", "Flows to such a name"),
    flag("ip", "ADDRESS", "Flows from or to this address or prefix"),
    flag("from-ip", "ADDRESS", "Flows from this address or prefix"),
    flag("to-ip", "ADDRESS", "Flows to this address or prefix"),
    flag("snat-ip", "ADDRESS", "Flows masqueraded with this address or prefix"),
    short('4', switch("ipv4", "IPv4 flows")),
    short('6', switch("ipv6", "IPv6 flows")),
    flag("ip-version", "VERSION", "Flows of this version (\"v4\", \"v6\", \"none\")"),
    flag("pod", "[NAMESPACE/]PREFIX", "Flows from or to such pods; without a namespace those of \"default\""),
    flag("from-pod", "[NAMESPACE/]PREFIX", "Flows from such pods"),
    flag("to-pod", "[NAMESPACE/]PREFIX", "Flows to such pods"),
    short('n', flag("namespace", "NAMESPACE", "Flows from or to this namespace")),
    flag("from-namespace", "NAMESPACE", "Flows from this namespace"),
    flag("to-namespace", "NAMESPACE", "Flows to this namespace"),
    short('A', switch("all-namespaces", "Flows from or to any namespace")),
    switch("from-all-namespaces", "Flows from any namespace"),
    switch("to-all-namespaces", "Flows to any namespace"),
    short('l', flag("label", "SELECTOR", "Flows from or to endpoints with such labels")),
    flag("from-label", "SELECTOR", "Flows from endpoints with such labels"),
    flag("to-label", "SELECTOR", "Flows to endpoints with such labels"),
    flag("service", "[NAMESPACE/]PREFIX", "Flows from or to such Services"),
    flag("from-service", "[NAMESPACE/]PREFIX", "Flows from such Services"),
    flag("to-service", "[NAMESPACE/]PREFIX", "Flows to such Services"),
    flag("port", "PORT", "Flows from or to this port"),
    flag("from-port", "PORT", "Flows from this port"),
    flag("to-port", "PORT", "Flows to this port"),
    flag("workload", "[KIND/]NAME", "Flows from or to endpoints of this workload"),
    flag("from-workload", "[KIND/]NAME", "Flows from endpoints of this workload"),
    flag("to-workload", "[KIND/]NAME", "Flows to endpoints of this workload"),
    flag("identity", "IDENTITY", "Flows from or to this identity, by number or reserved name"),
    flag("from-identity", "IDENTITY", "Flows from this identity"),
    flag("to-identity", "IDENTITY", "Flows to this identity"),
    flag("traffic-direction", "DIRECTION", "Flows in this direction (ingress, egress)"),
    flag("interface", "NAME", "Flows seen at this interface"),
    switch("encrypted", "Flows that were encrypted"),
    switch("unencrypted", "Flows that were not encrypted"),
    flag(
        "cel-expression",
        "EXPRESSION",
        "Flows for which this expression holds (servers may not support it)",
    ),
];

/// No two of one group can stand in one list.
pub(super) const CONFLICTS: &[&[&str]] = &[
    &[
        "from-fqdn",
        "from-ip",
        "ip",
        "fqdn",
        "from-namespace",
        "namespace",
        "from-all-namespaces",
        "all-namespaces",
    ],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["cluster", "to-cluster"],
    &["cluster", "from-cluster"],
    &["encrypted", "unencrypted"],
];
