//! Network policies between real sockets, on both planes.

mod cases;
mod facts;
mod load;
mod races;

use std::time::Duration;

use model::PodName;

/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where pods serve.
const WEB: u16 = 8080;

fn name(name: &str) -> PodName {
    PodName { namespace: "d".into(), name: name.into() }
}

/// Runs a test of both planes as two.
macro_rules! on_both_planes {
    ($($name:ident)+) => {
        mod ebpf {
            $(#[test] fn $name() { super::$name(model::Plane::Ebpf); })+
        }
        mod iptables {
            $(#[test] fn $name() { super::$name(model::Plane::Iptables); })+
        }
    };
}
pub(crate) use on_both_planes;
