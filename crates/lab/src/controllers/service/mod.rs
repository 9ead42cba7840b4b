//! The cloud's service controller: gives Services of type LoadBalancer an address and tells the edge.
//!
//! [`plan`] decides; this executes. Never touches a node: the edge brings the address there.

mod plan;

use std::{collections::BTreeMap, future::Future, net::IpAddr};

use k8s_openapi::api::core::v1::Service;
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

use self::plan::Wish;
use super::{
    events::{Note, Recorder},
    meta::full_name,
    pass::{Controller, Outcome},
    world::World,
    write::{self, WriteError},
};
use crate::edge::{Edge, ForwardingRuleSpec, load_balancer_name};

/// What the controller asks of a load balancer.
pub trait LoadBalancers: Clone + Send + Sync + 'static {
    /// Creates or updates; returns one address per family asked for once packets are forwarded. Idempotent.
    fn ensure(
        &self,
        spec: ForwardingRuleSpec,
    ) -> impl Future<Output = Result<Vec<IpAddr>, LoadBalancerError>> + Send;

    /// Removes what belongs to the Service with this uid; gone already is a success.
    fn remove(&self, uid: &str) -> impl Future<Output = Result<(), LoadBalancerError>> + Send;
}

/// Why the load balancer refused; its text goes into the Service's event.
pub type LoadBalancerError = Box<dyn std::error::Error + Send + Sync>;

impl LoadBalancers for Edge {
    async fn ensure(&self, spec: ForwardingRuleSpec) -> Result<Vec<IpAddr>, LoadBalancerError> {
        Ok(Self::ensure(self, spec).await?)
    }

    async fn remove(&self, uid: &str) -> Result<(), LoadBalancerError> {
        Ok(Self::remove(self, uid).await?)
    }
}

pub(super) struct Services<L> {
    client: Client,
    world: World,
    recorder: Recorder,
    balancers: L,
    /// What the load balancer has, by uid, with the addresses it gave. It starts empty with the edge itself.
    told: BTreeMap<String, ForwardingRuleSpec>,
}

impl<L: LoadBalancers> Services<L> {
    pub(super) fn new(client: Client, world: World, recorder: Recorder, balancers: L) -> Self {
        Self { client, world, recorder, balancers, told: BTreeMap::new() }
    }
}

impl<L: LoadBalancers> Controller for Services<L> {
    const NAME: &'static str = "service-controller";

    fn triggers(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.world.services.changes()]
    }

    async fn pass(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let services = self.world.services.all();
        for service in &services {
            match plan::wish(service) {
                Wish::Nothing => {}
                Wish::Balanced(spec) => self.balance(service, spec, &mut outcome).await,
                Wish::Cleaned => self.clean(service, &mut outcome).await,
            }
        }
        // Services that went without waiting for their finalizer.
        let present: Vec<_> = services.iter().filter_map(|service| service.metadata.uid.clone()).collect();
        let gone: Vec<_> = self.told.keys().filter(|uid| !present.contains(uid)).cloned().collect();
        for uid in gone {
            match self.balancers.remove(&uid).await {
                Ok(()) => drop(self.told.remove(&uid)),
                Err(error) => {
                    tracing::error!(uid, error = &*error as &dyn std::error::Error, "remove load balancer");
                    outcome.fail();
                }
            }
        }
        outcome
    }
}

impl<L: LoadBalancers> Services<L> {
    async fn balance(&mut self, service: &Service, spec: ForwardingRuleSpec, outcome: &mut Outcome) {
        let told = self.told.get(&spec.uid);
        let news = told.is_none_or(|told| !plan::same(told, &spec));
        if !plan::has_finalizer(service) {
            // Nothing may be made in the cloud that a deletion would leave behind.
            let finalizers = plan::with_finalizer(service);
            let patch = json!({"metadata": {"finalizers": finalizers}});
            outcome.note(write::merge(&self.client, &self.world.services, service, patch).await);
            return;
        }
        if news {
            let note = Note::normal("EnsuringLoadBalancer", "Ensuring load balancer");
            self.recorder.record(service, note).await;
        }
        let uid = spec.uid.clone();
        let addresses = match self.balancers.ensure(spec.clone()).await {
            Ok(addresses) => addresses,
            Err(error) => return self.failed(service, &*error, outcome).await,
        };
        self.told.insert(uid.clone(), ForwardingRuleSpec { requested_ips: addresses.clone(), ..spec });
        match self.publish(service, &addresses, &uid).await {
            Ok(()) if news => {
                let note = Note::normal("EnsuredLoadBalancer", "Ensured load balancer");
                self.recorder.record(service, note).await;
            }
            result => outcome.note(result),
        }
    }

    async fn failed(
        &self,
        service: &Service,
        error: &(dyn std::error::Error + Send + Sync),
        outcome: &mut Outcome,
    ) {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        tracing::warn!(service = full_name(&service.metadata), message, "load balancer");
        let message = format!("Error syncing load balancer: failed to ensure load balancer: {message}");
        self.recorder.record(service, Note::warning("SyncLoadBalancerFailed", message)).await;
        outcome.fail();
    }

    /// Writes the addresses into the status and the pool's name into an annotation, if they are not there.
    async fn publish(&self, service: &Service, addresses: &[IpAddr], uid: &str) -> Result<(), WriteError> {
        let services = &self.world.services;
        let pool = load_balancer_name(uid);
        let annotations = service.metadata.annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(plan::TARGET_POOL)) != Some(&pool) {
            let patch = json!({"metadata": {"annotations": {plan::TARGET_POOL: pool}}});
            write::merge(&self.client, services, service, patch).await?;
        }
        if plan::addresses(service) == addresses {
            return Ok(());
        }
        // The annotation moved the version: the status goes onto what the view has by now.
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        let Some(now) = services.get(namespace, name.unwrap_or_default()) else { return Ok(()) };
        let written = plan::with_addresses(&now, addresses);
        write::replace_status(&self.client, services, &written).await
    }

    async fn clean(&mut self, service: &Service, outcome: &mut Outcome) {
        let uid = service.metadata.uid.clone().unwrap_or_default();
        self.recorder.record(service, Note::normal("DeletingLoadBalancer", "Deleting load balancer")).await;
        if let Err(error) = self.balancers.remove(&uid).await {
            return self.failed(service, &*error, outcome).await;
        }
        self.told.remove(&uid);
        let result = self.unpublish(service).await;
        if result.is_ok() {
            self.recorder.record(service, Note::normal("DeletedLoadBalancer", "Deleted load balancer")).await;
        }
        outcome.note(result);
    }

    /// Status first: without its finalizer a deleted Service is gone.
    async fn unpublish(&self, service: &Service) -> Result<(), WriteError> {
        let services = &self.world.services;
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        if !plan::addresses(service).is_empty() {
            write::replace_status(&self.client, services, &plan::with_addresses(service, &[])).await?;
        }
        let Some(now) = services.get(namespace, name.unwrap_or_default()) else { return Ok(()) };
        let patch = json!({"metadata": {
            "finalizers": plan::without_finalizer(&now),
            "annotations": {plan::TARGET_POOL: null},
        }});
        write::merge(&self.client, services, now.as_ref(), patch).await
    }
}
