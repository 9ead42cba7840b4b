//! The controllers against the embedded API, with real namespaces, real nginx and a CNI plugin made of a script.
//!
//! Needs root. Every test has its own API, its own lab name and so its own namespaces; nothing outlives it.

mod harness;

use harness::{Cluster, Cni, deployment, pod, running_pods};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_serves_scales_and_goes() {
    let cluster = Cluster::start("rollout", Cni::Works).await;
    cluster.create(deployment("nginx", 3, "nginx:1.29")).await;
    let deployment = cluster
        .until("Deployment available", "apps/v1", "deployments", "nginx", |object| {
            condition(object, "Available") == "True" && object["status"]["readyReplicas"] == 3
        })
        .await;
    assert_eq!(deployment["status"]["observedGeneration"], deployment["metadata"]["generation"]);
    assert_eq!(deployment["status"]["updatedReplicas"], 3);

    let pods = cluster.list("v1", "pods").await;
    let mut per_node = std::collections::BTreeMap::<_, usize>::new();
    for pod in &pods {
        let (name, node) = (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]));
        assert!(name.starts_with("nginx-") && name.split('-').count() == 3, "{name}");
        *per_node.entry(node.clone()).or_default() += 1;
        // The real nginx, in the pod's own namespace, on the address the plugin gave.
        let address = text(&pod["status"]["podIP"]);
        let body = cluster.curl(pod, &format!("http://{address}/"));
        assert_eq!(body, format!("pod={name} node={node} client={address}\n"));
    }
    assert_eq!(per_node.into_values().collect::<Vec<_>>(), [2, 1]);

    cluster.merge("apps/v1", "deployments", "nginx", json!({"spec": {"replicas": 1}})).await;
    cluster.until_count("v1", "pods", 1).await;
    assert_eq!(cluster.pod_namespaces(), 1);
    assert_eq!(cluster.cni_calls("DEL"), 2);

    cluster.delete("apps/v1", "deployments", "nginx").await;
    cluster.until_count("v1", "pods", 0).await;
    cluster.until_count("apps/v1", "replicasets", 0).await;
    assert_eq!(cluster.cni_calls("ADD"), cluster.cni_calls("DEL"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_template_replaces_every_pod_and_keeps_service() {
    let cluster = Cluster::start("update", Cni::Works).await;
    cluster.create(deployment("nginx", 3, "nginx:1")).await;
    cluster.create(harness::service("nginx", json!({"type": "ClusterIP"}))).await;
    cluster.until_ready_endpoints("nginx", 3).await;
    let available = |object: &Value| object["status"]["availableReplicas"] == 3;
    cluster.until("first rollout", "apps/v1", "deployments", "nginx", available).await;
    let before = running_pods(&cluster.list("v1", "pods").await);
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}}});
    cluster.merge("apps/v1", "deployments", "nginx", image).await;
    let least = std::sync::atomic::AtomicUsize::new(3);
    cluster
        .until("rollout complete", "apps/v1", "deployments", "nginx", |object| {
            let available = object["status"]["availableReplicas"].as_u64().unwrap_or(0);
            least.fetch_min(usize::try_from(available).expect("small"), std::sync::atomic::Ordering::Relaxed);
            object["status"]["updatedReplicas"] == 3
                && object["status"]["replicas"] == 3
                && object["status"]["availableReplicas"] == 3
                && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        })
        .await;
    assert_eq!(least.into_inner(), 3, "25% of three rounds down: never fewer than all");
    cluster.until_count("v1", "pods", 3).await;
    let after = running_pods(&cluster.list("v1", "pods").await);
    assert!(before.iter().all(|name| !after.contains(name)), "{before:?} {after:?}");
    cluster.until_ready_endpoints("nginx", 3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_sees_what_it_expects() {
    if !harness::has("kubectl") {
        eprintln!("skipped: no kubectl in PATH");
        return;
    }
    let cluster = Cluster::start("kubectl", Cni::Works).await;
    cluster.create(deployment("nginx", 2, "nginx")).await;
    let out = cluster.kubectl(&["rollout", "status", "deployment/nginx", "--timeout=60s"]).await;
    assert!(out.contains("successfully rolled out"), "{out}");
    cluster.kubectl(&["wait", "--for=condition=Available", "deployment/nginx", "--timeout=60s"]).await;
    let out = cluster.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(out.lines().filter(|line| line.contains(" Ready ")).count(), 2, "{out}");
    let out = cluster.kubectl(&["describe", "deployment", "nginx"]).await;
    assert!(out.contains("ScalingReplicaSet") && out.contains("2 available"), "{out}");
    let out = cluster.kubectl(&["describe", "node", "node-a"]).await;
    assert!(out.contains("KubeletReady") && out.contains("HolderIdentity:  node-a"), "{out}");
    cluster.kubectl(&["scale", "deployment", "nginx", "--replicas=1"]).await;
    cluster.until_count("v1", "pods", 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_service_gets_follows_and_loses_its_address() {
    let cluster = Cluster::start("lb", Cni::Works).await;
    cluster.create(harness::service("web", json!({"type": "LoadBalancer"}))).await;
    let service = cluster
        .until("address in status", "v1", "services", "web", |object| {
            object["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
        })
        .await;
    let ingress = &service["status"]["loadBalancer"]["ingress"][0];
    assert_eq!((text(&ingress["ip"]), text(&ingress["ipMode"])), ("203.0.113.1".into(), "VIP".into()));
    let uid = text(&service["metadata"]["uid"]);
    let pool = lab::edge::load_balancer_name(&uid);
    assert_eq!(service["metadata"]["annotations"]["lab.twinplane.dev/target-pool"], json!(pool));
    assert_eq!(cluster.balancers.spec(&uid).expect("told").health_check.port.get(), 10256);
    cluster.until_event("web", "EnsuringLoadBalancer").await;
    let event = cluster.until_event("web", "EnsuredLoadBalancer").await;
    assert_eq!(event["count"], 1, "its own address is no reason to ensure again");

    cluster.merge("v1", "services", "web", json!({"spec": {"externalTrafficPolicy": "Local"}})).await;
    let service = cluster
        .until("health port", "v1", "services", "web", |object| {
            object["spec"]["healthCheckNodePort"].is_i64()
        })
        .await;
    let port = service["spec"]["healthCheckNodePort"].as_u64();
    cluster
        .poll("the pool asks the Service's own port", async || {
            cluster.balancers.spec(&uid).map(|spec| u64::from(spec.health_check.port.get())) == port
        })
        .await;

    cluster.balancers.refuse("no quota left");
    cluster.merge("v1", "services", "web", json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await;
    let event = cluster.until_event("web", "SyncLoadBalancerFailed").await;
    assert!(text(&event["message"]).ends_with("no quota left"), "{event}");
    cluster.balancers.accept();
    cluster
        .poll("tried again by itself", async || {
            cluster.balancers.spec(&uid).is_some_and(|spec| spec.health_check.port.get() == 10256)
        })
        .await;

    cluster.delete("v1", "services", "web").await;
    cluster.until_gone("v1", "services", "web").await;
    assert!(cluster.balancers.spec(&uid).is_none(), "the finalizer waited for the load balancer");
    cluster.until_event("web", "DeletedLoadBalancer").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_is_graceful_and_then_not() {
    let cluster = Cluster::start("grace", Cni::Works).await;
    let polite = "trap 'echo asked >> asked; exit 0' TERM; touch up; while :; do sleep 0.02; done";
    let stubborn = "trap 'echo asked >> asked' TERM; touch up; while :; do sleep 0.02; done";
    cluster.create(pod("polite", json!({"command": ["sh", "-c", polite]}), 60)).await;
    cluster.create(pod("stubborn", json!({"command": ["sh", "-c", stubborn]}), 2)).await;
    let mut uids = vec![];
    for name in ["polite", "stubborn"] {
        let pod = cluster.until_ready(name).await;
        let uid = text(&pod["metadata"]["uid"]);
        cluster.poll("trap is set", async || cluster.file(&uid, "c/up").is_some()).await;
        uids.push(uid);
    }
    let begun = std::time::Instant::now();
    cluster.delete("v1", "pods", "polite").await;
    cluster.until_gone("v1", "pods", "polite").await;
    assert!(begun.elapsed().as_secs() < 30, "it did not wait for its grace period");
    let begun = std::time::Instant::now();
    cluster.delete("v1", "pods", "stubborn").await;
    cluster.poll("was asked", async || cluster.file(&uids[1], "c/asked").is_some()).await;
    let terminating = cluster.get("v1", "pods", "stubborn").await.expect("still there");
    assert!(terminating["metadata"]["deletionTimestamp"].is_string());
    cluster.until_gone("v1", "pods", "stubborn").await;
    assert!(begun.elapsed().as_millis() >= 1000, "it had its grace period: {:?}", begun.elapsed());
    cluster.until_event("stubborn", "Killing").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminating_pod_stays_an_endpoint_that_serves() {
    let cluster = Cluster::start("terminating", Cni::Works).await;
    let mut spec = pod("web", json!({"image": "nginx"}), 30);
    spec["metadata"]["labels"] = json!({"app": "web"});
    spec["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["sleep", "2"]}}});
    cluster.create(spec).await;
    cluster.create(harness::service("web", json!({}))).await;
    cluster.until_ready_endpoints("web", 1).await;
    cluster.delete("v1", "pods", "web").await;
    let conditions = cluster
        .until_slice("terminating endpoint", "web", |slice| {
            slice["endpoints"][0]["conditions"]["terminating"] == true
        })
        .await["endpoints"][0]["conditions"]
        .clone();
    assert_eq!(conditions, json!({"ready": false, "serving": true, "terminating": true}));
    cluster.until_gone("v1", "pods", "web").await;
    cluster
        .until_slice("no endpoint", "web", |slice| slice["endpoints"].as_array().is_none_or(Vec::is_empty))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_container_is_restarted_and_then_backs_off() {
    let cluster = Cluster::start("crash", Cni::Works).await;
    cluster.create(pod("crash", json!({"command": ["sh", "-c", "exit 7"]}), 1)).await;
    let pod = cluster
        .until("CrashLoopBackOff", "v1", "pods", "crash", |object| {
            object["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(condition(&pod, "Ready"), "False");
    cluster.until_event("crash", "BackOff").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nginx_comes_back_in_the_same_network() {
    let cluster = Cluster::start("restart", Cni::Works).await;
    cluster.create(pod("web", json!({"image": "nginx"}), 5)).await;
    let pod = cluster.until_ready("web").await;
    let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
    let pid: i32 = id.strip_prefix("twinplane://").and_then(|pid| pid.parse().ok()).expect("pid");
    // The pid is that of a process that this kubelet started and that is alive: nobody else has it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    let again = cluster
        .until("restarted", "v1", "pods", "web", |object| {
            object["status"]["containerStatuses"][0]["restartCount"] == 1
                && condition(object, "Ready") == "True"
        })
        .await;
    assert_eq!(again["status"]["podIP"], pod["status"]["podIP"]);
    assert_eq!(again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    let address = text(&again["status"]["podIP"]);
    assert_eq!(cluster.curl(&again, &format!("http://{address}/healthz")), "ok\n");
    assert_eq!(cluster.cni_calls("ADD"), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusing_plugin_is_reported_and_tried_again() {
    let cluster = Cluster::start("cni", Cni::RefusesTwice).await;
    cluster.create(pod("web", json!({"image": "nginx"}), 5)).await;
    let event = cluster.until_event("web", "FailedCreatePodSandBox").await;
    let message = text(&event["message"]);
    assert!(message.contains("plugin type=\"twinplane\" failed (add): out of addresses"), "{message}");
    cluster.until_ready("web").await;
    assert_eq!((cluster.cni_calls("ADD"), cluster.cni_calls("DEL")), (3, 2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_life() {
    let cluster = Cluster::start("probes", Cni::Works).await;
    let mut web = pod("web", json!({"image": "nginx"}), 5);
    web["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", cluster.scratch("open")]}, "periodSeconds": 1, "failureThreshold": 1});
    cluster.create(web).await;
    let mut sick = pod("sick", json!({"command": ["sleep", "1000"]}), 5);
    sick["spec"]["containers"][0]["livenessProbe"] =
        json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1});
    cluster.create(sick).await;
    let event = cluster.until_event("web", "Unhealthy").await;
    assert!(text(&event["message"]).starts_with("Readiness probe failed: "), "{event}");
    std::fs::write(cluster.scratch("open"), "").expect("write");
    cluster.until_ready("web").await;
    std::fs::remove_file(cluster.scratch("open")).expect("remove");
    cluster.until("unready again", "v1", "pods", "web", |object| condition(object, "Ready") == "False").await;
    cluster
        .until("killed by its liveness probe", "v1", "pods", "sick", |object| {
            object["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_says_so_and_pods_that_end_have_ended() {
    let cluster = Cluster::start("ends", Cni::Works).await;
    cluster.create(pod("unknown", json!({"image": "postgres:17"}), 1)).await;
    let waiting = cluster
        .until("ErrImagePull", "v1", "pods", "unknown", |object| {
            object["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    let message = text(&waiting["status"]["containerStatuses"][0]["state"]["waiting"]["message"]);
    assert!(message.contains("\"postgres:17\""), "{message}");
    for (name, script, phase) in [("good", "exit 0", "Succeeded"), ("bad", "exit 3", "Failed")] {
        let mut job = pod(name, json!({"command": ["sh", "-c", script]}), 1);
        job["spec"]["restartPolicy"] = "Never".into();
        cluster.create(job).await;
        cluster.until(phase, "v1", "pods", name, |object| object["status"]["phase"] == phase).await;
    }
    // Both gave their network back; the waiting one keeps its own.
    cluster.poll("networks are given back", async || cluster.pod_namespaces() == 1).await;
    let mut host = pod("host", json!({"image": "nginx", "ports": [{"containerPort": 8080}]}), 5);
    host["spec"]["hostNetwork"] = true.into();
    host["spec"]["nodeName"] = "node-b".into();
    cluster.create(host).await;
    let host = cluster.until_ready("host").await;
    assert_eq!(host["status"]["podIP"], "10.128.0.12");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_supervisor_cleans_up_what_the_first_left() {
    let cluster = Cluster::start("again", Cni::Works).await;
    cluster.create(pod("web", json!({"image": "nginx"}), 5)).await;
    let pod = cluster.until_ready("web").await;
    // The first one goes without a word: its tasks stop where they are.
    let cluster = cluster.restart().await;
    let uid = text(&pod["metadata"]["uid"]);
    let again = cluster.until_ready("web").await;
    assert_eq!((text(&again["metadata"]["uid"]), &again["status"]["podIP"]), (uid, &pod["status"]["podIP"]));
    assert_eq!(cluster.cni_calls("ADD"), 1, "its network was kept");
    cluster.delete("v1", "pods", "web").await;
    cluster.until_gone("v1", "pods", "web").await;
    assert_eq!((cluster.pod_namespaces(), cluster.cni_calls("DEL")), (0, 1));
    cluster.stop().await;
}

#[test]
fn nothing_outlives_a_killed_supervisor() {
    let mut victim = harness::victim("a_supervisor_to_be_killed");
    let processes = victim.processes();
    assert!(processes.len() >= 4, "nginx with its worker, a shell with its child: {processes:?}");
    assert!(processes.iter().all(lab::process::ProcessId::is_alive));
    victim.kill();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Some(alive) = processes.iter().find(|process| process.is_alive()) {
        assert!(std::time::Instant::now() < deadline, "{alive:?} outlives its supervisor");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started and killed by nothing_outlives_a_killed_supervisor"]
async fn a_supervisor_to_be_killed() {
    let cluster = Cluster::start("victim", Cni::Works).await;
    cluster.create(pod("web", json!({"image": "nginx"}), 5)).await;
    cluster.create(pod("shell", json!({"command": ["sh", "-c", "sleep 1000 & wait"]}), 5)).await;
    for name in ["web", "shell"] {
        cluster.until_ready(name).await;
    }
    println!("{}{}", harness::READY, cluster.scratch("processes"));
    std::future::pending::<()>().await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    condition.map(|condition| text(&condition["status"])).unwrap_or_default()
}
