//! A server on a loopback port of its own, and kubectl with a home of its own, for one test each.

#![expect(dead_code, reason = "each test binary uses the part it needs")]

pub(crate) mod router;

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use apiserver::{ApiServer, Config};
use tokio::sync::oneshot;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let server = ApiServer::new(config).expect("set up the server");
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("make a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a port");
                tell.send(listener.local_addr().expect("read the port")).expect("tell the port");
                let shutdown = async {
                    let _ = stopped.await;
                };
                server.serve(listener, shutdown).await.expect("serve");
            });
        });
        let address = told.recv().expect("the server starts");
        Self { url: format!("http://{address}"), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the server ends when told to, open watches included");
            }
        }
    }
}

pub(crate) fn config() -> Config {
    Config::new(vec!["10.24.0.0/20".parse().expect("a prefix")])
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// kubectl against one server, with its own home, configuration and discovery cache.
pub(crate) struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
    /// Whether it is older than 1.32: it may read Endpoints instead of slices, and leave strict decoding to nobody.
    pub(crate) old: bool,
}

impl Kubectl {
    /// kubectl in PATH, and the one that `$KUBECTL_OLD` names.
    pub(crate) fn each(test: impl Fn(&Kubectl)) {
        let mut found = false;
        let second = std::env::var_os("KUBECTL_OLD").map(PathBuf::from);
        for program in [Some(PathBuf::from("kubectl")), second].into_iter().flatten() {
            let Some(minor) = minor_version(&program) else {
                println!("skipped: {} cannot be run", program.display());
                continue;
            };
            found = true;
            let server = Server::start();
            let kubectl = Self::new(program, &server, minor < 32);
            test(&kubectl);
        }
        if !found {
            println!("skipped: there is no kubectl");
        }
    }

    fn new(program: PathBuf, server: &Server, old: bool) -> Self {
        let home = tempfile::tempdir().expect("make a home");
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: {}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\nusers:\n- name: test\n  user: {{}}\n",
            server.url
        );
        std::fs::write(home.path().join("config"), config).expect("write a kubeconfig");
        Self { program, home, old }
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(split(arguments))
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("KUBE_EDITOR", "true")
            .current_dir(self.home.path());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.run_with(arguments, "")
    }

    /// Runs with a manifest on standard input (`-f -`).
    pub(crate) fn run_with(&self, arguments: &str, input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run kubectl");
        // kubectl takes what starts with a brace for JSON; `{a: b}` is YAML.
        let input = if input.starts_with("{\"") { input.to_owned() } else { format!("---\n{input}") };
        child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("write its input");
        let output = child.wait_with_output().expect("wait for kubectl");
        Output {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &str) -> String {
        self.ok_with(arguments, "")
    }

    #[track_caller]
    pub(crate) fn ok_with(&self, arguments: &str, input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert!(
            output.ok,
            "kubectl {arguments} (old: {}) failed: {}{}",
            self.old, output.stdout, output.stderr
        );
        output.stdout
    }

    /// The errors of a command that must fail.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &str, input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert!(!output.ok, "kubectl {arguments} (old: {}) succeeded: {}", self.old, output.stdout);
        output.stderr
    }
}

/// Splits at blanks outside single quotes.
fn split(arguments: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in arguments.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// 20 of 1.20, as the program says of itself.
fn minor_version(program: &Path) -> Option<u32> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    // Some vendors write "32+".
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}

/// Waits until a condition holds, for at most ten seconds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in ten seconds it did not happen that {what}");
        std::thread::yield_now();
    }
}

/// Columns of a printed table, blanks between them made one.
pub(crate) fn squeezed(table: &str) -> String {
    table.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        text
    })
}
