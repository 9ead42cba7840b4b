//! Bad input through the real kubectl: each error names the object, the field and what is wrong, in the words people
//! know, and what was there before stays.

mod common;

use common::Kubectl;

#[track_caller]
fn refused(kubectl: &Kubectl, manifest: &str, expected: &[&str]) {
    let error = kubectl.fails("create -f -", manifest);
    for part in expected {
        assert!(error.contains(part), "{part}\nis not in\n{error}\n(old: {})", kubectl.old);
    }
}

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: x, namespace: default}}, spec: {spec}}}")
}

#[test]
fn services_that_want_what_they_cannot_have() {
    Kubectl::each(|kubectl| {
        kubectl.ok_with(
            "create -f -",
            "{apiVersion: v1, kind: Service, metadata: {name: first}, \
             spec: {type: NodePort, clusterIP: 10.24.0.9, ports: [{port: 80, nodePort: 30080}]}}",
        );
        let refused = |spec: &str, expected: &[&str]| refused(kubectl, &service(spec), expected);
        refused(
            "{ports: [{name: a, port: 80}, {name: b, port: 80}]}",
            &["Service \"x\" is invalid: spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        );
        refused(
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            &[
                "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
            ],
        );
        refused(
            "{type: NodePort, ports: [{port: 80, nodePort: 80}]}",
            &[
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
            ],
        );
        refused(
            "{clusterIP: 192.0.2.1, ports: [{port: 80}]}",
            &[
                "spec.clusterIPs: Invalid value: [\"192.0.2.1\"]: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.24.0.0/20",
            ],
        );
        refused(
            "{clusterIP: 10.24.0.9, ports: [{port: 80}]}",
            &["failed to allocate IP 10.24.0.9: provided IP is already allocated"],
        );
        assert!(kubectl.ok("get svc first").contains("10.24.0.9"));
        let moved = kubectl.fails("patch svc first -p '{\"spec\":{\"clusterIP\":\"10.24.0.8\"}}'", "");
        assert!(
            moved.contains("spec.clusterIPs[0]: Invalid value: [\"10.24.0.8\"]: may not change once set"),
            "{moved}"
        );
    });
}

#[test]
fn services_with_bad_fields() {
    Kubectl::each(|kubectl| {
        let refused = |spec: &str, expected: &[&str]| refused(kubectl, &service(spec), expected);
        refused("{}", &["spec.ports: Required value"]);
        refused(
            "{ports: [{name: a, port: 0}, {name: a, port: 70000, protocol: ICMP}]}",
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].name: Duplicate value: \"a\"",
                "spec.ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        );
        refused(
            "{type: Balancer, sessionAffinity: Cookie, ports: [{port: 80}]}",
            &[
                "spec.type: Unsupported value: \"Balancer\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                "spec.sessionAffinity: Unsupported value: \"Cookie\"",
            ],
        );
        refused(
            "{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/40], externalIPs: [127.0.0.1], ports: [{port: 80}]}",
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/40\": must be a valid CIDR value",
            ],
        );
        refused(
            "{externalTrafficPolicy: Local, ports: [{port: 80}]}",
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        );
        refused(
            "{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}",
            &[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ],
        );
    });
}

#[test]
fn names_and_labels() {
    Kubectl::each(|kubectl| {
        let long = "a".repeat(64);
        refused(
            kubectl,
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {long}}}, spec: {{ports: [{{port: 1}}]}}}}"
            ),
            &["metadata.name: Invalid value:", "must be no more than 63 bytes"],
        );
        refused(
            kubectl,
            "{apiVersion: v1, kind: Service, metadata: {name: 1x}, spec: {ports: [{port: 1}]}}",
            &["metadata.name: Invalid value: \"1x\": a DNS-1035 label must consist of"],
        );
        refused(
            kubectl,
            "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}",
            &["metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of"],
        );
        refused(
            kubectl,
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: A_b, labels: {a b: c, d: 'e f'}}}",
            &[
                "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
                "metadata.labels: Invalid value: \"a b\": name part must consist of",
                "metadata.labels: Invalid value: \"e f\": a valid label must be an empty string",
            ],
        );
    });
}

#[test]
fn endpoint_slices() {
    let slice = |rest: &str| {
        format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s}}, {rest}}}")
    };
    Kubectl::each(|kubectl| {
        refused(
            kubectl,
            &slice("addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.300]}]"),
            &[
                "EndpointSlice \"s\" is invalid: endpoints[1].addresses[0]: Invalid value: \"10.0.0.300\": must be a valid IPv4 address",
            ],
        );
        refused(
            kubectl,
            &slice(
                "addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}, {addresses: ['::1']}, {addresses: []}]",
            ),
            &[
                "endpoints[0].addresses[0]: Invalid value: \"10.0.0.1\": must be a valid IPv6 address",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": may not be in the loopback range",
                "endpoints[2].addresses: Required value: must contain at least 1 address",
            ],
        );
        refused(
            kubectl,
            &slice("addressType: IPv4, endpoints: [], ports: [{port: 80}, {port: 81}]"),
            &["ports[1].name: Duplicate value: \"\""],
        );
        kubectl.ok_with("create -f -", &slice("addressType: IPv4, endpoints: []"));
        let changed = kubectl.fails("replace -f -", &slice("addressType: IPv6, endpoints: []"));
        assert!(changed.contains("addressType: Invalid value: \"IPv6\": field is immutable"), "{changed}");
    });
}

#[test]
fn deployments_and_policies() {
    let deployment = |label: &str, container: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{selector: {{matchLabels: {{app: a}}}}, \
             template: {{metadata: {{labels: {{app: {label}}}}}, spec: {{containers: [{container}]}}}}}}}}"
        )
    };
    Kubectl::each(|kubectl| {
        refused(
            kubectl,
            &deployment("b", "{name: c, image: i}"),
            &[
                "Deployment \"d\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
            ],
        );
        refused(
            kubectl,
            &deployment("a", "{name: C, ports: [{containerPort: 0}]}"),
            &[
                "spec.template.spec.containers[0].name: Invalid value: \"C\"",
                "spec.template.spec.containers[0].image: Required value",
                "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 0",
            ],
        );
        let policy = |peer: &str| {
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: policy}}, \
                 spec: {{podSelector: {{}}, ingress: [{{from: [{peer}], ports: [{{port: 90, endPort: 80}}]}}]}}}}"
            )
        };
        refused(
            kubectl,
            &policy("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}"),
            &[
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            ],
        );
        refused(
            kubectl,
            &policy("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}"),
            &["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"],
        );
        refused(kubectl, &policy("{}"), &["spec.ingress[0].from[0]: Required value: must specify a peer"]);
    });
}

#[test]
fn what_is_no_object_at_all() {
    Kubectl::each(|kubectl| {
        refused(kubectl, "{apiVersion: v1, kind: Gadget, metadata: {name: g}}", &["Gadget"]);
        refused(kubectl, "apiVersion: v1\nkind: [", &["error"]);
        let namespaced = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: nowhere}}";
        refused(kubectl, namespaced, &["namespaces \"nowhere\" not found"]);
        kubectl.ok_with("create -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}");
        refused(
            kubectl,
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}",
            &["Error from server (AlreadyExists)", "configmaps \"c\" already exists"],
        );
        if !kubectl.old {
            let typo = "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {prots: [], ports: [{port: http}]}}";
            refused(kubectl, typo, &["cannot be handled as a Service", "spec.ports[0].port"]);
            let typo = "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {prots: [], ports: [{port: 80}]}}";
            refused(kubectl, typo, &["strict decoding error: unknown field \"spec.prots\""]);
        }
        // Of a file with good and bad objects the good ones are made.
        let mixed = "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}\n---\n\
            {apiVersion: v1, kind: Service, metadata: {name: bad}}\n";
        let output = kubectl.run_with("apply -f -", mixed);
        assert!(!output.ok && output.stdout.contains("configmap/good created"), "{output:?}");
        assert!(
            output.stderr.contains("The Service \"bad\" is invalid: spec.ports: Required value"),
            "{output:?}"
        );
    });
}
