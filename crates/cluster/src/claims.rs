//! Who owns an address and port that several claim: the first in order of [`Owner`], until it lets go. Pure.
//!
//! The API server and the scheduler prevent most such conflicts; those over external IPs and load-balancer addresses,
//! and those between Services and host ports, they do not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
};

use model::{Family, FrontendAddress, Port, Protocol, ServicePort};

use crate::{
    few::Few,
    owner::Owner,
    problem::{ObjectRef, Problem},
    program,
    service::Service,
};

/// A place that only one owner can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Claim {
    pub(crate) address: FrontendAddress,
    pub(crate) family: Family,
    pub(crate) port: Port,
    pub(crate) protocol: Protocol,
}

/// All claims of all owners.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_owner: BTreeMap<Owner, Few<Claim, ()>>,
    /// Claimants in order of precedence; the first is the owner.
    claimants: HashMap<Claim, Few<Owner, ()>>,
}

impl Claims {
    /// Replaces what `owner` claims. Returns the others for whom a place, or who has it, changes by it.
    pub(crate) fn set(&mut self, owner: &Owner, claims: BTreeSet<Claim>) -> BTreeSet<Owner> {
        let before = self.by_owner.remove(owner).unwrap_or_default();
        let before: BTreeSet<_> = before.keys().copied().collect();
        let mut touched = BTreeSet::new();
        for claim in before.difference(&claims) {
            touched.extend(self.release(owner, claim));
        }
        for claim in claims.difference(&before) {
            touched.extend(self.take(owner, *claim));
        }
        if before != claims {
            // A host port can be in the way at one of several addresses. Few pods have one.
            touched.extend(self.by_owner.keys().filter(|other| matches!(other, Owner::Pod { .. })).cloned());
        }
        if !claims.is_empty() {
            let mut kept = Few::default();
            for claim in claims {
                kept.insert(claim, ());
            }
            self.by_owner.insert(owner.clone(), kept);
        }
        touched
    }

    pub(crate) fn owner(&self, claim: &Claim) -> Option<&Owner> {
        self.claimants.get(claim)?.keys().next()
    }

    /// Where `owner` may serve the host port that it claims, at a node with these `addresses`: an address that someone
    /// before it claims is left out.
    pub(crate) fn host_port_places(
        &self,
        owner: &Owner,
        claim: &Claim,
        addresses: &[IpAddr],
    ) -> Result<Vec<FrontendAddress>, String> {
        let at = |address| self.owner(&Claim { address, ..*claim }).filter(|other| *other < owner);
        let taken = |by: &Owner| format!("{} is already taken by {by}", place(claim));
        if let Some(other) = at(claim.address) {
            return Err(taken(other));
        }
        let all = addresses.iter().copied().filter(|address| Family::of(*address) == claim.family);
        match claim.address {
            FrontendAddress::Ip(ip) => match at(FrontendAddress::Node).filter(|_| addresses.contains(&ip)) {
                Some(other) => Err(taken(other)),
                None => Ok(vec![claim.address]),
            },
            FrontendAddress::Node => {
                let all: Vec<_> = all.map(FrontendAddress::Ip).collect();
                let free: Vec<_> = all.iter().copied().filter(|address| at(*address).is_none()).collect();
                match all.iter().find_map(|address| at(*address)) {
                    None => Ok(vec![FrontendAddress::Node]),
                    Some(other) if free.is_empty() => Err(taken(other)),
                    Some(_) => Ok(free),
                }
            }
        }
    }

    /// The others that claim the place, where `owner` owned it: one inherits, and the rest are in the way of that one.
    fn release(&mut self, owner: &Owner, claim: &Claim) -> BTreeSet<Owner> {
        let Some(claimants) = self.claimants.get_mut(claim) else { return BTreeSet::new() };
        let owned = claimants.keys().next() == Some(owner);
        claimants.remove(owner);
        let others = if owned { claimants.keys().cloned().collect() } else { BTreeSet::new() };
        if claimants.is_empty() {
            self.claimants.remove(claim);
        }
        others
    }

    /// The others that claim the place, where `owner` comes before them: one loses it, and the rest are in another's way.
    fn take(&mut self, owner: &Owner, claim: Claim) -> BTreeSet<Owner> {
        let claimants = self.claimants.entry(claim).or_default();
        let others = claimants.keys().cloned().collect();
        claimants.insert(owner.clone(), ());
        if claimants.keys().next() == Some(owner) { others } else { BTreeSet::new() }
    }
}

fn place(claim: &Claim) -> String {
    match claim.address {
        FrontendAddress::Ip(ip) => format!("{ip} port {}/{}", claim.port, claim.protocol),
        FrontendAddress::Node => format!("node port {}/{}", claim.port, claim.protocol),
    }
}

/// Takes out of `port` the frontends that someone else owns, and says which and why.
pub(crate) fn drop_foreign(claims: &Claims, service: &Service, port: &mut ServicePort) -> Vec<Problem> {
    let me = Owner::Service(service.name.clone());
    let mut conflicts = vec![];
    let mut kept = mem::take(&mut port.frontends);
    kept.retain(|frontend| {
        let claim = Claim {
            address: frontend.address,
            family: port.id.family,
            port: frontend.port,
            protocol: port.id.protocol,
        };
        let Some(owner) = claims.owner(&claim).filter(|owner| **owner != me) else { return true };
        conflicts.push(Problem {
            object: ObjectRef::service(&service.name),
            field: program::field_of(service, port, frontend),
            reason: format!("{} is already taken by {owner}", place(&claim)),
        });
        false
    });
    port.frontends = kept;
    conflicts
}
