//! Every case on the oracle and on each plane, in both families.

use model::Plane;
use scenarios::{cases, for_each_case, world::World};

macro_rules! on_every_executor {
    ($($name:ident)+) => {
        mod oracle {
            $(#[test] fn $name() { super::run(stringify!($name), super::World::oracle()); })+
        }
        mod iptables {
            $(#[test] fn $name() { super::run(stringify!($name), super::World::kernel(super::Plane::Iptables)); })+
        }
        mod ebpf {
            $(#[test] fn $name() { super::run(stringify!($name), super::World::kernel(super::Plane::Ebpf)); })+
        }
    };
}

for_each_case!(on_every_executor);

fn run(name: &str, mut world: World) {
    cases::find(name).run(&mut world);
}
