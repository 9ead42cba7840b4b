//! Flows that stay open while the cluster changes. [`crate::world::World`] opens them.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    expect::Question,
    places::Pod,
    talk::{Conversation, Who, who_udp},
    world::PATIENCE,
};

/// A flow that outlives changes.
#[derive(Debug)]
pub struct Held {
    pub(crate) probe: Question,
    pub(crate) socket: Option<Socket>,
}

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(Conversation),
    Udp(UdpSocket),
    /// Each datagram names the service.
    Unconnected(UdpSocket),
}

impl Held {
    /// Asks again over the same flow, and wants this pod to answer.
    pub fn expect(&mut self, pod: Pod) {
        if let Some(who) = self.who() {
            assert_eq!(who.pod, pod, "{:?}", self.probe);
        }
    }

    /// Whether `size` bytes arrive as they were sent, there and back.
    pub fn expect_intact_body(&mut self, size: usize) {
        if let Some(Socket::Tcp(conversation)) = &mut self.socket {
            let intact = conversation.body_is_intact(size);
            let intact = intact.unwrap_or_else(|error| panic!("{:?}: {size} bytes: {error}", self.probe));
            assert!(intact, "{:?}: {size} bytes", self.probe);
        }
    }

    /// Waits for the end of a datagram socket: its owner is told, and connects another.
    pub fn expect_closed(&mut self) {
        let Some(Socket::Udp(socket)) = &self.socket else { return };
        let deadline = Instant::now() + PATIENCE;
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        while Instant::now() < deadline {
            match socket.recv(&mut [0; 8192]) {
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => return,
                // An answer that was on its way, or nothing yet.
                _ => {}
            }
        }
        panic!("{:?}: still open", self.probe)
    }

    /// The client's end of a TCP flow.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self.socket.as_ref()? {
            Socket::Tcp(conversation) => conversation.local().ok(),
            Socket::Udp(_) | Socket::Unconnected(_) => None,
        }
    }

    pub(crate) fn who(&mut self) -> Option<Who> {
        let probe = &self.probe;
        let answer = match self.socket.as_mut()? {
            Socket::Tcp(conversation) => conversation.who(),
            Socket::Udp(socket) => who_udp(socket, None, probe.datagram, PATIENCE),
            Socket::Unconnected(socket) => who_udp(socket, Some(probe.to), probe.datagram, PATIENCE),
        };
        Some(answer.unwrap_or_else(|error| panic!("{probe:?}: {error}")))
    }
}
