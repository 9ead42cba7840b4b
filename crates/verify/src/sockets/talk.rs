//! Servers that say who they are and whom they see, and clients that ask them. Blocks until there is an answer or silence.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use model::{Family, Protocol};
use scenarios::places::Place;

/// Where servers listen: every target port that states have.
const PORTS: [u16; 2] = [8080, 9090];
/// Long enough for an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// A first retransmission (1 s) that is not answered either is silence.
const SILENCE: Duration = Duration::from_millis(1500);
/// How often a server looks whether it is to stop, and a datagram is sent again.
const TICK: Duration = Duration::from_millis(200);

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// From a server's address and port, which saw this client.
    By(SocketAddr, IpAddr),
    Refused,
    Silence,
    Unreachable,
}

/// The servers of all places; they end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Servers {
    /// Serves both families at `place`. Call it on a thread inside its namespace.
    pub(super) fn start(&mut self, place: Place) -> io::Result<()> {
        for port in PORTS {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true)?;
            let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            datagrams.set_read_timeout(Some(TICK))?;
            let (stop, stop_too) = (Arc::clone(&self.stop), Arc::clone(&self.stop));
            self.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // Who goes away before the answer does not miss it.
                        Ok((mut stream, from)) => {
                            let _ = stream.write_all(answer(place, port, from).as_bytes());
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(2)),
                    }
                }
            }));
            self.threads.push(std::thread::spawn(move || {
                while !stop_too.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = datagrams.recv_from(&mut [0; 64]) {
                        let _ = datagrams.send_to(answer(place, port, from).as_bytes(), from);
                    }
                }
            }));
        }
        Ok(())
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

fn answer(place: Place, port: u16, from: SocketAddr) -> String {
    let client = from.ip().to_canonical();
    format!("{} {client}", SocketAddr::new(place.address(Family::of(client)), port))
}

/// Asks once, over a connection of its own. An answer that is expected is waited for longer than silence.
pub(super) fn ask(to: SocketAddr, protocol: Protocol, expected: bool) -> anyhow::Result<Answer> {
    let patience = if expected { PATIENCE } else { SILENCE };
    let answer = match protocol {
        Protocol::Tcp => by_stream(to, patience),
        Protocol::Udp => by_datagram(to, patience),
        Protocol::Sctp => anyhow::bail!("no SCTP sockets"),
    };
    match answer {
        Ok(text) => {
            let (server, client) =
                text.split_once(' ').with_context(|| format!("unexpected answer {text:?}"))?;
            Ok(Answer::By(server.parse()?, client.parse()?))
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Answer::Refused),
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied => Ok(Answer::Silence),
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Ok(Answer::Unreachable),
            _ => Err(error).context(format!("ask {to}/{protocol}")),
        },
    }
}

fn by_stream(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// From a port that was not used lately: whoever tracks flows must not take one for another.
fn by_datagram(to: SocketAddr, patience: Duration) -> io::Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Within the kernel's own range of ports for clients (`ip_local_port_range`).
    let port = 33_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 27_000;
    let own = match Family::of(to.ip()) {
        Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, port))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(TICK))?;
    let (deadline, mut buffer) = (Instant::now() + patience, [0; 256]);
    while Instant::now() < deadline {
        match socket.send(b"who") {
            // The node itself stops it; whether it also refuses is heard next.
            Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}
