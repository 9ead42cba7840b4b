//! Messages as metrics. What a peer may choose freely is one of the values that standards know, or "other"; what standards
//! leave open is capped.

use std::borrow::Cow;

use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};

use super::capped::{Capped, Folded, OTHER, Spec};
use crate::{
    event::Flow,
    proto::flow::{Dns, Http, L7FlowType, Layer7, TrafficDirection, Verdict, layer7::Record},
    summary::rcode,
};

const DNS_QUERIES: Spec<3> = Spec {
    name: "hubble_dns_queries",
    help: "DNS queries that were seen",
    labels: ["rcode", "qtypes", "ips_returned"],
    cap: 128,
};
const DNS_RESPONSES: Spec<3> = Spec {
    name: "hubble_dns_responses",
    help: "DNS answers that were seen",
    labels: ["rcode", "qtypes", "ips_returned"],
    cap: 256,
};
const DNS_TYPES: Spec<2> = Spec {
    name: "hubble_dns_response_types",
    help: "Records in DNS answers that were seen",
    labels: ["type", "qtypes"],
    cap: 128,
};
const HTTP_REQUESTS: Spec<4> = Spec {
    name: "hubble_http_requests",
    help: "HTTP requests that were seen answered",
    labels: ["method", "protocol", "status", "reporter"],
    cap: 256,
};
const HTTP_DURATION: Spec<2> = Spec {
    name: "hubble_http_request_duration_seconds",
    help: "Time from a request to its answer, as seen here",
    labels: ["method", "reporter"],
    cap: 32,
};
/// Those of Prometheus' clients.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// RFC 9110, section 9, and RFC 5789.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const PROTOCOLS: [&str; 4] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"];

#[derive(Debug)]
pub(super) struct L7Metrics {
    dns_queries: Capped<Counter, 3>,
    dns_responses: Capped<Counter, 3>,
    dns_types: Capped<Counter, 2>,
    http_requests: Capped<Counter, 4>,
    http_duration: Capped<Histogram, 2>,
}

impl L7Metrics {
    pub(super) fn new(registry: &mut Registry, folded: &Folded) -> Self {
        Self {
            dns_queries: Capped::new(registry, folded, DNS_QUERIES, Counter::default),
            dns_responses: Capped::new(registry, folded, DNS_RESPONSES, Counter::default),
            dns_types: Capped::new(registry, folded, DNS_TYPES, Counter::default),
            http_requests: Capped::new(registry, folded, HTTP_REQUESTS, Counter::default),
            http_duration: Capped::new(registry, folded, HTTP_DURATION, || Histogram::new(SECONDS)),
        }
    }

    pub(super) fn observe(&mut self, l7: &Layer7, flow: &Flow) {
        match &l7.record {
            Some(Record::Dns(dns)) => self.observe_dns(dns, l7.r#type(), flow.verdict),
            Some(Record::Http(http)) => self.observe_http(http, l7, flow.direction),
            Some(Record::Kafka(_)) | None => {}
        }
    }

    fn observe_dns(&mut self, dns: &Dns, kind: L7FlowType, verdict: Verdict) {
        let qtypes = || Cow::Owned(dns.qtypes.join(","));
        let ips = || Cow::Owned(dns.ips.len().to_string());
        if verdict == Verdict::Dropped || kind != L7FlowType::Response {
            let code = if verdict == Verdict::Dropped { "Policy denied" } else { "" };
            self.dns_queries.get([code.into(), qtypes(), ips()]).inc();
            return;
        }
        let code =
            if dns.rcode == 0 { "No Error".to_owned() } else { rcode(dns.rcode).trim_end().to_owned() };
        self.dns_responses.get([code.into(), qtypes(), ips()]).inc();
        for record in &dns.rrtypes {
            self.dns_types.get([record.clone().into(), qtypes()]).inc();
        }
    }

    /// A request is counted with its answer, which has its method and its status.
    fn observe_http(&mut self, http: &Http, l7: &Layer7, direction: TrafficDirection) {
        if l7.r#type() != L7FlowType::Response {
            return;
        }
        let reporter = match direction {
            TrafficDirection::Ingress => "server",
            TrafficDirection::Egress => "client",
            TrafficDirection::Unknown => "unknown",
        };
        let method = known(&METHODS, &http.method);
        let status: Cow<'static, str> = match http.code {
            100..600 => http.code.to_string().into(),
            _ => OTHER.into(),
        };
        let protocol = known(&PROTOCOLS, &http.protocol);
        self.http_requests.get([method.into(), protocol.into(), status, reporter.into()]).inc();
        let seconds = l7.latency_ns as f64 / 1e9;
        self.http_duration.get([method.into(), reporter.into()]).observe(seconds);
    }
}

fn known(all: &[&'static str], value: &str) -> &'static str {
    all.iter().find(|known| **known == value).copied().unwrap_or(OTHER)
}
