//! Which labels make a pod's identity. Pure.
//!
//! The keys are Cilium's, with their source, so that Hubble's clients and filters read them as they stand: the pod's own
//! labels, its namespace and that namespace's labels, its service account, the cluster. All of a pod's labels count, so that
//! every selector of a policy can be answered by the identity; but those that controllers set to something else for every
//! pod or every roll-out, which would make an identity of each pod.

use std::collections::BTreeMap;

pub use model::label_keys::{CLUSTER, NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT};
use model::{
    Labels,
    label_keys::{PASSED_OVER, SOURCE},
};

/// Hubble's default name of a cluster.
pub const CLUSTER_NAME: &str = "default";

/// What of a pod and its namespace makes its identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) namespace: &'a str,
    pub(super) namespace_labels: &'a BTreeMap<String, String>,
    pub(super) service_account: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

impl Source<'_> {
    pub(super) fn labels(self) -> Labels {
        let pod = self.labels.iter().filter(|(key, _)| !PASSED_OVER.contains(&key.as_str()));
        let pod = pod.map(|(key, value)| (format!("{SOURCE}{key}"), value.clone()));
        let namespace = self.namespace_labels.iter();
        let namespace = namespace.map(|(key, value)| (format!("{NAMESPACE_LABELS}{key}"), value.clone()));
        // Last, so that no pod's label can pretend to be one of these.
        let fixed =
            [(NAMESPACE, self.namespace), (SERVICE_ACCOUNT, self.service_account), (CLUSTER, CLUSTER_NAME)];
        let fixed = fixed.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let forged = |(key, _): &(String, String)| key.starts_with(NAMESPACE_LABELS);
        pod.filter(|label| !forged(label)).chain(namespace).chain(fixed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn texts(labels: &[(&str, &str)], namespace: &[(&str, &str)]) -> Vec<String> {
        let (labels, namespace_labels) = (map(labels), map(namespace));
        let source = Source {
            namespace: "shop",
            namespace_labels: &namespace_labels,
            service_account: "web",
            labels: &labels,
        };
        source.labels().texts().collect()
    }

    #[test]
    fn labels_are_spelled_as_hubble_shows_them() {
        let texts = texts(&[("app", "nginx"), ("empty", "")], &[("kubernetes.io/metadata.name", "shop")]);
        let expected = [
            "k8s:app=nginx",
            "k8s:empty",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.cilium.k8s.policy.serviceaccount=web",
            "k8s:io.kubernetes.pod.namespace=shop",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn pods_of_one_template_are_alike() {
        let of = |hash: &str, name: &str, index: &str| {
            texts(
                &[
                    ("app", "db"),
                    ("pod-template-hash", hash),
                    ("controller-revision-hash", hash),
                    ("statefulset.kubernetes.io/pod-name", name),
                    ("apps.kubernetes.io/pod-index", index),
                ],
                &[],
            )
        };
        assert_eq!(of("6c5d", "db-0", "0"), of("77f9", "db-1", "1"));
    }

    #[test]
    fn a_pod_cannot_take_on_another_namespace() {
        let honest = texts(&[], &[("team", "a")]);
        let forger = texts(
            &[
                ("io.kubernetes.pod.namespace", "kube-system"),
                ("io.cilium.k8s.policy.serviceaccount", "admin"),
                ("io.cilium.k8s.namespace.labels.team", "b"),
                ("io.cilium.k8s.namespace.labels.privileged", "yes"),
            ],
            &[("team", "a")],
        );
        assert_eq!(forger, honest);
    }
}
