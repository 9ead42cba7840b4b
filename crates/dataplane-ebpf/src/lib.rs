//! The eBPF dataplane: maps, programs, links.
