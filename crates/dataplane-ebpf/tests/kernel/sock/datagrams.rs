//! Datagram sockets that are not connected.

use std::{collections::BTreeSet, io::ErrorKind};

use model::Protocol;

use super::node::{Form, Node, ask_from, balanced, datagram_socket};

#[test]
fn answers_come_from_where_the_question_went() {
    let mut node = Node::new();
    for form in Form::ALL {
        node.program(&[balanced(form, Protocol::Udp, &[5, 6])]);
        let frontend = form.written(form.cluster_ip());
        let ask = || {
            let mut backends = BTreeSet::new();
            for _ in 0..24 {
                let socket = datagram_socket(form);
                let (answer, source) = ask_from(&socket, frontend).expect("answer");
                assert_eq!(source, frontend, "{form:?}");
                backends.insert(answer.backend);
                // A socket keeps its backend.
                for _ in 0..4 {
                    assert_eq!(ask_from(&socket, frontend).expect("answer"), (answer.clone(), frontend));
                }
            }
            backends
        };
        let both = BTreeSet::from([form.backend(5), form.backend(6)]);
        assert_eq!((node.on_host(ask), node.in_pod(ask)), (both.clone(), both), "{form:?}");
    }
    node.clean_up();
}

#[test]
fn one_socket_may_ask_many() {
    let mut node = Node::new();
    node.program(&[balanced(Form::V4, Protocol::Udp, &[5]), balanced(Form::V6, Protocol::Udp, &[6])]);
    node.on_host(|| {
        let socket = datagram_socket(Form::V6);
        let (mapped, plain) = (Form::Mapped.written(Form::Mapped.cluster_ip()), Form::V6.cluster_ip());
        let direct = Form::V6.backend(5);
        for _ in 0..4 {
            for (to, backend) in
                [(mapped, Form::V4.backend(5)), (plain, Form::V6.backend(6)), (direct, direct)]
            {
                let (answer, source) = ask_from(&socket, to).expect("answer");
                assert_eq!((answer.backend, source), (backend, to));
            }
        }
    });
    node.clean_up();
}

#[test]
fn a_socket_whose_backend_left_gets_another_with_its_next_datagram() {
    let mut node = Node::new();
    for form in Form::ALL {
        let frontend = form.written(form.cluster_ip());
        node.program(&[balanced(form, Protocol::Udp, &[5])]);
        let socket = node.on_host(|| datagram_socket(form));
        assert_eq!(ask_from(&socket, frontend).expect("answer").0.backend, form.backend(5));
        node.program(&[balanced(form, Protocol::Udp, &[6])]);
        assert_eq!(ask_from(&socket, frontend).expect("answer"), {
            let client = form.node_address();
            (super::node::Answer { backend: form.backend(6), client }, frontend)
        });
        node.program(&[balanced(form, Protocol::Udp, &[])]);
        let error = ask_from(&socket, frontend).expect_err("nobody serves");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        node.program(&[balanced(form, Protocol::Udp, &[5])]);
        assert_eq!(ask_from(&socket, frontend).expect("answer").0.backend, form.backend(5));
    }
    node.clean_up();
}
