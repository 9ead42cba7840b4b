//! How the labels of an identity are spelled: as Cilium does, each key with its source.

/// Begins the key of everything that the Kubernetes API says.
pub const SOURCE: &str = "k8s:";
/// Key of the namespace's name.
pub const NAMESPACE: &str = "k8s:io.kubernetes.pod.namespace";
/// Begins the key of each label of the namespace.
pub const NAMESPACE_LABELS: &str = "k8s:io.cilium.k8s.namespace.labels.";
/// Key of the service account's name.
pub const SERVICE_ACCOUNT: &str = "k8s:io.cilium.k8s.policy.serviceaccount";
/// Key of the cluster's name.
pub const CLUSTER: &str = "k8s:io.cilium.k8s.policy.cluster";

/// Label keys that no identity has: they differ between pods that are otherwise alike.
pub const PASSED_OVER: [&str; 8] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "apps.kubernetes.io/pod-index",
    "statefulset.kubernetes.io/pod-name",
];
