//! What the datapath is told of its node, and the devices it is on.

use std::net::IpAddr;

use abi::{Address, Timeouts};
use dataplane::Error;
use model::{Snapshot, Tunnel};

use super::EbpfDataplane;
use crate::{
    links::{self, Device},
    ports,
    rows::{l7_flags, node_address},
};

/// Idle seconds after which a connection is forgotten. Established TCP as Cilium has it; the rest as the kernel's own
/// connection tracking (`net/netfilter/nf_conntrack_proto_*.c`).
const TCP_OPENING: u32 = 60;
const TCP_ESTABLISHED: u32 = 6 * 3600;
const TCP_HALF_CLOSED: u32 = 120;
const TCP_CLOSED: u32 = 10;
const UDP_UNANSWERED: u32 = 60;
const UDP: u32 = 180;
const SCTP_ESTABLISHED: u32 = 210;
const SCTP_UNSETTLED: u32 = 10;

impl EbpfDataplane {
    /// Tells the datapath what stays as it is for as long as it is open.
    pub(super) fn configure(&self) -> Result<(), Error> {
        let mut config = self.tables.config()?;
        config.revision = next_revision(config.revision);
        config.hz = self.hz;
        let (level, interval) = self.telling.configured(self.hz);
        (config.event_level, config.event_interval) = (level as u32, interval);
        // What a former agent enforced stays in force meanwhile.
        config.policy &= u32::from(self.policy);
        config.timeouts = Timeouts {
            tcp_opening: TCP_OPENING * self.hz,
            tcp_established: TCP_ESTABLISHED * self.hz,
            tcp_half_closed: TCP_HALF_CLOSED * self.hz,
            tcp_closed: TCP_CLOSED * self.hz,
            udp_unanswered: UDP_UNANSWERED * self.hz,
            udp: UDP * self.hz,
            sctp_established: SCTP_ESTABLISHED * self.hz,
            sctp_unsettled: SCTP_UNSETTLED * self.hz,
        };
        self.set_ports(&mut config, None);
        self.tables.set_config(&config)
    }

    /// Sends every flow through the slow path once, so that it meets what was just programmed.
    pub(super) fn advance(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let mut config = self.tables.config()?;
        config.revision = next_revision(config.revision);
        config.policy =
            u32::from(self.policy && (config.policy != 0 || !snapshot.policy.endpoints.is_empty()));
        config.node_v4 = node_address(&snapshot.node).unwrap_or_default();
        config.node_v6 = node_address(&snapshot.node).unwrap_or_default();
        let tunnel = snapshot.node.tunnel.as_ref();
        config.tunnel = tunnel.map_or(0, |tunnel| tunnel.ifindex);
        config.tunnel_v4 = tunnel.and_then(tunnel_address).unwrap_or_default();
        config.tunnel_v6 = tunnel.and_then(tunnel_address).unwrap_or_default();
        config.direct_return = if self.options.direct_return { config.tunnel } else { 0 };
        // Records are read where there are events.
        config.l7 = match config.event_level {
            0 => 0,
            _ => snapshot.endpoints.values().fold(0, |all, endpoint| all | l7_flags(endpoint.l7)),
        };
        self.set_ports(&mut config, tunnel);
        self.tables.set_config(&config)
    }

    /// Packets of a tunnel must not look like answers to masqueraded flows.
    fn set_ports(&self, config: &mut abi::Config, tunnel: Option<&Tunnel>) {
        let ports = self.masquerade_ports.clone();
        let ports = match tunnel {
            Some(tunnel) => ports::without(ports, tunnel.port.get()),
            None => ports,
        };
        config.masquerade_first = (*ports.start()).into();
        config.masquerade_ports = u32::from(*ports.end()) - u32::from(*ports.start()) + 1;
    }

    /// A tunnel is an uplink that comes and goes.
    pub(super) fn apply_tunnel(&mut self, tunnel: Option<&Tunnel>) -> Result<(), Error> {
        let wanted = tunnel.map(|tunnel| Device { name: tunnel.interface.clone(), index: tunnel.ifindex });
        if let Some(old) = self.tunnel.take_if(|old| wanted.as_ref() != Some(old)) {
            let detached = self.links.detach(&old);
            detached.map_err(|source| Error::new("detach programs from", old.name, source))?;
        }
        match wanted {
            Some(device) => {
                self.links.attach(&mut self.uplink, &links::TUNNEL, &device)?;
                self.tunnel = Some(device);
                Ok(())
            }
            None if self.options.direct_return => {
                let reason = "needs a tunnel between the nodes, and there is none: clients are masqueraded";
                Err(Error::new("set up", "direct server return", reason))
            }
            None => Ok(()),
        }
    }

    /// Every device that programs are on.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.endpoints.values().map(|(device, _)| device).chain(&self.uplinks).chain(&self.tunnel)
    }
}

fn tunnel_address<A: Address>(tunnel: &Tunnel) -> Option<A> {
    tunnel.addresses.iter().find_map(|ip: &IpAddr| A::from_ip(*ip))
}

/// 0 marks a flow that was not validated yet.
fn next_revision(revision: u32) -> u32 {
    revision.wrapping_add(1).max(1)
}
