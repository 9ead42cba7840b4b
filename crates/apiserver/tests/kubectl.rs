//! What people do with kubectl, done with the real one: the machine's and, where `$KUBECTL_OLD` names one, an old one.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Kubectl, eventually, squeezed};

const MANIFEST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: 'nginx:1', ports: [{containerPort: 80, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  clusterIP: 10.24.0.10
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.20.0.5], conditions: {ready: true}, nodeName: node-a}]
ports: [{name: http, port: 80, protocol: TCP}]
";

fn edited(from: &str, to: &str) -> String {
    assert!(MANIFEST.contains(from), "the manifest has {from}");
    MANIFEST.replace(from, to)
}

#[test]
fn apply_get_and_apply_again() {
    Kubectl::each(|kubectl| {
        let created = kubectl.ok_with("apply -f -", MANIFEST);
        assert_eq!(created.matches(" created").count(), 4, "{created}");
        let again = kubectl.ok_with("apply -f -", MANIFEST);
        assert_eq!(again.matches(" unchanged").count(), 4, "{again}");

        let table = squeezed(&kubectl.ok("-n shop get svc web"));
        assert!(table.starts_with("NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE\n"), "{table}");
        assert!(table.contains("web LoadBalancer 10.24.0.10 <pending> 80:30080/TCP "), "{table}");
        let wide = squeezed(&kubectl.ok("-n shop get deploy,svc -o wide"));
        assert!(wide.contains("deployment.apps/web 0/3 0 0 "), "{wide}");
        assert!(wide.contains("nginx nginx:1 app=web"), "{wide}");
        let all = kubectl.ok("get svc -A --sort-by .metadata.name --no-headers");
        assert!(all.contains("kubernetes") && all.contains("web"), "{all}");
        let yaml = kubectl.ok("-n shop get svc web -o yaml");
        for line in [
            "  internalTrafficPolicy: Cluster",
            "  sessionAffinity: None",
            "  - IPv4",
            "  healthCheckNodePort: 3",
        ] {
            assert!(yaml.contains(line), "{line} in {yaml}");
        }
        let names = kubectl.ok("-n shop get endpointslices -l kubernetes.io/service-name=web -o name");
        assert_eq!(names, "endpointslice.discovery.k8s.io/web-1\n");
        assert_eq!(kubectl.ok("get nodes -o jsonpath='{.items}'"), "[]");
    });
}

#[test]
fn editing_by_apply_merges_lists_by_their_keys() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let health = kubectl.ok("-n shop get svc web -o jsonpath='{.spec.healthCheckNodePort}'");
        let two = edited("nodePort: 30080}]", "nodePort: 30080}, {name: alt, port: 8080, targetPort: 8080}]");
        kubectl.ok_with("apply -f -", &two);
        let ports =
            kubectl.ok("-n shop get svc web -o jsonpath='{.spec.ports[*].port} {.spec.ports[0].nodePort}'");
        assert_eq!(ports, "80 8080 30080");
        let extra = kubectl.ok("-n shop get svc web -o jsonpath='{.spec.ports[1].nodePort}'");
        assert!((30000..=32767).contains(&extra.parse::<u16>().expect("a node port")), "{extra}");
        // What leaves the manifest leaves the object; what the server chose stays.
        kubectl.ok_with("apply -f -", MANIFEST);
        let ports = kubectl.ok("-n shop get svc web -o jsonpath='{.spec.ports[*].port}'");
        assert_eq!(ports, "80");
        assert_eq!(kubectl.ok("-n shop get svc web -o jsonpath='{.spec.healthCheckNodePort}'"), health);

        let image = edited("nginx:1", "nginx:2");
        let output = kubectl.ok_with("apply -f -", &image);
        assert!(output.contains("deployment.apps/web configured"), "{output}");
        let generation = kubectl.ok("-n shop get deploy web -o jsonpath='{.metadata.generation}'");
        assert_eq!(generation, "2");
    });
}

#[test]
fn diff_and_dry_run_change_nothing() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let same = kubectl.run_with("diff -f -", MANIFEST);
        assert!(same.ok, "{}{}", same.stdout, same.stderr);
        let cluster = edited("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster");
        let differs = kubectl.run_with("diff -f -", &cluster);
        assert!(!differs.ok && differs.stdout.contains("+  externalTrafficPolicy: Cluster"), "{differs:?}");
        kubectl.ok_with("apply --dry-run=server -f -", &cluster);
        let policy = kubectl.ok("-n shop get svc web -o jsonpath='{.spec.externalTrafficPolicy}'");
        assert_eq!(policy, "Local");
        kubectl.ok_with("apply -f -", &cluster);
        let spec = kubectl.ok("-n shop get svc web -o jsonpath='{.spec.healthCheckNodePort}'");
        assert_eq!(spec, "", "the health-check port goes with the policy");
    });
}

#[test]
fn describe() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let service = squeezed(&kubectl.ok("-n shop describe svc web"));
        for line in [
            "Type: LoadBalancer",
            "IP: 10.24.0.10",
            "NodePort: http 30080/TCP",
            "External Traffic Policy: Local",
        ] {
            assert!(service.contains(line), "{line} in {service}");
        }
        if !kubectl.old {
            assert!(service.contains("Endpoints: 10.20.0.5:80"), "{service}");
        }
        let deployment = squeezed(&kubectl.ok("-n shop describe deploy web"));
        assert!(
            deployment.contains("RollingUpdateStrategy: 25% max unavailable, 25% max surge"),
            "{deployment}"
        );
        let namespace = kubectl.ok("describe ns shop");
        assert!(namespace.contains("No resource quota.") && namespace.contains("Active"), "{namespace}");
        let node = "{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.20.0.0/24}}";
        kubectl.ok_with("apply -f -", node);
        let node = squeezed(&kubectl.ok("describe node node-a"));
        assert!(node.contains("PodCIDR: 10.20.0.0/24"), "{node}");
        assert!(node.contains("leases.coordination.k8s.io \"node-a\" not found") || kubectl.old, "{node}");
    });
}

#[test]
fn events_show_with_what_they_are_about() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let uid = kubectl.ok("-n shop get svc web -o jsonpath='{.metadata.uid}'");
        let event = format!(
            "{{apiVersion: v1, kind: Event, metadata: {{name: e1, namespace: shop}}, type: Normal, \
             reason: EnsuredLoadBalancer, message: Ensured load balancer, count: 1, \
             firstTimestamp: '2026-01-01T00:00:00Z', lastTimestamp: '2026-01-01T00:00:00Z', \
             source: {{component: service-controller}}, \
             involvedObject: {{apiVersion: v1, kind: Service, name: web, namespace: shop, uid: {uid}}}}}"
        );
        kubectl.ok_with("create -f -", &event);
        let described = kubectl.ok("-n shop describe svc web");
        assert!(described.contains("EnsuredLoadBalancer"), "{described}");
        let listed = squeezed(&kubectl.ok("-n shop get events"));
        assert!(listed.contains("Normal EnsuredLoadBalancer service/web Ensured load balancer"), "{listed}");
    });
}

#[test]
fn scale_label_annotate_patch_and_replace() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        kubectl.ok("-n shop scale deploy web --replicas 5");
        assert_eq!(kubectl.ok("-n shop get deploy web -o jsonpath='{.spec.replicas}'"), "5");
        let stale = kubectl.fails("-n shop scale deploy web --current-replicas 3 --replicas 1", "");
        assert!(stale.contains("xpected replicas"), "{stale}");
        kubectl.ok("-n shop label svc web tier=front");
        assert!(kubectl.ok("-n shop get svc -l 'tier in (front,back)' -o name").contains("service/web"));
        assert_eq!(kubectl.ok("-n shop get svc -l '!tier' -o name"), "");
        kubectl.ok("-n shop label svc web tier-");
        kubectl.ok("-n shop annotate svc web note=hello");
        assert_eq!(kubectl.ok("-n shop get svc web -o jsonpath='{.metadata.annotations.note}'"), "hello");
        kubectl.ok("-n shop patch svc web -p '{\"spec\":{\"ports\":[{\"port\":80,\"name\":\"www\"}]}}'");
        let name =
            kubectl.ok("-n shop get svc web -o jsonpath='{.spec.ports[0].name} {.spec.ports[0].nodePort}'");
        assert_eq!(name, "www 30080");
        let json = "[{\"op\":\"replace\",\"path\":\"/spec/externalTrafficPolicy\",\"value\":\"Cluster\"}]";
        kubectl.ok(&format!("-n shop patch svc web --type json -p '{json}'"));
        kubectl.ok("-n shop patch svc web --type merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'");
        let service = kubectl
            .ok("-n shop get svc web -o jsonpath='{.spec.type}:{.spec.ports[0].nodePort}:{.spec.clusterIP}'");
        assert_eq!(service, "ClusterIP::10.24.0.10");
        let yaml = kubectl.ok("-n shop get svc web -o yaml");
        kubectl.ok_with("replace -f -", &yaml.replace("name: www", "name: plain"));
        assert_eq!(kubectl.ok("-n shop get svc web -o jsonpath='{.spec.ports[0].name}'"), "plain");
        let conflict = kubectl.fails("replace -f -", &yaml);
        assert!(conflict.contains("the object has been modified"), "{conflict}");
    });
}

#[test]
fn watching_shows_changes_as_rows() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let mut watch = kubectl
            .command("-n shop get svc -w --output-watch-events")
            .stdout(Stdio::piped())
            .spawn()
            .expect("run kubectl get -w");
        let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
        let mut next = || squeezed(&lines.next().expect("another line").expect("text"));
        assert_eq!(next(), "EVENT NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE\n");
        assert!(next().starts_with("ADDED web LoadBalancer 10.24.0.10 <pending>"));
        let status = "{\"status\":{\"loadBalancer\":{\"ingress\":[{\"ip\":\"203.0.113.7\"}]}}}";
        put_status(kubectl, "web", status);
        let changed = next();
        assert!(changed.starts_with("MODIFIED web LoadBalancer 10.24.0.10 203.0.113.7"), "{changed}");
        kubectl.ok("-n shop delete svc web");
        let gone = next();
        assert!(gone.starts_with("DELETED web "), "{gone}");
        watch.kill().expect("end kubectl get -w");
        watch.wait().expect("wait for kubectl get -w");
    });
}

/// Writes a status as a controller does: kubectl before 1.24 has no `--subresource`.
fn put_status(kubectl: &Kubectl, service: &str, patch: &str) {
    let path = format!("/api/v1/namespaces/shop/services/{service}");
    let object = kubectl.ok(&format!("get --raw {path}"));
    let mut object: serde_json::Value = serde_json::from_str(&object).expect("an object");
    let patch: serde_json::Value = serde_json::from_str(patch).expect("a patch");
    object["status"] = patch["status"].clone();
    kubectl.ok_with(&format!("replace --raw {path}/status -f -"), &object.to_string());
}

#[test]
fn wait_and_rollout_status() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        let late = kubectl.fails("-n shop wait --for=condition=Available deploy/web --timeout=1s", "");
        assert!(late.contains("timed out"), "{late}");
        let wait = kubectl
            .command("-n shop wait --for=condition=Available deploy/web --timeout=20s")
            .stdout(Stdio::piped())
            .spawn()
            .expect("run kubectl wait");
        let path = "/apis/apps/v1/namespaces/shop/deployments/web";
        let object = kubectl.ok(&format!("get --raw {path}"));
        let mut object: serde_json::Value = serde_json::from_str(&object).expect("an object");
        object["status"] = serde_json::json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3,
            "readyReplicas": 3, "availableReplicas": 3,
            "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}]});
        kubectl.ok_with(&format!("replace --raw {path}/status -f -"), &object.to_string());
        let waited = wait.wait_with_output().expect("wait for kubectl wait");
        assert!(waited.status.success());
        let done = kubectl.ok("-n shop rollout status deploy web --timeout=10s");
        assert!(done.contains("successfully rolled out"), "{done}");
        assert!(squeezed(&kubectl.ok("-n shop get deploy web")).contains("web 3/3 3 3 "));
    });
}

#[test]
fn deleting_takes_what_is_owned_and_what_is_inside() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", MANIFEST);
        kubectl.ok("-n shop delete deploy web --timeout=10s");
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, \
            spec: {nodeName: node-a, containers: [{name: c, image: i}]}}";
        kubectl.ok_with("create -f -", pod);
        kubectl.ok("-n shop delete pod p --wait=false");
        assert!(kubectl.ok("-n shop get pods").contains("Terminating"));
        kubectl.ok("-n shop delete pod p --grace-period=0 --force");
        kubectl.ok("delete ns shop --timeout=10s");
        eventually("the namespace is gone", || !kubectl.run("get ns shop").ok);
        let gone = kubectl.fails("-n shop get svc web", "");
        assert!(gone.contains("not found"), "{gone}");
        // Its addresses and ports are free again.
        kubectl.ok_with("apply -f -", MANIFEST);
    });
}

#[test]
fn server_side_apply_and_its_conflicts() {
    Kubectl::each(|kubectl| {
        let manifest =
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: default}, data: {a: '1'}}";
        kubectl.ok_with("apply --server-side --field-manager=one -f -", manifest);
        let other = manifest.replace("'1'", "'2'");
        let conflict = kubectl.fails("apply --server-side --field-manager=two -f -", &other);
        assert!(conflict.contains("conflict with \"one\": .data.a"), "{conflict}");
        kubectl.ok_with("apply --server-side --field-manager=two --force-conflicts -f -", &other);
        assert_eq!(kubectl.ok("get cm c -o jsonpath='{.data.a}'"), "2");
        // From client-side apply to server-side apply.
        kubectl.ok_with("apply -f -", MANIFEST);
        kubectl.ok_with("apply --server-side --force-conflicts -f -", MANIFEST);
        assert_eq!(kubectl.ok("-n shop get svc web -o jsonpath='{.spec.clusterIP}'"), "10.24.0.10");
    });
}

#[test]
fn custom_resources() {
    const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: links.example.dev}
spec:
  group: example.dev
  scope: Cluster
  names: {plural: links, kind: Link, shortNames: [ln]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.lanes, statusReplicasPath: .status.lanes}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, required: [to], properties: {to: {type: string}, lanes: {type: integer, default: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
    additionalPrinterColumns:
    - {name: To, type: string, jsonPath: .spec.to}
    - {name: Up, type: string, jsonPath: '.status.conditions[?(@.type=="Up")].status'}
    - {name: Lanes, type: integer, jsonPath: .spec.lanes, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
"#;
    Kubectl::each(|kubectl| {
        kubectl.ok_with("apply -f -", DEFINITION);
        kubectl.ok("wait --for=condition=Established crd/links.example.dev --timeout=10s");
        kubectl.ok_with(
            "apply -f -",
            "{apiVersion: example.dev/v1, kind: Link, metadata: {name: l}, spec: {to: b}}",
        );
        let table = squeezed(&kubectl.ok("get ln"));
        assert!(table.starts_with("NAME TO UP AGE\nl b "), "{table}");
        assert!(squeezed(&kubectl.ok("get links -o wide")).starts_with("NAME TO UP LANES AGE\nl b 1 "));
        kubectl.ok("scale link/l --replicas 4");
        assert_eq!(kubectl.ok("get link l -o jsonpath='{.spec.lanes}'"), "4");
        let bare = "{apiVersion: example.dev/v1, kind: Link, metadata: {name: m}, spec: {}}";
        let missing = kubectl.fails("apply -f -", bare);
        assert!(missing.contains("spec.to: Required value"), "{missing}");
        let described = kubectl.ok("describe link l");
        assert!(described.contains("Lanes:") && described.contains("Events:"), "{described}");
        kubectl.ok("delete crd links.example.dev --timeout=10s");
        let unknown = kubectl.fails("get links", "");
        assert!(unknown.contains("resource type") || unknown.contains("could not find"), "{unknown}");
    });
}
