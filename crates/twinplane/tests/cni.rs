//! The shipped binary as a container runtime calls it. Attaching real pods is in the agent's and the lab's tests.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// Calls the plugin; returns whether it succeeded, and its answer.
fn call(command: &str, environment: &[(&str, &str)], config: &Value) -> (bool, Value) {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_twinplane"))
        .env("CNI_COMMAND", command)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    let mut stdin = plugin.stdin.take().expect("stdin");
    stdin.write_all(config.to_string().as_bytes()).expect("write");
    drop(stdin);
    let output = plugin.wait_with_output().expect("end");
    let answer = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    (output.status.success(), answer)
}

fn config(socket: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "twinplane", "socket": socket})
}

#[test]
fn version_names_every_version_it_answers_in() {
    let (success, answer) = call("VERSION", &[], &json!({"cniVersion": "1.0.0"}));
    assert!(success);
    let supported = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(answer, json!({"cniVersion": "1.0.0", "supportedVersions": supported}));
}

#[test]
fn without_an_agent_the_runtime_is_told_to_try_again_or_that_no_pod_can_be_attached() {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("none.sock").display().to_string();
    let pod = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/none")];
    for (command, code) in [("ADD", 11), ("DEL", 11), ("STATUS", 50)] {
        let (success, answer) = call(command, &pod, &config(&socket));
        assert!(!success, "{command}");
        assert_eq!((&answer["cniVersion"], &answer["code"]), (&json!("1.1.0"), &json!(code)), "{command}");
        assert!(answer["msg"].as_str().is_some_and(|msg| msg.contains(&socket)), "{answer}");
    }
}

#[test]
fn a_call_that_makes_no_sense_is_refused_with_the_specs_code() {
    for (command, environment, config, code) in [
        ("ADD", &[][..], config("/none"), 4),
        ("FROB", &[], config("/none"), 4),
        ("ADD", &[], json!({"cniVersion": "7.0.0"}), 1),
        ("ADD", &[], json!("no object"), 6),
    ] {
        let (success, answer) = call(command, environment, &config);
        assert!(!success);
        assert_eq!(answer["code"], code, "{answer}");
    }
}
