//! A container's spec → the process that stands for it. Pure.
//!
//! There are no images: nginx is the host's nginx, echo and agnhost are the built-in server, and anything else must
//! name its command, which is then found in the host's PATH.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::nginx;

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) working_dir: Option<PathBuf>,
    /// Files to write before the start.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Listens on this TCP port once it is up.
    pub(super) listens: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopSignal {
    Terminate,
    /// nginx's graceful one, as its image declares (`STOPSIGNAL SIGQUIT`).
    Quit,
}

/// Why a container cannot be run: reason and message of its waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unrunnable {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Where and as what a container runs.
#[derive(Clone, Debug)]
pub(super) struct Setting<'a> {
    pub(super) pod: &'a Pod,
    pub(super) node: &'a str,
    pub(super) addresses: &'a [IpAddr],
    pub(super) host_addresses: &'a [IpAddr],
    /// The container's own folder.
    pub(super) directory: PathBuf,
    /// The shared large files.
    pub(super) bodies: PathBuf,
    pub(super) exe: PathBuf,
}

/// What `container` runs.
pub(super) fn program(container: &Container, setting: &Setting<'_>) -> Result<Program, Unrunnable> {
    let env = environment(container, setting)?;
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &env)).collect()
    };
    let (command, args) = (expand(&container.command), expand(&container.args));
    let working_dir = container.working_dir.clone().map(PathBuf::from);
    let ports = |protocol: &str| -> Vec<u16> {
        let ours = container.ports.iter().flatten();
        let ours = ours.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol);
        ours.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
    };
    let (tcp, udp) = (ports("TCP"), ports("UDP"));
    let program = Program { argv: vec![], env, working_dir, files: vec![], listens: tcp.first().copied() };
    if !command.is_empty() {
        return Ok(Program { argv: command.into_iter().chain(args).collect(), ..program });
    }
    match Image::of(container.image.as_deref().unwrap_or_default()) {
        Image::Nginx => Ok(nginx_program(program, tcp, setting)),
        Image::Echo => Ok(echo_program(program, &args, tcp, udp, setting)),
        Image::Unknown if !args.is_empty() => Ok(Program { argv: args, ..program }),
        Image::Unknown => Err(Unrunnable {
            reason: "ErrImagePull",
            message: format!(
                "image {:?} is none the lab has (nginx, twinplane/echo, agnhost) and no command is given",
                container.image.as_deref().unwrap_or_default()
            ),
        }),
    }
}

/// How `container` is asked to end.
pub(super) fn stop_signal(container: &Container) -> StopSignal {
    let own_command = container.command.as_ref().is_some_and(|command| !command.is_empty());
    match Image::of(container.image.as_deref().unwrap_or_default()) {
        Image::Nginx if !own_command => StopSignal::Quit,
        _ => StopSignal::Terminate,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Nginx,
    Echo,
    Unknown,
}

impl Image {
    /// By the last part of the repository, without registry, tag and digest.
    fn of(image: &str) -> Self {
        let name = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        match name {
            "nginx" => Self::Nginx,
            _ if name.starts_with("nginx-") => Self::Nginx,
            "echo" | "agnhost" => Self::Echo,
            _ if name.starts_with("echo-") => Self::Echo,
            _ => Self::Unknown,
        }
    }
}

fn nginx_program(program: Program, ports: Vec<u16>, setting: &Setting<'_>) -> Program {
    let ports = if ports.is_empty() { vec![80] } else { ports };
    let prefix = setting.directory.display().to_string();
    let config = setting.directory.join("nginx.conf");
    let text = nginx::config(&nginx::Site {
        pod: setting.pod.metadata.name.as_deref().unwrap_or_default(),
        node: setting.node,
        prefix: &setting.directory,
        bodies: &setting.bodies,
        ports: &ports,
    });
    let argv = ["nginx", "-p", &prefix, "-e", "stderr", "-c", &config.display().to_string()];
    Program {
        argv: argv.map(str::to_owned).to_vec(),
        files: vec![(config, text)],
        listens: ports.first().copied(),
        ..program
    }
}

/// agnhost's `netexec --http-port --udp-port` where given; else the declared ports; else 8080.
fn echo_program(
    program: Program,
    args: &[String],
    tcp: Vec<u16>,
    udp: Vec<u16>,
    setting: &Setting<'_>,
) -> Program {
    let flag = |name: &str| -> Option<u16> {
        let mut words = args.iter().flat_map(|word| word.split('='));
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    let chosen = |asked: Option<u16>, declared: Vec<u16>| asked.map_or(declared, |port| vec![port]);
    let mut tcp = chosen(flag("--http-port").or_else(|| flag("--port")), tcp);
    let udp = chosen(flag("--udp-port"), udp);
    if tcp.is_empty() && udp.is_empty() {
        tcp = vec![8080];
    }
    let mut argv = vec![setting.exe.display().to_string(), "lab".to_owned(), "echo".to_owned()];
    let pod = setting.pod.metadata.name.as_deref().unwrap_or_default();
    argv.extend(["--pod", pod, "--node", setting.node].map(str::to_owned));
    argv.extend(tcp.iter().map(|port| format!("--port={port}")));
    argv.extend(udp.iter().map(|port| format!("--udp-port={port}")));
    Program { argv, listens: tcp.first().copied(), ..program }
}

fn environment(container: &Container, setting: &Setting<'_>) -> Result<BTreeMap<String, String>, Unrunnable> {
    let unsupported = |what: &str| Unrunnable {
        reason: "CreateContainerConfigError",
        message: format!("container {:?}: {what} is not supported by the lab", container.name),
    };
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return Err(unsupported("envFrom"));
    }
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let hostname = setting.pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let hostname = hostname.or_else(|| setting.pod.metadata.name.clone()).unwrap_or_default();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), path.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), hostname),
    ]);
    for variable in container.env.iter().flatten() {
        let value = match field(variable) {
            None if variable.value_from.is_some() => {
                return Err(unsupported(&format!("env {:?}", variable.name)));
            }
            None => expand(variable.value.as_deref().unwrap_or_default(), &env),
            Some(path) => downward(path, setting)
                .ok_or_else(|| unsupported(&format!("env {:?} from field {path:?}", variable.name)))?,
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

fn field(variable: &EnvVar) -> Option<&str> {
    Some(variable.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str())
}

/// The downward API's fields.
fn downward(path: &str, setting: &Setting<'_>) -> Option<String> {
    let (meta, spec) = (&setting.pod.metadata, setting.pod.spec.as_ref());
    let text = |value: &Option<String>| Some(value.clone().unwrap_or_default());
    let all = |addresses: &[IpAddr]| {
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Some(list.join(","))
    };
    let first = |addresses: &[IpAddr]| all(&addresses[..addresses.len().min(1)]);
    let keyed = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "spec.nodeName" => Some(setting.node.to_owned()),
        "spec.serviceAccountName" => text(&spec.and_then(|spec| spec.service_account_name.clone())),
        "status.podIP" => first(setting.addresses),
        "status.podIPs" => all(setting.addresses),
        "status.hostIP" => first(setting.host_addresses),
        "status.hostIPs" => all(setting.host_addresses),
        _ => keyed(&meta.labels, "metadata.labels['")
            .or_else(|| keyed(&meta.annotations, "metadata.annotations['")),
    }
}

/// `$(NAME)` becomes its value, `$$` one dollar; what is not known stays as it is written.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(container: Value) -> Result<Program, Unrunnable> {
        let container: Container = serde_json::from_value(container).expect("container");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "test", "labels": {"app": "web"}}, "spec": {"containers": []},
        }))
        .expect("pod");
        let setting = Setting {
            pod: &pod,
            node: "node-a",
            addresses: &["10.20.0.5".parse().expect("address"), "fd00::5".parse().expect("address")],
            host_addresses: &["10.128.0.11".parse().expect("address")],
            directory: PathBuf::from("/run/c"),
            bodies: PathBuf::from("/run/body"),
            exe: PathBuf::from("/bin/twinplane"),
        };
        program(&container, &setting)
    }

    fn argv(container: Value) -> String {
        run(container).expect("program").argv.join(" ")
    }

    #[test]
    fn images_are_known_by_their_last_part() {
        for (image, kind) in [
            ("nginx", Image::Nginx),
            ("docker.io/library/nginx:1.29@sha256:0a", Image::Nginx),
            ("localhost:5000/nginx-unprivileged", Image::Nginx),
            ("twinplane/echo:1", Image::Echo),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", Image::Echo),
            ("nginxinc/other", Image::Unknown),
            ("", Image::Unknown),
        ] {
            assert_eq!(Image::of(image), kind, "{image}");
        }
    }

    #[test]
    fn nginx_listens_on_the_declared_ports_or_80() {
        let program = run(json!({"name": "c", "image": "nginx:1"})).expect("program");
        assert_eq!(program.argv[0], "nginx");
        assert_eq!(program.listens, Some(80));
        let declared = json!({"name": "c", "image": "nginx", "ports": [{"containerPort": 8080}, {"containerPort": 8443}]});
        let program = run(declared).expect("program");
        assert_eq!(program.listens, Some(8080));
        assert!(program.files[0].1.contains("listen 8443;"), "{}", program.files[0].1);
    }

    #[test]
    fn only_nginx_itself_is_asked_to_quit() {
        let signal = |container: Value| stop_signal(&serde_json::from_value(container).expect("container"));
        assert_eq!(signal(json!({"name": "c", "image": "nginx"})), StopSignal::Quit);
        assert_eq!(
            signal(json!({"name": "c", "image": "nginx", "command": ["sleep", "9"]})),
            StopSignal::Terminate
        );
        assert_eq!(signal(json!({"name": "c", "image": "echo"})), StopSignal::Terminate);
    }

    #[test]
    fn echo_takes_ports_from_agnhost_flags_or_the_declaration() {
        let base = "/bin/twinplane lab echo --pod web-0 --node node-a";
        assert_eq!(argv(json!({"name": "c", "image": "twinplane/echo"})), format!("{base} --port=8080"));
        let declared = json!({"name": "c", "image": "echo", "ports": [
            {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80},
        ]});
        assert_eq!(argv(declared), format!("{base} --port=80 --udp-port=53"));
        let netexec = json!({"name": "c", "image": "agnhost", "args": ["netexec", "--http-port=81", "--udp-port", "82"]});
        assert_eq!(argv(netexec), format!("{base} --port=81 --udp-port=82"));
    }

    #[test]
    fn any_image_runs_a_command() {
        let container = json!({"name": "c", "image": "busybox", "command": ["sleep"], "args": ["$(LONG)", "$$(X)", "$(X)"],
            "env": [{"name": "LONG", "value": "3600"}]});
        assert_eq!(argv(container), "sleep 3600 $(X) $(X)");
        let error = run(json!({"name": "c", "image": "busybox"})).expect_err("no command");
        assert_eq!(error.reason, "ErrImagePull");
        assert!(error.message.contains("\"busybox\""), "{}", error.message);
    }

    #[test]
    fn environment_has_the_downward_fields_and_refuses_what_it_cannot_have() {
        let from =
            |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let env = run(json!({"name": "c", "command": ["x"], "env": [
            from("IP", "status.podIP"), from("IPS", "status.podIPs"), from("HOST", "status.hostIP"),
            from("NODE", "spec.nodeName"), from("NAME", "metadata.name"), from("APP", "metadata.labels['app']"),
            {"name": "URL", "value": "http://$(IP)/"},
        ]}))
        .expect("program")
        .env;
        for (name, value) in [
            ("IP", "10.20.0.5"),
            ("IPS", "10.20.0.5,fd00::5"),
            ("HOST", "10.128.0.11"),
            ("NODE", "node-a"),
            ("NAME", "web-0"),
            ("APP", "web"),
            ("URL", "http://10.20.0.5/"),
            ("HOSTNAME", "web-0"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        let secret = json!({"name": "c", "command": ["x"], "env": [
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ]});
        assert_eq!(run(secret).expect_err("secret").reason, "CreateContainerConfigError");
    }
}
