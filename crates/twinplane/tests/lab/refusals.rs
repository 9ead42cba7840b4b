//! Manifests that are wrong: named by line and field, and what is right in them is there.

use super::*;

#[test]
fn bad_manifests_are_named_by_line_and_field_and_spoil_no_others() {
    let lab = Named::new();
    let manifest = "\
apiVersion: v1
kind: Namespace
metadata:
  name: good
---
apiVersion: v1
kind: Service
metadata:
  name: twice
  namespace: good
spec:
  ports:
  - {name: a, port: 80}
  - {name: a, port: 81}
---
apiVersion: v1
kind: Servise
metadata:
  name: misspelt
---
kind: [
---
apiVersion: v1
kind: Service
metadata:
  name: fine
  namespace: good
spec:
  ports:
  - port: 80
";
    let up = with_input(&lab, &["--nodes", "1", "--dataplane", "iptables", "-f", "-"], manifest);
    let (_, err) = texts(&up);
    assert_eq!(up.status.code(), Some(1), "{err}");
    for part in
        ["-:14: Service good/twice: spec.ports[1].name: Duplicate value", "-:17: Servise misspelt: kind: "]
    {
        assert!(err.contains(part), "{part} in\n{err}");
    }
    assert!(
        err.lines().any(|line| line.starts_with("error: -:21: ") || line.starts_with("error: -:22: ")),
        "{err}"
    );
    succeeded(&lab.lab("kubectl", &["--", "-n", "good", "get", "service", "fine"]));
    let missing = lab.lab("up", &["-f", "/nonexistent.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(texts(&missing).1.contains("/nonexistent.yaml"));
}
