//! Applies manifests through the API, by server-side apply, and maps refusals back to file and line.

use std::{collections::HashMap, io, path::Path};

use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams, ValidationDirective},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind, Status, TypeMeta},
    discovery::{self, Scope},
};

use super::{Manifest, Problem};

/// Owner of the fields that a lab's manifests set.
const FIELD_MANAGER: &str = "twinplane-lab";

/// What became of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub applied: Vec<Applied>,
    /// Refused objects; the others are applied.
    pub problems: Vec<Problem>,
}

/// One object that is now as its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `Service netflow-test/nginx`
    pub object: String,
}

/// The API cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("start a runtime to apply manifests")]
    Runtime(#[source] io::Error),
    #[error("read {path} to apply manifests")]
    Kubeconfig {
        path: String,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("apply manifests")]
    Client(#[source] kube::Error),
}

/// Applies every manifest. Blocking; on a thread of its own, so that callers may be on any runtime.
///
/// Namespaces and kinds come before what needs them; otherwise the order stays.
///
/// # Errors
/// The API cannot be reached. Refused objects are in the report.
pub fn apply(kubeconfig: &Path, manifests: &[Manifest]) -> Result<Report, ApplyError> {
    let work = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(ApplyError::Runtime)?;
        runtime.block_on(async {
            let client = client(kubeconfig).await?;
            apply_all(&client, manifests).await
        })
    };
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

async fn client(kubeconfig: &Path) -> Result<Client, ApplyError> {
    let failed = |source| ApplyError::Kubeconfig { path: kubeconfig.display().to_string(), source };
    let read = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(failed)?;
    Client::try_from(config).map_err(ApplyError::Client)
}

async fn apply_all(client: &Client, manifests: &[Manifest]) -> Result<Report, ApplyError> {
    let mut ordered: Vec<_> = manifests.iter().collect();
    ordered.sort_by_key(|manifest| match manifest.kind.as_str() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        _ => 2,
    });
    let mut report = Report::default();
    let mut kinds = HashMap::new();
    for manifest in ordered {
        match apply_one(client, &mut kinds, manifest).await {
            Ok(applied) => report.applied.push(applied),
            Err(Refusal::Object(problems)) => report.problems.extend(problems),
            Err(Refusal::Api(error)) => return Err(ApplyError::Client(error)),
        }
    }
    Ok(report)
}

enum Refusal {
    Object(Vec<Problem>),
    Api(kube::Error),
}

type Kinds = HashMap<GroupVersionKind, (ApiResource, Scope)>;

async fn apply_one(client: &Client, kinds: &mut Kinds, manifest: &Manifest) -> Result<Applied, Refusal> {
    let (resource, scope) = kind_of(client, kinds, manifest).await?;
    let namespace = manifest.namespace.as_deref().unwrap_or("default");
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let parameters = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(FIELD_MANAGER).force()
    };
    match api.patch(&manifest.name, &parameters, &Patch::Apply(manifest.root.to_json())).await {
        Ok(_) => Ok(Applied { object: manifest.object() }),
        Err(kube::Error::Api(status)) => Err(Refusal::Object(problems(manifest, &status))),
        Err(error) => Err(Refusal::Api(error)),
    }
}

async fn kind_of(
    client: &Client,
    kinds: &mut Kinds,
    manifest: &Manifest,
) -> Result<(ApiResource, Scope), Refusal> {
    let refused =
        |field: &str, message: String| Refusal::Object(vec![manifest.problem(Some(field), message)]);
    let types = TypeMeta { api_version: manifest.api_version.clone(), kind: manifest.kind.clone() };
    let kind = GroupVersionKind::try_from(types).map_err(|error| refused("apiVersion", error.to_string()))?;
    if let Some(known) = kinds.get(&kind) {
        return Ok(known.clone());
    }
    match discovery::pinned_kind(client, &kind).await {
        Ok((resource, capabilities)) => {
            kinds.insert(kind, (resource.clone(), capabilities.scope.clone()));
            Ok((resource, capabilities.scope))
        }
        Err(kube::Error::Discovery(_) | kube::Error::Api(_)) => {
            let message = format!("no kind {:?} in {}", manifest.kind, manifest.api_version);
            Err(refused("kind", message))
        }
        Err(error) => Err(Refusal::Api(error)),
    }
}

/// What the API's `Status` says, field by field.
fn problems(manifest: &Manifest, status: &Status) -> Vec<Problem> {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let of_causes: Vec<_> = causes
        .iter()
        .filter(|cause| !cause.message.is_empty())
        .map(|cause| {
            let field = Some(cause.field.as_str()).filter(|field| !field.is_empty());
            manifest.problem(field, cause.message.clone())
        })
        .collect();
    if !of_causes.is_empty() {
        return of_causes;
    }
    let kind = status.details.as_ref().map(|details| details.kind.as_str());
    let field = match (status.reason.as_str(), kind) {
        ("NotFound", Some("namespaces")) => Some("metadata.namespace"),
        _ => blamed_field(&status.message),
    };
    vec![manifest.problem(field, status.message.clone())]
}

/// The field in `strict decoding error: unknown field "spec.foo"` and
/// `cannot be handled as a Service: spec.ports[0].port: invalid type`.
fn blamed_field(message: &str) -> Option<&str> {
    if let Some((_, rest)) = message.split_once("unknown field \"") {
        return rest.split('"').next();
    }
    let (_, rest) = message.split_once(" cannot be handled as a ")?;
    let (field, _) = rest.split_once(": ")?.1.split_once(": ")?;
    field.chars().all(|c| c.is_ascii_alphanumeric() || ".[]/-_".contains(c)).then_some(field)
}

#[cfg(test)]
mod tests {
    use super::{super::read, *};

    fn manifest() -> Manifest {
        let (manifests, _) = read(&[read::Source::BuiltIn]).expect("built in");
        manifests.into_iter().next_back().expect("the Service is last")
    }

    fn status(causes: serde_json::Value, message: &str) -> Status {
        let text = serde_json::json!({
            "status": "Failure", "code": 422, "message": message, "details": { "causes": causes }
        });
        serde_json::from_value(text).expect("a Status")
    }

    #[test]
    fn every_cause_is_a_problem_at_its_line() {
        let causes = serde_json::json!([
            { "field": "spec.ports[0].port", "message": "Invalid value: 0: must be between 1 and 65535" },
            { "field": "spec.sessionAffinity", "message": "Unsupported value: \"x\"" },
        ]);
        let found = problems(&manifest(), &status(causes, "Service \"nginx\" is invalid"));
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "(built-in) nginx.yaml:38: Service netflow-test/nginx: spec.ports[0].port: \
                 Invalid value: 0: must be between 1 and 65535",
                "(built-in) nginx.yaml:33: Service netflow-test/nginx: spec.sessionAffinity: \
                 Unsupported value: \"x\"",
            ]
        );
    }

    #[test]
    fn fields_are_found_in_messages_without_causes() {
        let wrong_type =
            "Service in version \"v1\" cannot be handled as a Service: spec.ports[0].port: invalid type";
        for (message, field) in [
            (wrong_type, Some("spec.ports[0].port")),
            ("strict decoding error: unknown field \"spec.prots\"", Some("spec.prots")),
            ("Service in version \"v1\" cannot be handled as a Service: no such luck: at all", None),
            ("namespaces \"x\" not found", None),
        ] {
            assert_eq!(blamed_field(message), field, "{message}");
        }
    }

    #[test]
    fn a_refusal_without_causes_keeps_its_message() {
        let message = "strict decoding error: unknown field \"spec.ports[0].prot\"";
        let found = problems(&manifest(), &status(serde_json::json!([]), message));
        assert_eq!(found[0].field.as_deref(), Some("spec.ports[0].prot"));
        assert_eq!((found.len(), found[0].line, found[0].message.as_str()), (1, 38, message));
    }
}
