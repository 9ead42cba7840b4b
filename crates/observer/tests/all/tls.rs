//! Certificates on both sides: who may connect, who may not, and what happens when files change.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{all, feed, flow_of, node};
use flow::proto::{
    observer::{GetFlowsRequest, ServerStatusRequest, observer_client::ObserverClient},
    relay::NodeState,
};
use observer::{
    connect::{ConnectError, Target, connect},
    names,
    node::Identity,
    peers::{Peer, Peers},
    relay::{Config, Relay, Retry},
    serve,
    tls::{Certificates, Files},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Told apart by their keys only, they would be taken for one whose signatures are wrong.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate for `name`, and the authority beside it.
    fn issue(&self, folder: &Path, name: &str, expired: bool) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::create_dir_all(folder).unwrap();
        let write = |file: &str, text: &str| -> PathBuf {
            let path = folder.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        Files {
            certificate: write("tls.crt", &certificate),
            key: write("tls.key", &key.serialize_pem()),
            authority: write("ca.crt", &self.pem),
        }
    }
}

const NODE: &str = "a.default.hubble-grpc.cilium.io";
const RELAY: &str = "*.hubble-relay.cilium.io";

/// A node with one flow behind TLS, and a peer service that names it.
async fn serve_node(files: Files) -> SocketAddr {
    serve_named("a", &mut Known::default(), files).await
}

/// With an authority of its own.
pub(crate) async fn tls_node(folder: &Path) -> SocketAddr {
    serve_node(Authority::new().issue(folder, ANY_NODE, false)).await
}

/// What a peer service names.
#[derive(Default)]
struct Known {
    service: Peers,
    all: BTreeMap<String, Peer>,
}

/// Adds a node to those that are known, and tells of them.
async fn serve_named(name: &'static str, known: &mut Known, files: Files) -> SocketAddr {
    let mut feed = feed(15);
    feed.append([flow_of(name, 1)]);
    let routes = serve::node_routes(node(name, &feed), known.service.clone()).await.unwrap();
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server_name = Some(names::node_server(name, "default"));
    known.all.insert(name.to_owned(), Peer { address: address.to_string(), server_name });
    known.service.set(known.all.clone());
    let certificates = Certificates::load(files).unwrap();
    tokio::spawn(async move {
        // The ring lives as long as its server.
        let _feed = feed;
        serve::tls(listener, certificates, routes, std::future::pending()).await.unwrap();
    });
    address
}

/// A relay with this certificate, for clients and for nodes.
async fn serve_relay(peer_service: SocketAddr, files: Files) -> (Relay, SocketAddr) {
    let certificates = Certificates::load(files).unwrap();
    let relay = Relay::start(Config {
        identity: Identity { name: "relay".into(), version: "r1".into() },
        peer_services: vec![Target {
            address: peer_service.to_string(),
            server_name: Some(names::peer_service("default")),
        }],
        certificates: Some(Arc::clone(&certificates)),
        retry: Retry { first: Duration::from_millis(10), longest: Duration::from_millis(50) },
    });
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = serve::relay_routes(relay.clone()).await.unwrap();
    tokio::spawn(serve::tls(listener, certificates, routes, std::future::pending()));
    (relay, address)
}

async fn until(relay: &Relay, wanted: &[(&str, NodeState)]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let nodes = relay.nodes();
        let states = nodes.iter().map(|(name, node)| (name.as_str(), node.state));
        // Before the first attempt a node is unavailable too, with other words.
        if states.eq(wanted.iter().copied()) && nodes.iter().all(|(_, node)| !node.message.contains("yet")) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "wanted {wanted:?}, have {nodes:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ask(address: SocketAddr, server_name: &str, files: Files) -> Result<usize, String> {
    let certificates = Certificates::load(files).unwrap();
    let target = Target { address: address.to_string(), server_name: Some(server_name.into()) };
    let channel = connect(&target, Some(&certificates)).await.map_err(|error| whole(&error))?;
    let mut client = ObserverClient::new(channel);
    client.server_status(ServerStatusRequest {}).await.map_err(|status| whole(&status))?;
    Ok(all(&mut client, GetFlowsRequest::default()).await.len())
}

fn whole(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(whole).unwrap_or_default();
    format!("{error}: {cause}")
}

#[tokio::test]
async fn only_certificates_of_the_authority_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let folder = |name: &str| folder.path().join(name);
    let (authority, stranger) = (Authority::new(), Authority::new());
    let address =
        serve_node(authority.issue(&folder("node"), "*.default.hubble-grpc.cilium.io", false)).await;

    assert_eq!(ask(address, NODE, authority.issue(&folder("relay"), RELAY, false)).await, Ok(1));

    // One that its own authority signed; it trusts the node's, so that the refusal is the node's.
    let mut files = stranger.issue(&folder("stranger"), RELAY, false);
    let error = ask(address, NODE, files.clone()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    files.authority = folder("relay").join("ca.crt");
    ask(address, NODE, files).await.unwrap_err();

    let mut files = authority.issue(&folder("expired"), RELAY, true);
    files.authority = folder("relay").join("ca.crt");
    ask(address, NODE, files).await.unwrap_err();

    let error =
        ask(address, "a.other.hubble-grpc.cilium.io", authority.issue(&folder("relay"), RELAY, false))
            .await
            .unwrap_err();
    assert!(error.to_lowercase().contains("not valid for name"), "{error}");

    // Others are still served.
    assert_eq!(ask(address, NODE, authority.issue(&folder("relay"), RELAY, false)).await, Ok(1));
}

#[tokio::test]
async fn without_a_certificate_nothing_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let address =
        serve_node(authority.issue(&folder.path().join("node"), "*.default.hubble-grpc.cilium.io", false))
            .await;

    let target = Target { address: address.to_string(), server_name: None };
    let mut client = ObserverClient::new(connect(&target, None).await.expect("TCP connects"));
    client.server_status(ServerStatusRequest {}).await.expect_err("plain text");

    // A handshake that is right but for the certificate: not one byte of an answer comes back.
    let mut roots = rustls::RootCertStore::empty();
    let pem = authority.pem.as_bytes();
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    if let Ok(mut stream) = connector.connect(NODE.try_into().unwrap(), tcp).await {
        drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await);
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes))
            .await
            .expect("it ends");
        read.expect_err("an alert");
    }
    assert!(bytes.is_empty());

    // TLS 1.2 is not spoken.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(old));
    let tcp = TcpStream::connect(address).await.unwrap();
    let error = connector.connect(NODE.try_into().unwrap(), tcp).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn garbage_and_half_open_connections_delay_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let address =
        serve_node(authority.issue(&folder.path().join("node"), "*.default.hubble-grpc.cilium.io", false))
            .await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(TcpStream::connect(address).await.unwrap());
        let mut garbage = TcpStream::connect(address).await.unwrap();
        garbage.write_all(&[0xff; 4096]).await.unwrap();
        held.push(garbage);
    }
    let files = authority.issue(&folder.path().join("relay"), RELAY, false);
    assert_eq!(ask(address, NODE, files).await, Ok(1));
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let of_node = folder.path().join("node");
    let address = serve_node(old.issue(&of_node, "*.default.hubble-grpc.cilium.io", false)).await;
    let as_relay =
        |authority: &Authority, name: &str| authority.issue(&folder.path().join(name), RELAY, false);
    assert_eq!(ask(address, NODE, as_relay(&old, "old")).await, Ok(1));

    std::fs::write(of_node.join("tls.crt"), "garbage").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(address, NODE, as_relay(&old, "old")).await, Ok(1));

    new.issue(&of_node, "*.default.hubble-grpc.cilium.io", false);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while ask(address, NODE, as_relay(&new, "new")).await != Ok(1) {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ask(address, NODE, as_relay(&old, "old")).await.unwrap_err();
}

const ANY_NODE: &str = "*.default.hubble-grpc.cilium.io";
const AS_RELAY: &str = "instance.hubble-relay.cilium.io";

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_shows_its_certificate_and_takes_none_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issue = |authority: &Authority, name: &str, of: &str, expired: bool| {
        authority.issue(&folder.path().join(name), of, expired)
    };
    // The peer service has its own name in the same certificate's pattern.
    let mut peers = Known::default();
    let service = serve_named("a", &mut peers, issue(&authority, "a", ANY_NODE, false)).await;
    serve_named("expired", &mut peers, issue(&authority, "expired", ANY_NODE, true)).await;
    serve_named("other", &mut peers, issue(&authority, "other", NODE, false)).await;
    serve_named("stranger", &mut peers, issue(&stranger, "stranger", ANY_NODE, false)).await;
    let (relay, address) = serve_relay(service, issue(&authority, "relay", RELAY, false)).await;
    let unavailable = |name| (name, NodeState::NodeUnavailable);
    until(
        &relay,
        &[
            ("a", NodeState::NodeConnected),
            unavailable("expired"),
            unavailable("other"),
            unavailable("stranger"),
        ],
    )
    .await;
    let nodes = relay.nodes();
    for (node, reason) in [(1, "Expired"), (2, "not valid for name"), (3, "UnknownIssuer")] {
        let message = &nodes[node].1.message;
        assert!(message.to_lowercase().contains(&reason.to_lowercase()), "{message}");
    }
    // Clients have other names, of the same authority.
    let client = || issue(&authority, "client", "*.hubble-ui.cilium.io", false);
    let told_of_nodes = 2;
    assert_eq!(ask(address, AS_RELAY, client()).await, Ok(1 + told_of_nodes));
    let mut bad =
        [issue(&stranger, "bad-stranger", RELAY, false), issue(&authority, "bad-expired", RELAY, true)];
    for files in &mut bad {
        // It trusts the relay, so that the refusal is the relay's.
        files.authority = client().authority;
        ask(address, AS_RELAY, files.clone()).await.unwrap_err();
    }
    ask(address, NODE, client()).await.unwrap_err();
    assert_eq!(ask(address, AS_RELAY, client()).await, Ok(1 + told_of_nodes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_certificate_is_wrong_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let service = serve_node(authority.issue(&folder.path().join("a"), ANY_NODE, false)).await;
    let files = authority.issue(&folder.path().join("relay"), RELAY, true);
    let (relay, _) = serve_relay(service, files).await;
    let patient = Duration::from_millis(500);
    let connected = tokio::time::timeout(patient, until(&relay, &[("a", NodeState::NodeConnected)]));
    connected.await.expect_err("the peer service takes an expired certificate");
    assert!(relay.nodes().is_empty());

    // Rotated, it is taken without a restart.
    authority.issue(&folder.path().join("relay"), RELAY, false);
    until(&relay, &[("a", NodeState::NodeConnected)]).await;
}

#[tokio::test]
async fn who_has_certificates_speaks_no_plain_text_over_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::load(Authority::new().issue(folder.path(), RELAY, false)).unwrap();
    let target = |server_name: Option<&str>| Target {
        address: "192.0.2.1:4244".into(),
        server_name: server_name.map(str::to_owned),
    };
    let error = connect(&target(None), Some(&certificates)).await.unwrap_err();
    assert!(matches!(error, ConnectError::PlainText(_)));
    let error = connect(&target(Some(NODE)), None).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoCertificate(_)));
    let error = connect(&target(Some("not a name")), Some(&certificates)).await.unwrap_err();
    assert_eq!(error.to_string(), "connect to 192.0.2.1:4244: \"not a name\" is not a server name");
}
