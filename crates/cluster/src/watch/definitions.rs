//! Sees to it that the API server has the definitions of our own kinds. Never takes anything from a definition that is there
//! and newer than this agent knows: agents of two releases may run at once.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::PostParams};

use super::chain;
use crate::identity;

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

fn is_established(
    condition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition,
) -> bool {
    condition.type_ == "Established" && condition.status == "True"
}
