//! The rules of one service port.
//!
//! Semantics are [`ServicePort::target`]'s; this file only knows which chain says what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use model::{
    Backend, Family, Frontend, FrontendAddress, FrontendKind, Port, Protocol, ServicePort, Target as Answer,
    TrafficPolicy, oracle::Origin, told::Stop,
};

use super::{LOCALHOST_ACCEPTED, Portal, Refused, Renderer, ServiceRules, of_kind, reachable};
use crate::{
    names::{self, ChainName, ServiceChains, endpoint_chain},
    rule::{Match, Probability, Rule, Target},
};

impl Renderer<'_> {
    /// The rules of `service`.
    ///
    /// # Errors
    /// No rules can express it.
    pub fn service(&self, service: &ServicePort) -> Result<ServiceRules, Refused> {
        let external = external_policy(service)?;
        validate(service, self.family)?;
        let view = View {
            renderer: self,
            service,
            chains: ServiceChains::of(&service.id),
            name: service.id.to_string(),
            external,
        };
        let mut rules = ServiceRules::default();
        if service.frontends.iter().any(|frontend| frontend.kind == FrontendKind::HostPort) {
            view.host_port(&mut rules)?;
            return if fits(&rules) { Ok(rules) } else { Err(Refused::LongName) };
        }
        view.endpoint_chains(&mut rules);
        view.policy_chains(&mut rules);
        view.external_chain(&mut rules);
        view.firewall_chain(&mut rules);
        view.cluster_ips(&mut rules);
        view.external_addresses(&mut rules, FrontendKind::ExternalIp);
        view.external_addresses(&mut rules, FrontendKind::LoadBalancer);
        view.node_ports(&mut rules);
        view.health_check_port(&mut rules);
        if fits(&rules) { Ok(rules) } else { Err(Refused::LongName) }
    }
}

/// One service port while it is rendered.
pub(super) struct View<'a> {
    pub(super) renderer: &'a Renderer<'a>,
    pub(super) service: &'a ServicePort,
    pub(super) chains: ServiceChains,
    /// As comments name it.
    pub(super) name: String,
    /// The policy of all frontends for outside clients; `None`: it has no such frontend.
    external: Option<TrafficPolicy>,
}

impl View<'_> {
    pub(super) fn protocol(&self) -> Protocol {
        self.service.id.protocol
    }

    /// What a client of `origin` gets at `frontend`.
    pub(super) fn answer(&self, frontend: &Frontend, origin: Origin) -> Answer<'_> {
        self.service.target(frontend, origin)
    }

    fn internal(&self) -> Option<&Frontend> {
        of_kind(self.service, FrontendKind::ClusterIp).next()
    }

    fn uses_cluster_chain(&self) -> bool {
        let internally = self.internal().is_some_and(|frontend| frontend.policy == TrafficPolicy::Cluster);
        !self.service.cluster.is_empty() && (internally || self.external.is_some())
    }

    fn uses_local_chain(&self) -> bool {
        let internally = self.internal().is_some_and(|frontend| frontend.policy == TrafficPolicy::Local);
        !self.service.local.is_empty() && (internally || self.external == Some(TrafficPolicy::Local))
    }

    fn policy_chain(&self, policy: TrafficPolicy) -> &ChainName {
        match policy {
            TrafficPolicy::Cluster => &self.chains.svc,
            TrafficPolicy::Local => &self.chains.svl,
        }
    }

    /// Source ranges, where they are enforced: a service without endpoints only rejects.
    fn source_ranges(&self) -> &[IpNet] {
        match of_kind(self.service, FrontendKind::LoadBalancer).next() {
            Some(frontend) if self.service.usable_anywhere => &frontend.source_ranges,
            _ => &[],
        }
    }

    /// `-d ADDRESS -p PROTOCOL -m comment … -m PROTOCOL --dport PORT`.
    fn arriving(&self, address: IpAddr, port: Port, comment: &str) -> Rule {
        let rule = Rule::new().to(address).protocol(self.protocol());
        rule.comment(comment).port(self.protocol(), port)
    }

    /// Comments on rules of endpoints are left out in a large cluster.
    fn endpoint_comment(&self, rule: Rule, text: impl FnOnce() -> String) -> Rule {
        if self.renderer.comments { rule.comment(text()) } else { rule }
    }

    fn endpoint_chains(&self, rules: &mut ServiceRules) {
        if !self.service.usable_anywhere {
            return;
        }
        for endpoint in reachable(self.service) {
            let chain = endpoint_chain(&self.service.id, endpoint);
            let named = |rule| self.endpoint_comment(rule, || self.name.clone());
            let hairpin = named(Rule::new().from(endpoint.ip())).jump(names::MARK_MASQ);
            let mut translate = named(Rule::new().protocol(self.protocol()));
            if self.service.affinity_seconds.is_some() {
                translate = translate.when(Match::RecentSet { list: chain.clone() });
            }
            let translate = translate
                .when(Match::Transport { protocol: self.protocol(), destination: None })
                .then(Target::Dnat(endpoint));
            rules.chains.push((chain, vec![hairpin, translate]));
        }
    }

    fn policy_chains(&self, rules: &mut ServiceRules) {
        if !self.service.usable_anywhere {
            return;
        }
        for (policy, used, backends) in [
            (TrafficPolicy::Cluster, self.uses_cluster_chain(), &self.service.cluster),
            (TrafficPolicy::Local, self.uses_local_chain(), &self.service.local),
        ] {
            if used {
                let mut chain = self.masquerade_internal(policy);
                chain.extend(self.balance(backends));
                rules.chains.push((self.policy_chain(policy).clone(), chain));
            }
        }
    }

    /// What comes to the cluster IP from outside the cluster must come back through this node.
    fn masquerade_internal(&self, policy: TrafficPolicy) -> Vec<Rule> {
        let rule = |frontend: &Frontend| {
            let FrontendAddress::Ip(address) = frontend.address else { return None };
            let rule = self.arriving(address, frontend.port, &format!("{} cluster IP", self.name));
            if self.renderer.options.masquerade_all {
                return Some(rule.jump(names::MARK_MASQ));
            }
            let mut pods = self.renderer.cluster_cidrs();
            match (pods.next()?, pods.next()) {
                (only, None) => Some(rule.not_from(only).jump(names::MARK_MASQ)),
                _ => Some(rule.jump(names::OUTSIDE)),
            }
        };
        of_kind(self.service, FrontendKind::ClusterIp)
            .filter(|f| f.policy == policy)
            .filter_map(rule)
            .collect()
    }

    /// The jumps from a policy chain to its endpoints: remembered ones first, then by chance.
    fn balance(&self, backends: &[Backend]) -> Vec<Rule> {
        let to = |endpoint: SocketAddr, condition: Option<Match>| {
            let rule = self.endpoint_comment(Rule::new(), || format!("{} -> {endpoint}", self.name));
            let rule = condition.into_iter().fold(rule, Rule::when);
            rule.jump(endpoint_chain(&self.service.id, endpoint))
        };
        let remembered = self.service.affinity_seconds.into_iter().flat_map(|seconds| {
            backends.iter().map(move |backend| {
                let list = endpoint_chain(&self.service.id, backend.address);
                to(backend.address, Some(Match::RecentCheck { list, seconds }))
            })
        });
        let chosen = backends.iter().zip((1..=backends.len()).rev()).map(|(backend, left)| {
            to(backend.address, (left > 1).then(|| Match::Statistic(Probability::one_in(left))))
        });
        remembered.chain(chosen).collect()
    }

    fn external_chain(&self, rules: &mut ServiceRules) {
        let Some(policy) = self.external.filter(|_| self.service.usable_anywhere) else { return };
        let name = &self.name;
        let mut chain = Vec::new();
        match policy {
            // The backend may be on another node, whose answer must come back through this one.
            TrafficPolicy::Cluster => chain.push(
                Rule::new()
                    .comment(format!("masquerade traffic for {name} external destinations"))
                    .jump(names::MARK_MASQ),
            ),
            // Local policy binds outside clients only.
            TrafficPolicy::Local if self.uses_cluster_chain() => chain.extend(self.short_circuits()),
            TrafficPolicy::Local => {}
        }
        let filled = match policy {
            TrafficPolicy::Cluster => self.uses_cluster_chain(),
            TrafficPolicy::Local => self.uses_local_chain(),
        };
        if filled {
            chain.push(Rule::new().jump(self.policy_chain(policy).clone()));
        }
        rules.chains.push((self.chains.ext.clone(), chain));
    }

    fn short_circuits(&self) -> Vec<Rule> {
        let name = &self.name;
        let pods = self.renderer.cluster_cidrs().map(|pods| {
            Rule::new()
                .from(pods)
                .comment(format!("pod traffic for {name} external destinations"))
                .jump(self.chains.svc.clone())
        });
        let host = |what: &str| {
            Rule::new()
                .comment(format!("{what} LOCAL traffic for {name} external destinations"))
                .when(Match::SourceLocal)
        };
        let masquerade = host("masquerade").jump(names::MARK_MASQ);
        let route = host("route").jump(self.chains.svc.clone());
        pods.chain([masquerade, route]).collect()
    }

    fn firewall_chain(&self, rules: &mut ServiceRules) {
        let ranges = self.source_ranges();
        if ranges.is_empty() {
            return;
        }
        let name = &self.name;
        let comment = format!("{name} loadbalancer IP");
        let allow = |net: IpNet| Rule::new().from(net).comment(&*comment).jump(self.chains.ext.clone());
        let mut chain: Vec<_> = ranges.iter().copied().map(allow).collect();
        let family = self.renderer.family;
        let node =
            self.renderer.node.addresses.iter().copied().find(|address| Family::of(*address) == family);
        // A VIP is often an address of the node itself, and then the source of what the node sends to it.
        if node.is_some_and(|node| ranges.iter().any(|range| range.contains(&node))) {
            chain.extend(
                addresses(self.service, FrontendKind::LoadBalancer).map(|(vip, _)| allow(vip.into())),
            );
        }
        let rest = format!("other traffic to {name} will be dropped by {}", names::PROXY_FIREWALL);
        chain.push(Rule::new().comment(rest));
        rules.chains.push((self.chains.fw.clone(), chain));
    }

    fn cluster_ips(&self, rules: &mut ServiceRules) {
        for frontend in of_kind(self.service, FrontendKind::ClusterIp) {
            let FrontendAddress::Ip(address) = frontend.address else { continue };
            // Internal policy binds every origin alike.
            match refusal(&self.answer(frontend, Origin::Pod)) {
                None => rules.portal(Portal::NatServices).push(
                    self.arriving(address, frontend.port, &format!("{} cluster IP", self.name))
                        .jump(self.policy_chain(frontend.policy).clone()),
                ),
                Some((why, stop)) => {
                    let refuse = self.arriving(address, frontend.port, &format!("{} {why}", self.name));
                    rules.portal(Portal::FilterServices).extend(self.renderer.stopping(refuse, stop));
                }
            }
        }
    }

    /// External IPs or load-balancer IPs: the jump in, and what becomes of packets that none of the chains took.
    fn external_addresses(&self, rules: &mut ServiceRules, kind: FrontendKind) {
        let guarded = kind == FrontendKind::LoadBalancer && !self.source_ranges().is_empty();
        let (what, chain) = match kind {
            FrontendKind::LoadBalancer if guarded => ("loadbalancer IP", &self.chains.fw),
            FrontendKind::LoadBalancer => ("loadbalancer IP", &self.chains.ext),
            _ => ("external IP", &self.chains.ext),
        };
        for (address, frontend) in addresses(self.service, kind) {
            if self.service.usable_anywhere {
                let comment = format!("{} {what}", self.name);
                let jump = self.arriving(address, frontend.port, &comment).jump(chain.clone());
                rules.portal(Portal::NatServices).push(jump);
            }
            if guarded {
                let comment = format!("{} traffic not accepted by {chain}", self.name);
                let drop = self.arriving(address, frontend.port, &comment);
                let stopping = self.renderer.stopping(drop, Stop::SourceRange);
                rules.portal(Portal::FilterFirewall).extend(stopping);
            }
            if let Some((why, stop)) = refusal(&self.answer(frontend, Origin::External)) {
                let refuse = self.arriving(address, frontend.port, &format!("{} {why}", self.name));
                rules.portal(Portal::FilterExternal).extend(self.renderer.stopping(refuse, stop));
            }
        }
    }

    fn node_ports(&self, rules: &mut ServiceRules) {
        for frontend in of_kind(self.service, FrontendKind::NodePort) {
            let arriving = |rule: Rule| {
                rule.protocol(self.protocol()).comment(&*self.name).port(self.protocol(), frontend.port)
            };
            let options = self.renderer.options;
            if self.service.usable_anywhere {
                let ports = rules.portal(Portal::NatNodePorts);
                if self.renderer.family == Family::V4 && options.localhost_node_ports && options.accounting {
                    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
                    let count = Match::Account(LOCALHOST_ACCEPTED.to_owned());
                    ports.push(arriving(Rule::new().to(loopback)).when(count).jump(self.chains.ext.clone()));
                }
                ports.push(arriving(Rule::new()).jump(self.chains.ext.clone()));
            }
            if let Some((why, stop)) = refusal(&self.answer(frontend, Origin::External)) {
                let refuse = Rule::new()
                    .protocol(self.protocol())
                    .comment(format!("{} {why}", self.name))
                    .when(Match::DestinationLocal)
                    .port(self.protocol(), frontend.port);
                rules.portal(Portal::FilterExternal).extend(self.renderer.stopping(refuse, stop));
            }
        }
    }

    fn health_check_port(&self, rules: &mut ServiceRules) {
        let Some(port) = self.service.health_check_port else { return };
        rules.portal(Portal::FilterNodePorts).push(
            Rule::new()
                .protocol(Protocol::Tcp)
                .comment(format!("{} health check node port", self.name))
                .port(Protocol::Tcp, port)
                .then(Target::Accept),
        );
    }
}

/// Whether all comments are whole in the kernel.
fn fits(rules: &ServiceRules) -> bool {
    rules.all().filter_map(Rule::comment_text).all(|comment| comment.len() <= 255)
}

/// Why nothing is forwarded, as the comment says it and as it is counted.
fn refusal(answer: &Answer<'_>) -> Option<(&'static str, Stop)> {
    match answer {
        Answer::Backends(..) => None,
        Answer::NoEndpoints => Some(("has no endpoints", Stop::NoEndpoints)),
        Answer::NoLocalEndpoints => Some(("has no local endpoints", Stop::NoLocalEndpoints)),
    }
}

fn addresses(service: &ServicePort, kind: FrontendKind) -> impl Iterator<Item = (IpAddr, &Frontend)> {
    of_kind(service, kind).filter_map(|frontend| match frontend.address {
        FrontendAddress::Ip(address) => Some((address, frontend)),
        FrontendAddress::Node => None,
    })
}

/// There is one chain for all frontends that outside clients use.
fn external_policy(service: &ServicePort) -> Result<Option<TrafficPolicy>, Refused> {
    let mut policies = service
        .frontends
        .iter()
        .filter(|f| f.kind != FrontendKind::ClusterIp)
        .map(|frontend| frontend.policy);
    let first = policies.next();
    if policies.all(|policy| Some(policy) == first) { Ok(first) } else { Err(Refused::MixedPolicies) }
}

fn validate(service: &ServicePort, family: Family) -> Result<(), Refused> {
    let mut balancers = of_kind(service, FrontendKind::LoadBalancer).map(|frontend| &frontend.source_ranges);
    let first = balancers.next();
    if balancers.any(|ranges| Some(ranges) != first) {
        return Err(Refused::MixedSourceRanges);
    }
    for frontend in &service.frontends {
        if let FrontendAddress::Ip(address) = frontend.address
            && Family::of(address) != family
        {
            return Err(Refused::FrontendFamily(address));
        }
    }
    if let Some(other) = reachable(service).into_iter().find(|backend| Family::of(backend.ip()) != family) {
        return Err(Refused::BackendFamily(other));
    }
    if service.id.to_string().chars().any(char::is_control) { Err(Refused::Name) } else { Ok(()) }
}
