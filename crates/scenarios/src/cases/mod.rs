//! The table of cases.

mod live;
mod policy;
mod reach;

use crate::world::World;

/// One named case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Words joined by dashes; that of a [`model::Divergence`] where it tests one.
    pub name: &'static str,
    pub run: fn(&mut World),
}

/// Makes the table, and a macro that calls another with the names of all cases.
macro_rules! cases {
    ($($module:ident: $($name:ident),+;)+) => {
        /// Every case, by file.
        pub const CASES: &[Case] = &[$($(Case { name: stringify!($name), run: $module::$name }),+),+];

        /// Calls `$generate` with the name of every case.
        #[macro_export]
        macro_rules! for_each_case {
            ($generate:ident) => { $generate! { $($($name)+)+ } };
        }
    };
}

cases! {
    reach:
        pod_to_cluster_ip,
        pod_to_cluster_ip_udp,
        hairpin,
        host_to_cluster_ip,
        client_to_node_port,
        client_to_vip,
        pod_to_vip,
        pod_to_node_port,
        external_ip,
        several_ports,
        tcp_and_udp_on_one_port,
        named_ports_differ,
        spread_is_even,
        body_is_intact,
        large_datagrams,
        no_transmit_offload;
    policy:
        external_local,
        no_local_endpoints,
        local_policy_short_circuits,
        host_to_own_addresses,
        internal_local,
        no_endpoints,
        source_ranges,
        source_ranges_on_the_node,
        terminating,
        terminating_local,
        affinity;
    live:
        endpoint_added,
        endpoint_removed,
        udp_moves,
        service_removed,
        service_without_endpoints_gets_one,
        plane_restarts;
}

/// The case of that name.
///
/// # Panics
/// There is none.
pub fn find(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_divergence_has_a_case_of_its_name() {
        for divergence in model::DIVERGENCES {
            find(&divergence.name.replace('-', "_"));
        }
    }
}
