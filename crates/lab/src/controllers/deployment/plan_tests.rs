//! A Deployment's life as a table of passes, with a pretend ReplicaSet controller that makes pods available.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use serde_json::json;

use super::*;

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "nginx", "namespace": "test", "uid": "d-1", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{"name": "nginx", "image": image}]},
            },
        },
    }))
    .expect("deployment")
}

/// One Deployment and its ReplicaSets; applies what is planned.
struct Cluster {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    created: i64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: vec![], created: 0 }
    }

    fn pass(&mut self) -> Vec<Action> {
        let plan = plan(&self.deployment, &self.sets, &[], Timestamp::UNIX_EPOCH);
        for action in plan.actions.clone() {
            self.apply(action);
        }
        plan.actions
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Adopt(_) => panic!("nothing to adopt"),
            Action::Create(mut set) => {
                self.created += 1;
                set.metadata.uid = Some(format!("rs-{}", self.created));
                set.metadata.creation_timestamp = Some(super::super::super::meta::api_time(
                    Timestamp::from_second(self.created).expect("time"),
                ));
                self.sets.push(Arc::new(*set));
            }
            Action::Scale { set, replicas, annotations } => self.edit(&set, |set| {
                set.spec.as_mut().expect("spec").replicas = Some(replicas);
                set.metadata.annotations.get_or_insert_default().extend(annotations.clone());
            }),
            Action::Delete(set) => self.sets.retain(|other| other.metadata.uid != set.metadata.uid),
            Action::SetRevision(revision) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(REVISION.to_owned(), revision);
            }
            Action::SetStatus(status) => self.deployment.status = Some(*status),
        }
    }

    fn edit(&mut self, which: &ReplicaSet, change: impl Fn(&mut ReplicaSet)) {
        let set = self.sets.iter_mut().find(|set| set.metadata.uid == which.metadata.uid).expect("set");
        change(Arc::make_mut(set));
    }

    /// Every pod that is wanted exists and is available; nothing else exists.
    fn pods_follow(&mut self) {
        for set in &mut self.sets {
            let wanted = size(set).wanted;
            Arc::make_mut(set).status = Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(wanted),
                available_replicas: Some(wanted),
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn converge(&mut self) {
        for _ in 0..100 {
            if self.pass().is_empty() {
                return;
            }
            self.pods_follow();
        }
        panic!("does not converge: {:?}", self.sets);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| size(set).wanted).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
        let condition = conditions.expect("conditions").iter().find(|c| c.type_ == kind).expect(kind);
        (condition.status.clone(), condition.reason.clone().expect("reason"))
    }
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_new_deployment_gets_one_replica_set_with_the_real_names_and_labels() {
    let mut cluster = Cluster::new(deployment(3, "nginx"));
    cluster.pass();
    let set = &cluster.sets[0];
    let hash = &set.metadata.labels.as_ref().expect("labels")[HASH];
    assert_eq!(set.metadata.name.as_deref(), Some(format!("nginx-{hash}").as_str()));
    let spec = set.spec.as_ref().expect("spec");
    assert_eq!(&spec.selector.match_labels.as_ref().expect("selector")[HASH], hash);
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).expect("template");
    assert_eq!(&template.labels.as_ref().expect("labels")[HASH], hash);
    assert_eq!(spec.replicas, Some(3));
    assert_eq!(set.metadata.owner_references.as_ref().expect("owner")[0].uid, "d-1");
}

#[test]
fn status_follows_the_rollout_until_it_is_complete() {
    let mut cluster = Cluster::new(deployment(3, "nginx"));
    while !cluster.pass().is_empty() {}
    assert_eq!(cluster.condition("Available"), pair("False", "MinimumReplicasUnavailable"));
    assert_eq!(cluster.condition("Progressing"), pair("True", "NewReplicaSetCreated"));
    cluster.pods_follow();
    cluster.converge();
    assert_eq!(cluster.condition("Available"), pair("True", "MinimumReplicasAvailable"));
    assert_eq!(cluster.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
    let status = cluster.deployment.status.as_ref().expect("status");
    assert_eq!(
        (status.replicas, status.ready_replicas, status.updated_replicas),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!((status.unavailable_replicas, status.observed_generation), (None, Some(1)));
}

#[test]
fn a_changed_template_moves_all_replicas_to_a_new_set_and_back_again() {
    let mut cluster = Cluster::new(deployment(3, "nginx:1"));
    cluster.converge();
    let first = cluster.deployment.spec.clone();
    cluster.deployment.spec = deployment(3, "nginx:2").spec;
    cluster.converge();
    assert_eq!(cluster.sizes(), [0, 3]);
    assert_eq!(cluster.deployment.metadata.annotations.as_ref().expect("annotations")[REVISION], "2");
    // `rollout undo`: the old set is used again, under a new revision.
    cluster.deployment.spec = first;
    cluster.converge();
    assert_eq!(cluster.sizes(), [3, 0]);
    assert_eq!(cluster.deployment.metadata.annotations.as_ref().expect("annotations")[REVISION], "3");
    assert_eq!(cluster.sets[0].metadata.annotations.as_ref().expect("annotations")[REVISION], "3");
}

#[test]
fn scaling_keeps_the_replica_set() {
    let mut cluster = Cluster::new(deployment(3, "nginx"));
    cluster.converge();
    cluster.deployment.spec.as_mut().expect("spec").replicas = Some(1);
    cluster.converge();
    assert_eq!(cluster.sizes(), [1]);
    cluster.deployment.spec.as_mut().expect("spec").replicas = Some(0);
    cluster.converge();
    assert_eq!(cluster.sizes(), [0]);
    assert_eq!(cluster.condition("Available"), pair("True", "MinimumReplicasAvailable"));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut cluster = Cluster::new(deployment(3, "nginx:1"));
    cluster.converge();
    cluster.deployment.spec = deployment(5, "nginx:2").spec;
    cluster.deployment.spec.as_mut().expect("spec").paused = Some(true);
    cluster.converge();
    assert_eq!(cluster.sizes(), [5]);
    cluster.deployment.spec.as_mut().expect("spec").paused = None;
    cluster.converge();
    assert_eq!(cluster.sizes(), [0, 5]);
}

#[test]
fn history_beyond_the_limit_is_deleted_oldest_first() {
    let mut cluster = Cluster::new(deployment(1, "nginx:0"));
    cluster.converge();
    for version in 1..=3 {
        let mut spec = deployment(1, &format!("nginx:{version}")).spec.expect("spec");
        spec.revision_history_limit = Some(1);
        cluster.deployment.spec = Some(spec);
        cluster.converge();
    }
    let images: Vec<_> = cluster.sets.iter().map(|set| set.metadata.uid.as_deref().expect("uid")).collect();
    assert_eq!(images, ["rs-3", "rs-4"]);
}

#[test]
fn a_rollout_that_does_not_move_fails_its_deadline() {
    let mut cluster = Cluster::new(deployment(2, "nginx"));
    while !cluster.pass().is_empty() {}
    let late = Timestamp::from_second(601).expect("time");
    let planned = plan(&cluster.deployment, &cluster.sets, &[], late);
    let [Action::SetStatus(status)] = planned.actions.as_slice() else { panic!("{:?}", planned.actions) };
    cluster.deployment.status = Some((**status).clone());
    assert_eq!(cluster.condition("Progressing"), pair("False", "ProgressDeadlineExceeded"));
    let early = plan(&Cluster::new(deployment(2, "nginx")).deployment, &cluster.sets, &[], late);
    assert!(early.again_after.is_none(), "a plan with other work does not wait for the deadline");
}

#[test]
fn orphans_are_adopted_before_anything_is_counted() {
    let mut cluster = Cluster::new(deployment(3, "nginx"));
    cluster.converge();
    let orphans: Vec<_> = cluster.sets.iter().collect();
    let planned = plan(&cluster.deployment, &[], &orphans, Timestamp::UNIX_EPOCH);
    assert_eq!(planned.actions, [Action::Adopt(Arc::clone(orphans[0]))]);
}
