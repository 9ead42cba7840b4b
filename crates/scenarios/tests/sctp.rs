//! Behaviour 125: serving SCTP loads no kernel module. The kernel loads one when somebody asks for an SCTP socket
//! (`inet_create`, net/ipv4/af_inet.c: `net-pf-2-proto-132`), so whoever asks while a plane is programmed, a program that
//! the plane starts included, is killed here. Raw sockets need no module.

use std::{fs, os::unix::process::ExitStatusExt as _, process::Command};

use model::{Family, Plane, Protocol};
use scenarios::{
    cluster::{HostPort, Service},
    places::Pod,
    world::World,
};

const SCTP: u32 = 132;

/// From now on this thread, and whatever it starts, dies of SIGSYS when it asks for an SCTP socket.
fn forbid_sctp_sockets() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data: the call's number at 0, its arguments of 8 bytes each from 16.
    let argument = |number: u32| 16 + 8 * number + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut filter = [
        step(LOAD, 0, 0, 0),
        step(EQUALS, 0, 6, libc::SYS_socket as u32),
        step(LOAD, 0, 0, argument(2)),
        step(EQUALS, 0, 4, SCTP),
        step(LOAD, 0, 0, argument(1)),
        step(AND, 0, 0, 0xf),
        step(EQUALS, 1, 0, libc::SOCK_RAW as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until the call returns.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program)) };
    assert_eq!(done, 0, "install the filter: {}", std::io::Error::last_os_error());
}

/// Whether the module is loaded; a kernel without modules has none.
fn is_loaded() -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    modules.lines().any(|line| line.starts_with("sctp "))
}

fn is_programmed(plane: Plane) {
    let before = is_loaded();
    let mut world = World::kernel(plane);
    forbid_sctp_sockets();
    let service = |pods: &[Pod]| {
        let sctp = Service::new("diameter", 1).port("p", Protocol::Sctp, 3868, 3868).node_port(30868);
        [sctp.on_vip().external_ip(77).backends(pods)]
    };
    for family in Family::ALL {
        world.start_in(family);
        world.map_host_ports(&[HostPort::new(Pod::A1, Protocol::Sctp, 3869, 3868)]);
        for pods in [&[Pod::A1, Pod::B1][..], &[Pod::B1], &[]] {
            world.program(&service(pods));
            world.expect_in_step();
        }
    }
    world.restart(|| {});
    assert_eq!(is_loaded(), before);
}

#[test]
fn the_ebpf_plane_asks_for_no_sctp_socket() {
    is_programmed(Plane::Ebpf);
}

#[test]
fn the_iptables_plane_asks_for_no_sctp_socket() {
    is_programmed(Plane::Iptables);
}

#[test]
fn who_asks_for_one_is_killed() {
    let own = std::env::current_exe().expect("own program");
    let status = Command::new(own).args(["--ignored", "--exact", "asks_for_an_sctp_socket"]).status();
    assert_eq!(status.expect("run").signal(), Some(libc::SIGSYS));
}

#[test]
#[ignore = "killed, and started by who_asks_for_one_is_killed"]
fn asks_for_an_sctp_socket() {
    forbid_sctp_sockets();
    // SAFETY: no pointer is passed, and no descriptor comes back.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) };
}
