//! Sockets whose backend is gone.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use model::Protocol;

use super::node::{Form, Node, balanced, connect, datagram_socket, echo, known, until};

/// A connection through the frontend to `backend`.
fn connected_to(node: &Node, pod: bool, form: Form, number: u8) -> TcpStream {
    let frontend = form.written(form.cluster_ip());
    let open = || {
        until("the backend that is wanted", || {
            connect(frontend).ok().filter(|(_, answer)| answer.backend == form.backend(number))
        })
        .0
    };
    if pod { node.in_pod(open) } else { node.on_host(open) }
}

fn wait_for_end(stream: &mut TcpStream, what: &str) {
    stream.set_read_timeout(Some(Duration::from_millis(10))).expect("timeout");
    let error = until(what, || match stream.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result.expect_err("an error, not the end of the stream")),
    });
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{what}: {error}");
}

#[test]
fn connections_end_with_their_endpoint_and_not_while_it_drains() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Tcp, &[5, 6])]);
        let mut lost = [false, true].map(|pod| connected_to(&node, pod, form, 5));
        let mut kept = [false, true].map(|pod| connected_to(&node, pod, form, 6));
        let mut direct = node.on_host(|| connect(form.written(form.backend(5))).expect("connect").0);
        // Chosen no more, but listed: it drains.
        let mut draining = balanced(form, Protocol::Tcp, &[6]);
        draining.endpoints.insert(0, known(form, 5, false));
        node.program(&[draining]);
        for stream in lost.iter_mut().chain(&mut kept) {
            echo(stream).expect("still open");
        }
        node.program(&[balanced(form, Protocol::Tcp, &[6])]);
        for stream in &mut lost {
            wait_for_end(stream, &format!("{form:?}: a connection to what is gone"));
        }
        for stream in kept.iter_mut().chain([&mut direct]) {
            echo(stream).expect("nobody else's connection");
        }
    }
    node.clean_up();
}

#[test]
fn connected_datagram_sockets_end_when_their_backend_serves_no_more() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Udp, &[5])]);
        let to = |address: SocketAddr| {
            let socket = datagram_socket(form);
            socket.connect(form.written(address)).expect("connect");
            socket
        };
        let lost = [node.on_host(|| to(form.cluster_ip())), node.in_pod(|| to(form.cluster_ip()))];
        let direct = node.on_host(|| to(form.backend(5)));
        // Terminating, and serving still.
        let mut service = balanced(form, Protocol::Udp, &[6]);
        service.endpoints.insert(0, known(form, 5, true));
        node.program(&[service.clone()]);
        for socket in lost.iter().chain([&direct]) {
            assert!(answers(socket), "{form:?}: what serves is kept");
        }
        service.endpoints[0].serving = false;
        node.program(&[service]);
        for socket in &lost {
            socket.set_read_timeout(Some(Duration::from_millis(10))).expect("timeout");
            let error = until("the end of a socket", || {
                socket.recv(&mut [0; 512]).err().filter(|error| error.kind() != io::ErrorKind::WouldBlock)
            });
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{form:?}: {error}");
            // It is nobody's any more, and may be connected again.
            assert_eq!(socket.send(b"?").expect_err("closed").raw_os_error(), Some(libc::EDESTADDRREQ));
            let again = || socket.connect(form.written(form.cluster_ip()));
            node.on_host(again).expect("connect");
            assert_eq!(socket.peer_addr().expect("peer"), form.written(form.cluster_ip()));
        }
        assert!(answers(&direct), "{form:?}: nobody else's socket");
    }
    node.clean_up();
}

fn ask(socket: &UdpSocket) -> io::Result<()> {
    socket.send(b"?")?;
    socket.recv(&mut [0; 512]).map(drop)
}

fn answers(socket: &UdpSocket) -> bool {
    ask(socket).is_ok()
}

/// Backends that went while no agent ran are gone as well.
#[test]
fn a_new_agent_closes_what_the_former_could_not() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Tcp, &[5, 6])]);
    let mut lost = connected_to(&node, true, Form::V4, 5);
    let mut kept = connected_to(&node, true, Form::V4, 6);
    node.plane = None;
    let service = balanced(Form::V4, Protocol::Tcp, &[6]);
    node.snapshot.services.insert(service.id.clone(), service.into());
    node.open();
    wait_for_end(&mut lost, "a former agent's connection");
    echo(&mut kept).expect("still open");
    node.clean_up();
}
