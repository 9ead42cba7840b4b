//! Kubernetes objects to Snapshot: Service semantics, watches.
