//! Network policies between real sockets, on both planes.

mod cases;

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
