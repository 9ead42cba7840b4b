//! Who owns an address and port that several Services claim: the first by name, until it lets go. Pure.
//!
//! The API server prevents most such conflicts; external IPs and load-balancer addresses it does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
};

use model::{FrontendAddress, ServiceName, ServicePort};

use crate::{
    problem::{ObjectRef, Problem},
    program::{self, Claim},
    service::Service,
};

/// All claims of all Services.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_service: BTreeMap<ServiceName, BTreeSet<Claim>>,
    /// Claimants in order of name; the first is the owner.
    claimants: HashMap<Claim, BTreeSet<ServiceName>>,
}

impl Claims {
    /// Replaces what `service` claims. Returns the other Services that gain or lose a place by it.
    pub(crate) fn set(&mut self, service: &ServiceName, claims: BTreeSet<Claim>) -> BTreeSet<ServiceName> {
        let before = self.by_service.remove(service).unwrap_or_default();
        let mut touched = BTreeSet::new();
        for claim in before.difference(&claims) {
            touched.extend(self.release(service, claim));
        }
        for claim in claims.difference(&before) {
            touched.extend(self.take(service, *claim));
        }
        if !claims.is_empty() {
            self.by_service.insert(service.clone(), claims);
        }
        touched
    }

    pub(crate) fn owner(&self, claim: &Claim) -> Option<&ServiceName> {
        self.claimants.get(claim).and_then(BTreeSet::first)
    }

    /// The Service that inherits, where `service` was the owner.
    fn release(&mut self, service: &ServiceName, claim: &Claim) -> Option<ServiceName> {
        let claimants = self.claimants.get_mut(claim)?;
        let owned = claimants.first() == Some(service);
        claimants.remove(service);
        let heir = claimants.first().filter(|_| owned).cloned();
        if claimants.is_empty() {
            self.claimants.remove(claim);
        }
        heir
    }

    /// The Service that loses the place, where `service` comes before it.
    fn take(&mut self, service: &ServiceName, claim: Claim) -> Option<ServiceName> {
        let claimants = self.claimants.entry(claim).or_default();
        let owner = claimants.first().cloned();
        claimants.insert(service.clone());
        owner.filter(|owner| service < owner)
    }
}

/// Takes out of `port` the frontends that another Service owns, and says which and why.
pub(crate) fn drop_foreign(claims: &Claims, service: &Service, port: &mut ServicePort) -> Vec<Problem> {
    let mut conflicts = vec![];
    let mut kept = mem::take(&mut port.frontends);
    kept.retain(|frontend| {
        let claim = Claim {
            address: frontend.address,
            family: port.id.family,
            port: frontend.port,
            protocol: port.id.protocol,
        };
        let Some(owner) = claims.owner(&claim).filter(|owner| **owner != service.name) else { return true };
        let place = match frontend.address {
            FrontendAddress::Ip(ip) => format!("{ip} port {}/{}", frontend.port, port.id.protocol),
            FrontendAddress::Node => format!("node port {}/{}", frontend.port, port.id.protocol),
        };
        conflicts.push(Problem {
            object: ObjectRef::service(&service.name),
            field: program::field_of(service, port, frontend),
            reason: format!("{place} is already taken by Service {owner}"),
        });
        false
    });
    port.frontends = kept;
    conflicts
}
