//! The rules of a pod's host port: one chain, as the kubelet's host port manager wrote it.

use model::{FrontendAddress, FrontendKind, Target as Answer, oracle::Origin, told::Stop};

use super::{Portal, Refused, ServiceRules, service::View};
use crate::{
    names,
    rule::{Match, Rule, Target},
};

impl View<'_> {
    /// # Errors
    /// It is no single pod's, or shares its service port with other frontends.
    pub(super) fn host_port(&self, rules: &mut ServiceRules) -> Result<(), Refused> {
        for frontend in &self.service.frontends {
            if frontend.kind != FrontendKind::HostPort {
                return Err(Refused::MixedHostPort);
            }
            let arriving = |comment: &str| {
                let rule = match frontend.address {
                    FrontendAddress::Ip(address) => Rule::new().to(address),
                    FrontendAddress::Node => Rule::new(),
                };
                rule.protocol(self.protocol())
                    .comment(format!("{} {comment}", self.name))
                    .port(self.protocol(), frontend.port)
            };
            match self.answer(frontend, Origin::External) {
                Answer::Backends([pod], _) => {
                    rules
                        .portal(Portal::NatHostPorts)
                        .push(arriving("host port").jump(self.chains.hp.clone()));
                    let translate = Rule::new()
                        .protocol(self.protocol())
                        .comment(&*self.name)
                        .when(Match::Transport { protocol: self.protocol(), destination: None })
                        .then(Target::Dnat(pod.address));
                    let hairpin = Rule::new().from(pod.address.ip()).comment(&*self.name);
                    let host = Rule::new().comment(&*self.name).when(Match::SourceLocal);
                    let chain = [hairpin.jump(names::MARK_MASQ), host.jump(names::MARK_MASQ), translate];
                    rules.chains.push((self.chains.hp.clone(), chain.into()));
                }
                Answer::Backends(pods, _) => return Err(Refused::HostPort(pods.len())),
                Answer::NoEndpoints | Answer::NoLocalEndpoints => {
                    let refuse = arriving("has no endpoints").when(Match::DestinationLocal);
                    let stopping = self.renderer.stopping(refuse, Stop::NoEndpoints);
                    rules.portal(Portal::FilterExternal).extend(stopping);
                }
            }
        }
        Ok(())
    }
}
