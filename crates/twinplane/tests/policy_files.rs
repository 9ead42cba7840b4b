//! `twinplane policy` on manifests and recorded flows, with the shipped command: exit codes, formats, words. Needs no root.

#[expect(dead_code, reason = "shared with tests of labs")]
mod common;

use std::{fs, path::Path, process::Output};

use common::{json, run, succeeded, texts};

const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.1.1}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front, role: frontend}}
status: {podIP: 10.0.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
status: {podIP: 10.0.1.3}
";

const POLICY: &str = "\
# Who may ask the shop.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from:
        - podSelector: {matchLabels: {role: frontend}}
      ports:
        - port: 80
";

/// A folder with both files; what is run in it has its names.
struct Shop(tempfile::TempDir);

impl Shop {
    fn new() -> Self {
        let shop = Self(tempfile::tempdir().expect("folder"));
        shop.write("objects.yaml", OBJECTS);
        shop.write("policy.yaml", POLICY);
        shop
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("write");
    }

    /// `twinplane policy <words>`, where a word with a dot in it is a file of the folder.
    fn policy(&self, words: &str) -> Output {
        let folder: &Path = self.0.path();
        let file = |word: &str| match word.contains(".yaml") || word.contains(".json") {
            true => folder.join(word).display().to_string(),
            false => word.to_owned(),
        };
        let words: Vec<String> = ["policy"].into_iter().chain(words.split(' ')).map(file).collect();
        run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn code(output: &Output) -> (Option<i32>, String) {
    let (out, err) = texts(output);
    (output.status.code(), out + &err)
}

#[test]
fn explain_names_rule_and_line_and_exits_by_the_verdict() {
    let shop = Shop::new();
    let ask = |rest: &str| {
        code(&shop.policy(&format!("explain {rest} --objects objects.yaml --objects policy.yaml")))
    };
    let (allowed, text) = ask("shop/front shop/web 80");
    assert_eq!(allowed, Some(0), "{text}");
    assert!(
        text.contains("NetworkPolicy shop/web ingress[0] (") && text.contains("policy.yaml:8)"),
        "{text}"
    );
    let (denied, text) = ask("shop/front shop/web 81/TCP");
    assert_eq!(denied, Some(1), "{text}");
    assert!(text.contains("port: 81/TCP is not 80/TCP"), "{text}");
    let (_, text) = ask("shop/other 10.0.1.1 80");
    assert!(text.contains("peer: pod shop/other is not role=frontend"), "{text}");
    let (unknown, text) = ask("shop/gone shop/web 80");
    assert_eq!((unknown, text.trim()), (Some(2), "Cannot be decided: there is no pod shop/gone"));
    assert_eq!(ask("shop/front shop/web http").0, Some(2));
    let words = "explain shop/other shop/web 80 -o json --objects objects.yaml --objects policy.yaml";
    let answer: serde_json::Value = serde_json::from_slice(&shop.policy(words).stdout).expect("JSON");
    assert_eq!(answer["verdict"], "deny");
    assert_eq!(answer["explanation"]["judgement"]["ingress"]["subject"]["name"], "web");
}

#[test]
fn simulate_and_diff_exit_one_where_something_changes() {
    let shop = Shop::new();
    let (broken, text) = code(&shop.policy("simulate -f policy.yaml --objects objects.yaml"));
    assert_eq!(broken, Some(1), "{text}");
    assert!(text.contains("shop/other (10.0.1.3) -> shop/web (10.0.1.1) 80/TCP"), "{text}");
    assert!(!text.contains("shop/front (10.0.1.2) -> shop/web (10.0.1.1) 80/TCP"), "{text}");
    let (same, text) =
        code(&shop.policy("simulate -f policy.yaml --objects objects.yaml --objects policy.yaml"));
    assert_eq!(same, Some(0), "{text}");
    let (nothing, text) = code(&shop.policy("simulate -f objects.yaml --objects objects.yaml"));
    assert!(nothing == Some(2) && text.contains("there is no policy in it"), "{text}");
    shop.write("wider.yaml", &POLICY.replace("{role: frontend}", "{app: other}"));
    let (differs, text) = code(&shop.policy("diff policy.yaml wider.yaml --objects objects.yaml"));
    assert_eq!(differs, Some(1), "{text}");
    assert!(text.starts_with("~ NetworkPolicy shop/web\n"), "{text}");
    assert_eq!(code(&shop.policy("diff policy.yaml policy.yaml --objects objects.yaml")).0, Some(0));
    let report = shop.policy("diff policy.yaml wider.yaml --objects objects.yaml -o json");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["changed"][0], "NetworkPolicy shop/web");
    assert!(report["connections"]["newlyAllowed"].as_array().is_some_and(|all| !all.is_empty()));
}

#[test]
fn matrix_and_lint_say_what_they_find() {
    let shop = Shop::new();
    let both = "--objects objects.yaml --objects policy.yaml";
    let table = succeeded(&shop.policy(&format!("matrix {both}")));
    assert!(table.lines().any(|line| line.contains("shop/front") && line.ends_with("#..")), "{table}");
    assert!(table.lines().any(|line| line.contains("shop/other") && line.ends_with(".#X")), "{table}");
    let svg = succeeded(&shop.policy(&format!("matrix 81 -o svg {both}")));
    assert!(svg.starts_with("<svg") && svg.contains("shop/front -&gt; shop/web 81/TCP: denied"), "{svg}");
    assert_eq!(
        json(&shop.policy(&format!("matrix -o json {both}")))["pods"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(code(&shop.policy(&format!("lint {both}"))), (Some(0), String::new()));
    shop.write("doubtful.yaml", &POLICY.replace("app: web", "app: wep").replace("port: 80", "port: http"));
    let (found, text) = code(&shop.policy("lint -f doubtful.yaml --objects objects.yaml"));
    assert_eq!(found, Some(1), "{text}");
    assert!(text.contains("SelectsNothing") && text.contains("UnknownPortName"), "{text}");
    assert_eq!(code(&shop.policy("lint --objects missing.yaml")).0, Some(2));
}

#[test]
fn suggestions_from_recorded_flows_allow_them_and_simulate_agrees() {
    let shop = Shop::new();
    let end =
        |name: &str| format!(r#"{{"namespace":"shop","pod_name":"{name}","labels":["k8s:app={name}"]}}"#);
    let flow = format!(
        r#"{{"flow":{{"verdict":"FORWARDED","is_reply":false,"event_type":{{"type":4}},"IP":{{"source":"10.0.1.2","destination":"10.0.1.1"}},"l4":{{"TCP":{{"destination_port":80,"flags":{{"SYN":true}}}}}},"source":{},"destination":{}}}}}"#,
        end("front"),
        end("web")
    );
    shop.write("flows.json", &flow);
    let written =
        succeeded(&shop.policy("suggest --namespace shop --flows flows.json --objects objects.yaml"));
    assert!(written.contains("name: allow-web") && written.contains("name: allow-front"), "{written}");
    shop.write("suggested.yaml", &written);
    let same = shop.policy("simulate -f suggested.yaml --flows flows.json --objects objects.yaml");
    assert_eq!(code(&same).0, Some(0), "{:?}", texts(&same));
    let all = shop.policy("simulate -f suggested.yaml --objects objects.yaml");
    assert_eq!(code(&all).0, Some(1), "what was not seen is denied");
    let nothing = shop.policy("suggest --namespace empty --flows flows.json --objects objects.yaml");
    assert_eq!(code(&nothing).0, Some(1));
}
