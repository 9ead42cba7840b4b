//! Sees to it that the API server has the definitions of our own kinds, and replaces those of an older agent. Never takes anything
//! from a definition that is newer than this agent knows: agents of two releases may run at once.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};

use super::chain;
use crate::identity::{self, SCHEMA, SCHEMA_NOW};

/// Pause before the API server is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause: without the permission to create, someone else has to.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Returns once both kinds are served. Whatever stands in the way is tried again for ever; nothing but identities waits.
pub(super) async fn ensure(client: Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    for definition in identity::definitions() {
        let name = definition.metadata.name.as_deref().unwrap_or_default();
        let mut pause = PAUSE;
        while let Err(error) = try_ensure(&api, name, &definition).await {
            match error {
                Missing::NotYet => tracing::debug!(name, "definition is not served yet"),
                Missing::Refused(error) => {
                    tracing::warn!(name, error = chain(&error), "no identities: the definition is missing");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

enum Missing {
    NotYet,
    Refused(kube::Error),
}

async fn try_ensure(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    wanted: &CustomResourceDefinition,
) -> Result<(), Missing> {
    let found = match api.get_opt(name).await.map_err(Missing::Refused)? {
        Some(found) if schema(&found) < SCHEMA_NOW => replace(api, name, found, wanted).await?,
        Some(found) => found,
        None => match api.create(&PostParams::default(), wanted).await {
            Ok(created) => created,
            // Another agent was first.
            Err(kube::Error::Api(status)) if status.code == 409 => return Err(Missing::NotYet),
            Err(error) => return Err(Missing::Refused(error)),
        },
    };
    let conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let established = |condition: &_| is_established(condition);
    if conditions.into_iter().any(established) { Ok(()) } else { Err(Missing::NotYet) }
}

/// Gives `found` the schema of `wanted`. Without the permission to, it stays as it is: what it does not have is lost, and the rest
/// works.
async fn replace(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    found: CustomResourceDefinition,
    wanted: &CustomResourceDefinition,
) -> Result<CustomResourceDefinition, Missing> {
    let mut next = found.clone();
    next.spec = wanted.spec.clone();
    let annotations = wanted.metadata.annotations.clone().unwrap_or_default();
    next.metadata.annotations.get_or_insert_default().extend(annotations);
    match api.replace(name, &PostParams::default(), &next).await {
        Ok(replaced) => {
            tracing::info!(name, "definition of an older agent replaced");
            Ok(replaced)
        }
        // Another agent was first.
        Err(kube::Error::Api(status)) if status.code == 409 => Err(Missing::NotYet),
        Err(kube::Error::Api(status)) => {
            let error = &status.message;
            tracing::warn!(name, error, "the definition of an older agent cannot be replaced, it stays");
            Ok(found)
        }
        Err(error) => Err(Missing::Refused(error)),
    }
}

fn schema(definition: &CustomResourceDefinition) -> u32 {
    let said = definition.metadata.annotations.as_ref().and_then(|all| all.get(SCHEMA));
    said.and_then(|number| number.parse().ok()).unwrap_or(1)
}

fn is_established(
    condition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition,
) -> bool {
    condition.type_ == "Established" && condition.status == "True"
}
