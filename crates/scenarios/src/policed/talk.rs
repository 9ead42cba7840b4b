//! Servers that count what reaches them, and clients that say whether they were answered.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use model::Protocol;

/// A port that a pod listens on.
pub type Listens = (Protocol, u16);

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// What reached a pod's servers.
#[derive(Clone, Debug, Default)]
pub struct Served(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By what the client said (its first eight bytes), and by which port.
    questions: Mutex<BTreeMap<(Listens, [u8; 8]), u64>>,
    /// By client; a connection that was opened counts, whatever came after.
    clients: Mutex<BTreeMap<(Listens, IpAddr), u64>>,
}

impl Served {
    /// How often `said` was asked at a port.
    pub fn asked(&self, port: Listens, said: u64) -> u64 {
        let questions = self.0.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.get(&(port, said.to_be_bytes())).copied().unwrap_or_default()
    }

    /// How many connections and datagrams of `client` there were at a port.
    pub fn by(&self, port: Listens, client: IpAddr) -> u64 {
        let clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(&(port, client)).copied().unwrap_or_default()
    }

    fn count_question(&self, port: Listens, said: &[u8]) {
        let Ok(said) = <[u8; 8]>::try_from(said.get(..8).unwrap_or_default()) else { return };
        let mut questions = self.0.questions.lock().unwrap_or_else(PoisonError::into_inner);
        *questions.entry((port, said)).or_default() += 1;
    }

    fn count_client(&self, port: Listens, client: SocketAddr) {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        *clients.entry((port, client.ip().to_canonical())).or_default() += 1;
    }
}

/// A pod's servers; they end with it.
#[derive(Debug, Default)]
pub(super) struct Servers {
    pub(super) served: Served,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Call it on a thread inside the pod's namespace.
    pub(super) fn listen(&mut self, port: Listens) {
        let any = (Ipv6Addr::UNSPECIFIED, port.1);
        let (served, stop) = (self.served.clone(), Arc::clone(&self.stop));
        self.threads.push(match port.0 {
            Protocol::Udp => {
                let socket = UdpSocket::bind(any).expect("bind");
                socket.set_read_timeout(Some(TICK)).expect("timeout");
                std::thread::spawn(move || answer_datagrams(&socket, port, &served, &stop))
            }
            _ => {
                let listener = TcpListener::bind(any).expect("bind");
                crate::talk::end_waits(&listener).expect("timeout");
                std::thread::spawn(move || accept(&listener, port, &served, &stop))
            }
        });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, port: Listens, served: &Served, stop: &AtomicBool) {
    let mut buffer = [0; 16_384];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, client)) = socket.recv_from(&mut buffer) {
            served.count_client(port, client);
            served.count_question(port, &buffer[..length]);
            let _ = socket.send_to(&buffer[..length], client);
        }
    }
}

fn accept(listener: &TcpListener, port: Listens, served: &Served, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, client)) = listener.accept() else { continue };
        served.count_client(port, client);
        let (served, stop) = (served.clone(), Arc::clone(stop));
        std::thread::spawn(move || echo(stream, port, &served, &stop));
    }
}

fn echo(mut stream: TcpStream, port: Listens, served: &Served, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    let mut buffer = [0; 16_384];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                served.count_question(port, &buffer[..length]);
                stream.write_all(&buffer[..length])?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says `said` once, over a flow of its own; whether an answer came within `patience`.
pub fn ask(to: SocketAddr, protocol: Protocol, said: u64, patience: Duration) -> bool {
    let said = said.to_be_bytes();
    if protocol == Protocol::Udp {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).expect("bind");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(patience)).expect("timeout");
        return socket.send(&said).is_ok() && socket.recv(&mut [0; 8]).is_ok();
    }
    let Ok(mut stream) = TcpStream::connect_timeout(&to, patience) else { return false };
    stream.set_read_timeout(Some(patience)).expect("timeout");
    stream.write_all(&said).is_ok() && stream.read_exact(&mut [0; 8]).is_ok()
}

/// Whether an open connection still carries something, there and back.
pub fn carries(stream: &mut TcpStream, patience: Duration) -> bool {
    // What was held back before is answered before.
    static SAID: AtomicU32 = AtomicU32::new(0);
    let said = SAID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let (mut heard, mut buffer) = (vec![], [0; 64]);
    let deadline = Instant::now() + patience;
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
    stream.write_all(&said).expect("a few bytes have room");
    while Instant::now() < deadline && !heard.ends_with(&said) {
        let length = stream.read(&mut buffer).unwrap_or_default();
        heard.extend_from_slice(&buffer[..length]);
    }
    heard.ends_with(&said)
}
