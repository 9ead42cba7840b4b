//! Probes of a container: what is asked, from where, and when an answer changes its state; hooks beside them.
//!
//! Asked from inside the pod's namespace, where a kubelet asks from its node: what the lab captures on the wire and
//! counts as flows is then only what its user sent.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use netns::NetNs;
use tokio::sync::mpsc;

/// A hook ends with its container in any case; this only bounds one whose container went first.
const LONGEST_HOOK: Duration = Duration::from_secs(120);

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Http {
        address: SocketAddr,
        path: String,
        host: Option<String>,
        headers: Vec<(String, String)>,
    },
    Tcp {
        address: SocketAddr,
    },
    Exec {
        argv: Vec<String>,
    },
    /// Something this kubelet cannot ask: always a failure, with this text.
    Impossible(String),
}

/// A question with its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) check: Check,
    pub(super) delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    /// Answers in a row that turn the state to good, and to bad.
    pub(super) success: u32,
    pub(super) failure: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) container: String,
    pub(super) kind: Kind,
    /// The state after the thresholds; `None`: no change yet.
    pub(super) good: Option<bool>,
    /// What a failed answer said.
    pub(super) failure: Option<String>,
}

impl Schedule {
    /// A probe of `container` in the pod with this address, with the API's defaults.
    pub(super) fn of(probe: &Probe, container: &Container, address: Option<IpAddr>) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            check: check(probe, container, address),
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
        }
    }

    /// For a container without a readiness probe: ready once its port accepts, and asked again only until then.
    pub(super) fn accepts(address: SocketAddr) -> Self {
        Self {
            check: Check::Tcp { address },
            delay: Duration::ZERO,
            period: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            success: 1,
            failure: u32::MAX,
        }
    }
}

fn check(probe: &Probe, container: &Container, address: Option<IpAddr>) -> Check {
    let to = |host: Option<&String>, port: &IntOrString| -> Result<SocketAddr, String> {
        let port = number(port, container).ok_or_else(|| format!("no port {port:?} in the container"))?;
        let host = match host.filter(|host| !host.is_empty()) {
            Some(host) => host.parse().map_err(|_| format!("host {host:?} is no address"))?,
            None => address.ok_or("the pod has no address")?,
        };
        Ok(SocketAddr::new(host, port))
    };
    let made = if let Some(http) = &probe.http_get {
        if http.scheme.as_deref() == Some("HTTPS") {
            return Check::Impossible("HTTPS probes are not supported by the lab".to_owned());
        }
        let headers: Vec<_> = http
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect();
        let host =
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host.clone());
        to(http.host.as_ref(), &http.port).map(|address| Check::Http {
            address,
            path: http.path.clone().filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".to_owned()),
            host,
            headers,
        })
    } else if let Some(tcp) = &probe.tcp_socket {
        to(tcp.host.as_ref(), &tcp.port).map(|address| Check::Tcp { address })
    } else if let Some(exec) = &probe.exec {
        Ok(Check::Exec { argv: exec.command.clone().unwrap_or_default() })
    } else {
        Err("gRPC probes are not supported by the lab".to_owned())
    };
    made.unwrap_or_else(Check::Impossible)
}

/// A port by number or by its name in the container.
fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| u16::try_from(port.container_port).ok())
        }
    }
}

/// Asks until the receiver is gone or, for a `once` question, until the answer is good.
pub(super) async fn keep_asking(
    schedule: Schedule,
    netns: String,
    once: bool,
    about: (String, Kind),
    findings: mpsc::Sender<Finding>,
) {
    tokio::time::sleep(schedule.delay).await;
    let mut ticks = tokio::time::interval(schedule.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    loop {
        ticks.tick().await;
        let (check, netns, timeout) = (schedule.check.clone(), netns.clone(), schedule.timeout);
        let answer = tokio::task::spawn_blocking(move || ask(&check, &netns, timeout)).await;
        let failure = match answer {
            Ok(answer) => answer.err(),
            Err(error) => Some(error.to_string()),
        };
        let good = streak.count(failure.is_none(), &schedule);
        let done = once && good == Some(true);
        // The polling for an open port is no probe: its failures are nobody's news.
        if good.is_some() || (failure.is_some() && !once) {
            let (container, kind) = about.clone();
            if findings.send(Finding { container, kind, good, failure }).await.is_err() {
                return;
            }
        }
        if done {
            return;
        }
    }
}

/// Answers of one kind in a row.
#[derive(Debug, Default)]
struct Streak {
    good: bool,
    length: u32,
    told: Option<bool>,
}

impl Streak {
    /// Counts an answer; returns the state if this answer changed it.
    fn count(&mut self, good: bool, schedule: &Schedule) -> Option<bool> {
        self.length = if self.good == good { self.length.saturating_add(1) } else { 1 };
        self.good = good;
        let enough = if good { schedule.success } else { schedule.failure };
        if self.length < enough || self.told == Some(good) {
            return None;
        }
        self.told = Some(good);
        Some(good)
    }
}

/// Asks once, from inside the namespace `netns`.
fn ask(check: &Check, netns: &str, timeout: Duration) -> Result<(), String> {
    let netns = NetNs::open(netns).map_err(|error| error.to_string())?;
    let answer = match check {
        Check::Impossible(why) => return Err(why.clone()),
        Check::Exec { argv } => return exec(argv, &netns, timeout),
        Check::Tcp { address } => netns.run(|| TcpStream::connect_timeout(address, timeout).map(drop)),
        Check::Http { address, path, host, headers } => {
            let request = request(*address, path, host.as_deref(), headers);
            let status =
                netns.run(|| http(*address, &request, timeout)).map_err(|error| error.to_string())?;
            return match status {
                Ok(200..=399) => Ok(()),
                Ok(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
                Err(error) => Err(format!("Get \"http://{address}{path}\": {error}")),
            };
        }
    };
    answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn request(address: SocketAddr, path: &str, host: Option<&str>, headers: &[(String, String)]) -> String {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let others = headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    let others: String = others.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n{others}\r\n"
    )
}

/// The status of one HTTP answer. The time limit is for all of it.
fn http(address: SocketAddr, request: &str, timeout: Duration) -> io::Result<u16> {
    let deadline = Instant::now() + timeout;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(Some(left)) }
    };
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(left()?)?;
    stream.write_all(request.as_bytes())?;
    let (mut head, mut buffer) = (vec![], [0; 256]);
    while !head.contains(&b'\n') && head.len() < 4096 {
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut buffer)? {
            0 => break,
            len => head.extend_from_slice(&buffer[..len]),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let mut words = line.split_ascii_whitespace();
    let status = words.next().filter(|version| version.starts_with("HTTP/")).and_then(|_| words.next());
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed HTTP response"))
}

/// Runs a container's preStop hook. A hook that fails does not keep the container from being stopped.
pub(super) async fn run_hook(hook: LifecycleHandler, netns: String) {
    if let Some(sleep) = hook.sleep {
        return tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    let Some(argv) = hook.exec.and_then(|exec| exec.command) else { return };
    let run = move || {
        let netns = NetNs::open(&netns).map_err(|error| error.to_string())?;
        exec(&argv, &netns, LONGEST_HOOK)
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(run).await {
        tracing::warn!(error, "preStop hook");
    }
}

/// Runs a command in the pod's network; only its exit status counts.
fn exec(argv: &[String], netns: &NetNs, timeout: Duration) -> Result<(), String> {
    let [program, args @ ..] = argv else { return Err("the probe has no command".to_owned()) };
    let mut command = netns.command(program);
    command.args(args).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("exec {program:?}: {error}"))?;
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("command {program:?}: {status}")),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("command {program:?} timed out after {timeout:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn schedule(probe: Value) -> Schedule {
        let probe: Probe = serde_json::from_value(probe).expect("probe");
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(container).expect("container");
        Schedule::of(&probe, &container, Some("10.20.0.5".parse().expect("address")))
    }

    #[test]
    fn probes_have_the_apis_defaults_and_named_ports() {
        let http = schedule(json!({"httpGet": {"port": "web", "path": "/healthz"}}));
        let address = "10.20.0.5:8080".parse().expect("address");
        let path = "/healthz".to_owned();
        assert_eq!(http.check, Check::Http { address, path, host: None, headers: vec![] });
        assert_eq!(
            (http.period.as_secs(), http.timeout.as_secs(), http.success, http.failure),
            (10, 1, 1, 3)
        );
        let tcp = schedule(json!({"tcpSocket": {"port": 53, "host": "127.0.0.1"}, "periodSeconds": 2}));
        assert_eq!(tcp.check, Check::Tcp { address: "127.0.0.1:53".parse().expect("address") });
        assert!(matches!(schedule(json!({"grpc": {"port": 1}})).check, Check::Impossible(_)));
        assert!(matches!(schedule(json!({"tcpSocket": {"port": "none"}})).check, Check::Impossible(_)));
    }

    #[test]
    fn thresholds_turn_the_state_and_nothing_in_between_does() {
        let schedule =
            schedule(json!({"tcpSocket": {"port": 1}, "successThreshold": 2, "failureThreshold": 3}));
        let mut streak = Streak::default();
        let answers = [true, false, true, true, true, false, false, true, false, false, false, false];
        let told: Vec<_> = answers.into_iter().map(|good| streak.count(good, &schedule)).collect();
        let mut wanted = [None; 12];
        wanted[3] = Some(true);
        wanted[10] = Some(false);
        assert_eq!(told, wanted);
    }

    #[test]
    fn answers_are_judged_as_a_kubelet_does() {
        let name = format!("tp-{}-probe", std::process::id());
        let namespace = netns::Owned::create(&name).expect("namespace");
        let listener =
            namespace.run(|| std::net::TcpListener::bind("127.0.0.1:0").expect("bind")).expect("enter");
        let address = listener.local_addr().expect("address");
        let answers = ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 Oops\r\n\r\n", "what?\r\n"];
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut buffer = [0; 1024];
                let len = stream.read(&mut buffer).expect("request");
                assert!(buffer[..len].starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).expect("answer");
            }
        });
        let check = Check::Http { address, path: "/ready".to_owned(), host: None, headers: vec![] };
        let ask = |check: &Check| ask(check, &name, Duration::from_secs(5));
        assert_eq!(ask(&check), Ok(()));
        assert_eq!(ask(&check), Err("HTTP probe failed with statuscode: 500".to_owned()));
        assert!(ask(&check).expect_err("no HTTP").contains("malformed"));
        server.join().expect("server");
        // A port nobody ever had: a process forked by another test may hold the server's until it is executed.
        let closed = Check::Tcp { address: SocketAddr::new(address.ip(), 1) };
        assert!(ask(&closed).expect_err("closed").contains("refused"));
        assert_eq!(ask(&Check::Exec { argv: vec!["true".to_owned()] }), Ok(()));
        assert!(ask(&Check::Exec { argv: vec!["false".to_owned()] }).is_err());
    }
}
