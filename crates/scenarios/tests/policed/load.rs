//! Clients that ask all the time while policies change, and servers that count: who is always allowed loses nothing, who is
//! never allowed gets nothing through.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use model::{Family, PodName, Protocol};
use scenarios::{
    places::cluster_ip,
    policed::{Client, Listens, Mesh, Served, ask, carries},
};

use super::{PATIENCE, WEB, name};

/// What the ends say.
const ALLOWED: u64 = 1 << 40;
const DENIED: u64 = 2 << 40;
/// So that whoever is never answered leaves room for the others, and whoever is does not run out of ports towards a server.
const PAUSE: Duration = Duration::from_millis(2);

/// Clients at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Datagrams that were asked of each server by who is allowed.
    asked: Arc<AtomicU64>,
    servers: Vec<Served>,
    /// Of who is never allowed.
    foes: Vec<IpAddr>,
}

impl Load {
    /// Every `friend` asks every server, by everything it can be reached at, and keeps connections; every `foe` tries the same.
    /// `servers`: with the numbers of their TCP and UDP Services.
    pub(super) fn start(mesh: &Mesh, friends: &[&str], foes: &[&str], servers: &[(&str, [u8; 2])]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            threads: vec![],
            asked: Arc::default(),
            servers: servers.iter().map(|(server, _)| mesh.served(&name(server))).collect(),
            foes: vec![],
        };
        let addresses = |foe: &&str| Family::ALL.map(|family| mesh.address(&name(foe), family));
        load.foes = foes.iter().flat_map(addresses).collect();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let at: Vec<SocketAddr> = servers
                .iter()
                .flat_map(|(server, numbers)| places(mesh, &name(server), numbers, protocol))
                .collect();
            for friend in friends {
                load.allow(mesh, &name(friend), &at, protocol);
            }
            for foe in foes {
                load.deny(mesh, &name(foe), &at, protocol);
            }
        }
        load
    }

    fn allow(&mut self, mesh: &Mesh, friend: &PodName, at: &[SocketAddr], protocol: Protocol) {
        let (client, at, who) = (mesh.client(friend, false), at.to_vec(), friend.clone());
        let (stop, asked) = (Arc::clone(&self.stop), Arc::clone(&self.asked));
        let mut kept: Vec<_> = match protocol {
            Protocol::Udp => vec![],
            _ => at.iter().map(|at| mesh.connect(friend, *at)).collect(),
        };
        self.threads.push(std::thread::spawn(move || {
            let work = || {
                while !stop.load(Ordering::Relaxed) {
                    for at in &at {
                        if protocol == Protocol::Udp {
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        assert!(ask(*at, protocol, ALLOWED, PATIENCE), "{who} -> {at} {protocol:?} was lost");
                        std::thread::sleep(PAUSE);
                    }
                    for stream in &mut kept {
                        assert!(carries(stream, PATIENCE), "{who}: {stream:?} does not go on");
                    }
                }
            };
            client.run(work);
        }));
    }

    fn deny(&mut self, mesh: &Mesh, foe: &PodName, at: &[SocketAddr], protocol: Protocol) {
        let (client, at, who) = (mesh.client(foe, false), at.to_vec(), foe.clone());
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let work = || {
                for at in at.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    assert!(!ask(*at, protocol, DENIED, PAUSE), "{who} -> {at} {protocol:?} was served");
                }
            };
            client.run(work);
        }));
    }

    /// Ends it, and counts.
    pub(super) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        for end in ended {
            if let Err(panic) = end {
                std::panic::resume_unwind(panic);
            }
        }
        let sum =
            |port: Listens, said| self.servers.iter().map(|served| served.asked(port, said)).sum::<u64>();
        let asked = self.asked.load(Ordering::Relaxed);
        println!("{asked} datagrams of who is allowed");
        if asked > 0 {
            assert_eq!(sum((Protocol::Udp, WEB), ALLOWED), asked, "every one was served, once");
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(sum((protocol, WEB), DENIED), 0, "{protocol:?}");
            for (foe, served) in self.foes.iter().flat_map(|foe| self.servers.iter().map(move |s| (foe, s))) {
                assert_eq!(served.by((protocol, WEB), *foe), 0, "{foe} {protocol:?}");
            }
        }
    }
}

/// Where a server is asked: its own addresses and those of its Service.
pub(super) fn places(
    mesh: &Mesh,
    server: &PodName,
    numbers: &[u8; 2],
    protocol: Protocol,
) -> Vec<SocketAddr> {
    let number = numbers[usize::from(protocol == Protocol::Udp)];
    let of = |family| [mesh.address(server, family), cluster_ip(number).of(family)];
    Family::ALL.into_iter().flat_map(of).map(|ip| SocketAddr::new(ip, WEB)).collect()
}

/// Asks `times` from `client` in each family over flows of their own, then at a port that is open to everybody: what was sent
/// before that has passed the programs, or has not.
pub(super) fn denied_and_then_fenced(client: &Client, at: &[SocketAddr], said: u64, open: SocketAddr) {
    client.run(|| {
        for at in at {
            assert!(!ask(*at, Protocol::Udp, said, PAUSE), "{at} answers");
        }
        assert!(ask(open, Protocol::Udp, said, PATIENCE), "{open}");
    });
}
