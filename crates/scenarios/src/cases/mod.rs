//! The table of cases.

mod live;
mod node;
mod policy;
mod reach;

use model::Family;

use crate::world::World;

/// One named case, in both families unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Words joined by underscores; that of a [`model::Divergence`] where it tests one.
    pub name: &'static str,
    /// The one family that it is for, and why.
    pub only: Option<(Family, &'static str)>,
    script: fn(&mut World),
}

impl Case {
    /// Runs in one family after the other, in one world: topologies cost more than cases.
    pub fn run(&self, world: &mut World) {
        for family in Family::ALL {
            match self.only {
                Some((only, reason)) if only != family => {
                    println!("{} is not for {family:?}: {reason}", self.name);
                }
                _ => {
                    println!("{} in {family:?}", self.name);
                    world.start_in(family);
                    (self.script)(world);
                    // Whatever the changes were, the kernel has what a plane that starts now would write.
                    world.expect_in_step();
                }
            }
        }
    }
}

/// Makes the table, and a macro that calls another with the names of all cases.
///
/// `name for V4 because "reason"` is a case of one family.
macro_rules! cases {
    ($($module:ident: $($name:ident $(for $family:ident because $reason:literal)?),+;)+) => {
        /// Every case, by file.
        pub const CASES: &[Case] = &[$($(Case {
            name: stringify!($name),
            only: cases!(@only $($family $reason)?),
            script: $module::$name,
        }),+),+];

        /// Calls `$generate` with the name of every case.
        #[macro_export]
        macro_rules! for_each_case {
            ($generate:ident) => { $generate! { $($($name)+)+ } };
        }
    };
    (@only) => { None };
    (@only $family:ident $reason:literal) => { Some((Family::$family, $reason)) };
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
        tcp_and_udp_at_a_vip,
        named_ports_differ,
        single_stack,
        spread_is_even,
        body_is_intact,
        large_datagrams,
        narrow_path,
        tunnel,
        no_transmit_offload;
    policy:
        external_local,
        no_local_endpoints,
        local_policy_short_circuits,
        host_to_own_addresses,
        host_to_outside_addresses,
        node_port_at_load_balancer_address,
        filtered_node_port_without_endpoints,
        filtered_node_port_without_local_endpoints,
        internal_local,
        no_endpoints,
        denied_without_endpoints,
        source_ranges,
        source_ranges_on_the_node,
        terminating,
        terminating_local,
        affinity,
        affinity_per_way,
        affinity_expires,
        node_port_on_localhost;
    node:
        node_port_at_every_address,
        node_port_at_some_addresses,
        node_port_filter_of_the_other_family,
        host_port,
        host_ports_share_a_number,
        host_port_where_node_ports_are_filtered;
    live:
        endpoint_added,
        endpoint_removed,
        udp_moves,
        connected_datagrams_close,
        out_of_window_segments,
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
