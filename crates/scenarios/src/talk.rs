//! What runs in pods, and how clients talk to it: "who" is answered by the pod's name and the client address it
//! saw, "echo N" by the N bytes that follow; a datagram by one of its own size.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};

use crate::places::Pod;

/// Where pods listen.
pub const TCP_PORTS: [u16; 2] = [8080, 9090];
pub const UDP_PORTS: [u16; 1] = [8080];

/// No larger ones are sent.
const DATAGRAM: usize = 16_384;

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// A server's answer to "who".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub pod: Pod,
    /// The client's address as the pod saw it.
    pub client: IpAddr,
}

/// The servers of all pods; they end when this is dropped.
#[derive(Debug, Default)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Servers {
    /// Starts `pod`'s servers, for both families. Call it on a thread inside the pod's namespace.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(&mut self, pod: Pod) -> io::Result<()> {
        for port in TCP_PORTS {
            let listener = TcpListener::bind(("::", port))?;
            end_waits(&listener)?;
            let stop = Arc::clone(&self.stop);
            self.threads.push(std::thread::spawn(move || serve_tcp(&listener, pod, &stop)));
        }
        for port in UDP_PORTS {
            let socket = UdpSocket::bind(("::", port))?;
            end_waits(&socket)?;
            let stop = Arc::clone(&self.stop);
            self.threads.push(std::thread::spawn(move || serve_udp(&socket, pod, &stop)));
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

/// `SO_RCVTIMEO` also ends accept(2) (socket(7)).
pub(crate) fn end_waits(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, ReceiveTimeout, &TimeVal::milliseconds(TICK.as_millis() as i64))?)
}

fn serve_tcp(listener: &TcpListener, pod: Pod, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, client)) = listener.accept() {
            // The stream's thread ends with the client's.
            std::thread::spawn(move || serve_stream(stream, pod, client.ip().to_canonical()));
        }
    }
}

fn serve_stream(mut stream: TcpStream, pod: Pod, client: IpAddr) -> io::Result<()> {
    // Longer than a flow is held on a machine that is busy otherwise.
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        match line.trim_end().split_once(' ') {
            Some(("echo", size)) => {
                let mut body = vec![0; size.parse().unwrap_or(0)];
                reader.read_exact(&mut body)?;
                stream.write_all(&body)?;
            }
            _ => writeln!(stream, "{} {client}", pod.name())?,
        }
        line.clear();
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, pod: Pod, stop: &AtomicBool) {
    let mut buffer = [0; DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((size, client)) = socket.recv_from(&mut buffer) {
            let answer = format!("{:<size$}", format!("{} {}", pod.name(), client.ip().to_canonical()));
            let _ = socket.send_to(answer.as_bytes(), client);
        }
    }
}

/// Bytes that no shift, cut or repetition leaves equal.
fn body(size: usize) -> Vec<u8> {
    (0..size as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// An open conversation over TCP.
#[derive(Debug)]
pub struct Conversation(BufReader<TcpStream>);

impl Conversation {
    /// # Errors
    /// Refused, or nothing within `patience`.
    pub fn open(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// # Errors
    /// The connection broke, or is silent.
    pub fn who(&mut self) -> io::Result<Who> {
        self.0.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        parse(line.trim_end())
    }

    /// The client's own address and port.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// Whether `size` bytes arrive as they were sent, there and back.
    ///
    /// # Errors
    /// The connection broke, or is silent.
    pub fn body_is_intact(&mut self, size: usize) -> io::Result<bool> {
        let sent = body(size);
        self.0.get_mut().write_all(format!("echo {size}\n").as_bytes())?;
        self.0.get_mut().write_all(&sent)?;
        let mut received = vec![0; size];
        self.0.read_exact(&mut received)?;
        Ok(received == sent)
    }
}

/// Asks over UDP, by a datagram of `size`, from a socket connected to a service; or, where `to` is given, from one that is
/// not, and the answer must come from there. Sends again every 200 ms: what is on its way while rules change may be lost.
///
/// # Errors
/// Refused, or nothing within `patience`; `AddrNotAvailable`: an answer from elsewhere.
pub fn who_udp(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    size: usize,
    patience: Duration,
) -> io::Result<Who> {
    let deadline = Instant::now() + patience;
    let question = vec![b'?'; size];
    let mut buffer = [0; DATAGRAM];
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    while Instant::now() < deadline {
        let sent = match to {
            Some(to) => socket.send_to(&question, to),
            None => socket.send(&question),
        };
        match sent.and_then(|_| socket.recv_from(&mut buffer)) {
            Ok((_, from)) if to.is_some_and(|to| to != from) => {
                return Err(ErrorKind::AddrNotAvailable.into());
            }
            Ok((length, _)) if length < size => return Err(ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) => return parse(String::from_utf8_lossy(&buffer[..length]).trim_end()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            // The path's MTU has just been heard of: what is sent next is cut to fit (udp(7)).
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn parse(answer: &str) -> io::Result<Who> {
    let read = || {
        let (pod, client) = answer.split_once(' ')?;
        Some(Who { pod: Pod::named(pod)?, client: client.parse().ok()? })
    };
    read().ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("unexpected answer {answer:?}")))
}
