//! Servers that say who they are and whom they see, and clients that ask them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::model_of::address;

/// Longer than anything that works may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers each connection with the server's name, the client's address as seen here, and all that was sent.
pub(crate) fn serve_tcp(space: &netns::NetNs, name: &'static str, address: SocketAddr) {
    let listener = space.run(|| TcpListener::bind(address).expect("bind")).expect("enter");
    // It ends with the test's process: the listener's namespace is gone by then, or goes with it.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, name));
        }
    });
}

fn answer(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let _ = stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes());
    let mut buffer = vec![0; 65_536];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

pub(crate) fn serve_udp(space: &netns::NetNs, name: &'static str, address: SocketAddr) {
    let socket = space.run(|| UdpSocket::bind(address).expect("bind")).expect("enter");
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            let mut reply = format!("{name} {}\n", peer.ip()).into_bytes();
            reply.extend(&buffer[..count]);
            let _ = socket.send_to(&reply, peer);
        }
    });
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Greeting {
    pub(crate) server: String,
    pub(crate) client: IpAddr,
}

impl Greeting {
    fn parse(line: &str) -> Self {
        let (server, client) = line.trim().split_once(' ').expect("a name and an address");
        Self { server: server.to_owned(), client: address(client) }
    }
}

/// One connection: sends `body`, expects it back whole.
pub(crate) fn ask_tcp(space: &netns::NetNs, to: SocketAddr, body: &[u8]) -> Greeting {
    let stream = space.run(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("enter");
    let mut stream = stream.unwrap_or_else(|error| panic!("{} to {to}: {error}", space.name()));
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    let mut sender = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(body).expect("send");
            sender.shutdown(Shutdown::Write).expect("shut down");
        });
        let mut received = vec![];
        stream.read_to_end(&mut received).unwrap_or_else(|error| panic!("{to}: {error}"));
        let end = received.iter().position(|byte| *byte == b'\n').expect("a line");
        assert!(
            received[end + 1..] == *body,
            "{} bytes came back for {}",
            received.len() - end - 1,
            body.len()
        );
        Greeting::parse(&String::from_utf8_lossy(&received[..end]))
    })
}

pub(crate) fn ask_udp(space: &netns::NetNs, to: SocketAddr, body: &[u8]) -> std::io::Result<Greeting> {
    let socket = space.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind")).expect("enter");
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(body)?;
    let mut buffer = vec![0; 65_536];
    let count = socket.recv(&mut buffer)?;
    let end = buffer.iter().position(|byte| *byte == b'\n').expect("a line");
    assert_eq!(&buffer[end + 1..count], body);
    Ok(Greeting::parse(&String::from_utf8_lossy(&buffer[..end])))
}

/// The error of a connection that must not come about, and how long it took.
pub(crate) fn refused_tcp(space: &netns::NetNs, to: SocketAddr) -> (std::io::ErrorKind, Duration) {
    space
        .run(|| {
            let start = Instant::now();
            let error = TcpStream::connect_timeout(&to, PATIENCE).expect_err("nobody serves there");
            (error.kind(), start.elapsed())
        })
        .expect("enter")
}
