//! Whether an object's values make sense, in the real server's words. Never changes an object.

mod address;
mod cluster;
mod custom;
mod endpoint_slice;
mod errors;
mod metadata;
pub(crate) mod names;
mod network_policy;
mod pod;
mod port;
mod selector;
mod service;
mod service_ips;
mod workload;

pub(crate) use errors::FieldErrors;

use crate::{
    meta::Object,
    resource::{Builtin, Resource, Schema},
};

/// Checks a new, defaulted object.
pub(crate) fn create(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
    values(resource, object, errors);
}

/// Checks the next state of an object, and that nothing immutable changed.
pub(crate) fn update(resource: &Resource, old: &Object, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
    metadata::update(old, object, errors);
    match resource.builtin() {
        // A pod's fields were checked when it was made; almost none may change.
        Some(Builtin::Pod) => pod::update(old, object, errors),
        _ => values(resource, object, errors),
    }
    match resource.builtin() {
        Some(Builtin::Service) => service::update(old, object, errors),
        Some(Builtin::EndpointSlice) => endpoint_slice::update(old, object, errors),
        Some(Builtin::Deployment | Builtin::ReplicaSet) => workload::update(old, object, errors),
        Some(Builtin::Node) => cluster::node_update(old, object, errors),
        Some(Builtin::ServiceCidr) => service_ips::cidr_update(old, object, errors),
        Some(Builtin::IpAddress) => service_ips::address_update(old, object, errors),
        Some(Builtin::CustomResourceDefinition) => cluster::definition_update(old, object, errors),
        _ => {}
    }
}

/// Checks an object of which only the status was written.
pub(crate) fn status(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
    if resource.is(Builtin::Service) {
        service::status(object, errors);
    }
}

fn values(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    match &resource.schema {
        Schema::Custom(custom) => custom::check(object, &custom.schema, errors),
        Schema::Builtin(builtin) => match builtin {
            Builtin::Service => service::check(object, errors),
            Builtin::EndpointSlice => endpoint_slice::check(object, errors),
            Builtin::Pod => pod::spec(&object["spec"], "spec", errors),
            Builtin::Deployment => workload::deployment(object, errors),
            Builtin::ReplicaSet => workload::replica_set(object, errors),
            Builtin::NetworkPolicy => network_policy::check(object, errors),
            Builtin::Node => cluster::node(object, errors),
            Builtin::Event => cluster::event(object, errors),
            Builtin::Lease => cluster::lease(object, errors),
            Builtin::CustomResourceDefinition => cluster::definition(object, errors),
            Builtin::ServiceCidr => service_ips::cidr(object, errors),
            Builtin::IpAddress => service_ips::address(object, errors),
            Builtin::ConfigMap
            | Builtin::Endpoints
            | Builtin::LimitRange
            | Builtin::Namespace
            | Builtin::ResourceQuota
            | Builtin::Secret
            | Builtin::ServiceAccount => {}
        },
    }
}
