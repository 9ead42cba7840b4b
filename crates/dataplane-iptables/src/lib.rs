//! The iptables dataplane: kube-proxy's chains.
