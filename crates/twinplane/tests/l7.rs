//! What pods of a lab say, once their namespace opts in: real requests to real web servers, a real exchange of DNS by UDP and TCP,
//! over both families, as `twinplane observe` shows them. Needs root.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Output,
    time::{Duration, Instant},
};

use flow::testing::{dns_answer, dns_question};
use netns::NetNs;
use serde_json::Value;

use common::{Named, json, run, succeeded, texts};

const WEB_SERVERS: &str = include_str!("families.yaml");
/// A pod that is none of the web servers: what a socket gives to its own pod, nobody sees.
const CLIENT: &str = "
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: netflow-test}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      containers: [{name: client, image: nginx}]
";
const NAME: &str = "web.example.";
const LIMIT: Duration = Duration::from_secs(20);

struct Pod {
    name: String,
    node: String,
    /// IPv4 and IPv6.
    addresses: Vec<IpAddr>,
    space: NetNs,
}

impl Named {
    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.lab("kubectl", &[&["--", "-n", "netflow-test"], arguments].concat())
    }

    fn pods(&self) -> Vec<Pod> {
        let list: Value = json(&self.kubectl(&["get", "pods", "-o", "json"]));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let pods = list["items"].as_array().expect("pods").iter();
        pods.map(|pod| {
            let addresses = pod["status"]["podIPs"].as_array().expect("addresses").iter();
            let addresses: Vec<IpAddr> =
                addresses.map(|ip| text(&ip["ip"]).parse().expect("address")).collect();
            Pod {
                name: text(&pod["metadata"]["name"]),
                node: text(&pod["spec"]["nodeName"]),
                space: self.space_of(addresses[0]),
                addresses,
            }
        })
        .collect()
    }

    /// The namespace that has this address.
    fn space_of(&self, address: IpAddr) -> NetNs {
        let names = NetNs::list("").expect("list namespaces");
        let ours = names.iter().filter(|name| name.contains(&format!("-{}-", self.0)));
        let mut spaces = ours.filter_map(|name| NetNs::open(name).ok());
        let has = |space: &NetNs| space.run(|| UdpSocket::bind((address, 0)).is_ok()).expect("enter");
        spaces.find(has).expect("a namespace with that address")
    }

    /// What was said, as the pod's node saw it; asked for until there is as much.
    fn said(&self, node: &str, filters: &[&str], wanted: usize) -> Vec<Value> {
        let deadline = Instant::now() + LIMIT;
        let fixed = ["observe", "--lab", &self.0, "--node", node, "--type", "l7", "--all", "-o", "json"];
        loop {
            let out = succeeded(&run(&[&fixed[..], filters].concat()));
            let answers = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let flows: Vec<Value> =
                answers.filter_map(|mut answer| answer.get_mut("flow").map(Value::take)).collect();
            if flows.len() >= wanted || Instant::now() > deadline {
                assert_eq!(flows.len(), wanted, "{filters:?}: {flows:#?}");
                return flows;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Pod {
    fn in_namespace(&self) -> String {
        format!("netflow-test/{}", self.name)
    }

    fn get(&self, lab: &Named, urls: &[&str]) {
        let curl = ["curl", "-gsS", "--fail", "-m", "10", "-o", "/dev/null"];
        succeeded(&lab.lab("exec", &[&[&self.name, "--"], &curl[..], urls].concat()));
    }
}

fn authority(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// A server that knows one name, and a client that asks it once by UDP and once by TCP; `kind` is asked for.
fn ask(client: &Pod, server: &Pod, family: usize, answers: &[IpAddr], kind: u16) {
    let (from, to) = (client.addresses[family], SocketAddr::new(server.addresses[family], 53));
    let (udp, tcp) = server
        .space
        .run(|| (UdpSocket::bind(to).expect("bind"), TcpListener::bind(to).expect("listen")))
        .expect("enter");
    let asking = client.space.run(|| UdpSocket::bind((from, 0)).expect("bind")).expect("enter");
    for socket in [&udp, &asking] {
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    }
    let answer = |question: &[u8]| dns_answer(question, 0, None, answers, 30);
    let question = dns_question(7, NAME, kind);
    let mut buffer = [0; 512];
    asking.send_to(&question, to).expect("ask");
    let (length, asker) = udp.recv_from(&mut buffer).expect("a question");
    udp.send_to(&answer(&buffer[..length]), asker).expect("answer");
    let (length, _) = asking.recv_from(&mut buffer).expect("an answer");
    assert_eq!(buffer[..length], answer(&question));

    let behind_length = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let mut asking = client.space.run(|| TcpStream::connect(to).expect("connect")).expect("enter");
    let (mut answering, _) = tcp.accept().expect("accept");
    let question = behind_length(&dns_question(8, NAME, kind));
    asking.write_all(&question).expect("ask");
    answering.read_exact(&mut buffer[..question.len()]).expect("a question");
    answering.write_all(&behind_length(&answer(&buffer[2..question.len()]))).expect("answer");
    asking.read_exact(&mut buffer[..2]).expect("an answer");
}

#[test]
fn what_pods_say_is_seen_once_their_namespace_opts_in() {
    let lab = Named::new();
    let manifest = tempfile::NamedTempFile::with_suffix(".yaml").expect("file");
    std::fs::write(manifest.path(), [WEB_SERVERS, CLIENT].concat()).expect("write");
    lab.up(&["--dataplane", "ebpf", "-f", manifest.path().to_str().expect("a path")]);
    let pods = lab.pods();
    let of = |prefix: &str| pods.iter().filter(|pod| pod.name.starts_with(prefix)).collect::<Vec<_>>();
    let (&[client], &[server, other, _]) = (&of("client-")[..], &of("nginx-")[..]) else {
        panic!("four pods")
    };
    let service: Value = json(&lab.kubectl(&["get", "service", "nginx", "-o", "json"]));
    let frontends: Vec<IpAddr> = service["spec"]["clusterIPs"]
        .as_array()
        .expect("cluster IPs")
        .iter()
        .map(|ip| ip.as_str().and_then(|text| text.parse().ok()).expect("address"))
        .collect();

    let before: Vec<String> =
        frontends.iter().map(|ip| format!("http://{}/before", authority(*ip))).collect();
    succeeded(
        &lab.lab("exec", &[&client.name, "--", "curl", "-gsS", "-o", "/dev/null", &before[0], &before[1]]),
    );
    let annotate = |value| lab.kubectl(&["annotate", "namespace", "netflow-test", value]);
    succeeded(&annotate("twinplane.dev/l7=dns,http,smtp"));
    wait_for_problem(&lab, &client.node);

    for (family, frontend) in frontends.iter().enumerate() {
        requests_are_seen(&lab, client, *frontend);
        names_are_seen(&lab, client, server, other, family);
    }
    assert!(lab.said(&client.node, &["--http-path", "/before"], 0).is_empty());

    // Out again: nothing more is seen.
    succeeded(&annotate("twinplane.dev/l7-"));
    let url = format!("http://{}/?after", authority(frontends[0]));
    wait_until_unseen(&lab, client, &url);
}

/// The annotation's bad word is reported, and the good ones are programmed by the time it is.
fn wait_for_problem(lab: &Named, node: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        // Which says by its exit code, too, that something is wrong.
        let (status, _) = texts(&run(&["status", "--lab", &lab.0, "--node", node, "-o", "json"]));
        if status.contains("metadata.annotations[twinplane.dev/l7]") && status.contains("smtp") {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The annotation's end takes effect at some time; from then on requests are flows without words.
fn wait_until_unseen(lab: &Named, client: &Pod, url: &str) {
    let deadline = Instant::now() + LIMIT;
    let observe = |filters: &[&str]| {
        let fixed = ["observe", "--lab", &lab.0, "--node", &client.node, "--all"];
        succeeded(&run(&[&fixed[..], filters].concat()))
    };
    let ends = ["--from-pod", &client.in_namespace(), "--tcp-flags", "FIN", "--no-answers"];
    for number in 0.. {
        let before = observe(&ends).lines().count();
        client.get(lab, &[&format!("{url}-{number}")]);
        // What comes later in the ring is there.
        while observe(&ends).lines().count() == before {
            assert!(Instant::now() < deadline, "no end of a connection");
            std::thread::sleep(Duration::from_millis(50));
        }
        if !observe(&["--type", "l7"]).contains(&format!("after-{number})")) {
            return;
        }
        assert!(Instant::now() < deadline, "still read");
    }
}

/// Two requests on one connection, one of which is for nothing.
fn requests_are_seen(lab: &Named, client: &Pod, frontend: IpAddr) {
    let url = format!("http://{}/", authority(frontend));
    let missing = format!("{url}missing");
    let curl = ["curl", "-gsS", "-m", "10", "-o", "/dev/null", "-o", "/dev/null", &url, &missing];
    succeeded(&lab.lab("exec", &[&[&client.name, "--"], &curl[..]].concat()));
    let of_client = ["--from-pod", &client.in_namespace(), "--http-url", &url.replace(['[', ']'], ".")];
    let flows = lab.said(&client.node, &[&of_client[..], &["--protocol", "http"]].concat(), 4);
    for (flow, (path, code, is_reply)) in flows.iter().zip([
        ("", None, false),
        ("", Some(200), true),
        ("missing", None, false),
        ("missing", Some(404), true),
    ]) {
        let (client_end, server_end) = match is_reply {
            true => (&flow["destination"], &flow["source"]),
            false => (&flow["source"], &flow["destination"]),
        };
        assert_eq!(client_end["pod_name"], client.name.as_str(), "{flow}");
        assert!(server_end["pod_name"].as_str().is_some_and(|name| name.starts_with("nginx")), "{flow}");
        assert_eq!((&flow["verdict"], &flow["Type"]), (&"FORWARDED".into(), &"L7".into()), "{flow}");
        assert_eq!(flow["event_type"]["type"], 129, "{flow}");
        assert_eq!(flow["is_reply"], is_reply, "{flow}");
        let http = &flow["l7"]["http"];
        assert_eq!(http["url"], format!("{url}{path}"), "{flow}");
        assert_eq!((&http["method"], &http["protocol"]), (&"GET".into(), &"HTTP/1.1".into()), "{flow}");
        assert_eq!(http["code"].as_u64(), code, "{flow}");
        let latency = flow["l7"]["latency_ns"].as_str().and_then(|text| text.parse::<u64>().ok());
        assert_eq!(latency.is_some_and(|latency| latency > 0), is_reply, "{flow}");
    }
    let only =
        |filter: [&str; 2], count: usize| lab.said(&client.node, &[&of_client[..], &filter].concat(), count);
    only(["--http-status", "404"], 1);
    only(["--http-status", "2+"], 1);
    only(["--http-method", "GET"], 4);
    only(["--http-method", "POST"], 0);
    only(["--http-path", "/missing"], 2);

    let (lines, _) =
        texts(&run(&["observe", "--lab", &lab.0, "--node", &client.node, "--type", "l7", "--all"]));
    for part in [
        format!("http-request FORWARDED (HTTP/1.1 GET {missing})"),
        "http-response FORWARDED (HTTP/1.1 404 ".to_owned(),
        format!("ms (GET {missing}))"),
    ] {
        assert!(lines.contains(&part), "{part}: {lines}");
    }
}

/// A name is asked for; later flows to what it stands for have it.
fn names_are_seen(lab: &Named, client: &Pod, server: &Pod, other: &Pod, family: usize) {
    let (kind, number) = [("A", 1), ("AAAA", 28)][family];
    let address = other.addresses[family];
    ask(client, server, family, &[address], number);
    let query = ["--dns-query", "^web[.]example[.]$", "--from-ip", &client.addresses[family].to_string()];
    let flows = lab.said(&client.node, &query, 4);
    for (index, flow) in flows.iter().enumerate() {
        let dns = &flow["l7"]["dns"];
        let is_reply = index % 2 == 1;
        assert_eq!((&flow["is_reply"], &dns["query"]), (&is_reply.into(), &NAME.into()), "{flow}");
        assert_eq!(dns["qtypes"], serde_json::json!([kind]), "{flow}");
        let protocol = if index < 2 { "UDP" } else { "TCP" };
        assert!(flow["l4"][protocol].is_object(), "{flow}");
        if is_reply {
            assert_eq!(dns["ips"], serde_json::json!([address.to_string()]), "{flow}");
            assert_eq!((&dns["ttl"], &dns["rrtypes"]), (&30.into(), &serde_json::json!([kind])), "{flow}");
        }
    }
    let (lines, _) =
        texts(&run(&["observe", "--lab", &lab.0, "--node", &client.node, "--protocol", "dns", "--all"]));
    for part in [
        format!("dns-request proxy FORWARDED (DNS Query {NAME} {kind})"),
        format!("dns-response proxy FORWARDED (DNS Answer \"{address}\" TTL: 30 (Proxy {NAME} {kind}))"),
    ] {
        assert!(lines.contains(&part), "{part}: {lines}");
    }

    client.get(lab, &[&format!("http://{}/?named-{kind}", authority(address))]);
    let named = ["--to-fqdn", "web.example", "--http-url", &format!("named-{kind}$")];
    let flows = lab.said(&client.node, &named, 2);
    assert_eq!(flows[0]["destination_names"], serde_json::json!(["web.example"]), "{}", flows[0]);
    assert_eq!(flows[1]["source_names"], serde_json::json!(["web.example"]), "{}", flows[1]);
}
