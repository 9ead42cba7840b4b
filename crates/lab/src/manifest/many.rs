//! A manifest of many Services, to see how a plane bears them. Pure.

use std::fmt::Write as _;

/// Where the client reaches the first and the last Service, within the lab's load-balancer range.
const FIRST: &str = "203.0.113.101";
const LAST: &str = "203.0.113.102";

/// Pods that answer with their own names, and `services` Services of port 80 that all select them, so that there are as
/// many EndpointSlices. `service-00000` and the last one have a load-balancer address each; the others a cluster IP only.
///
/// The pods come first: they are ready before most Services are there, whose slices are then written once.
pub(crate) fn many(services: u32, pods: u32) -> String {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: many\n");
    _ = write!(
        text,
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: echo\n  namespace: many\nspec:\n  \
         replicas: {pods}\n  selector:\n    matchLabels:\n      app: echo\n  template:\n    metadata:\n      labels:\n        \
         app: echo\n    spec:\n      containers:\n        - name: echo\n          image: twinplane/echo\n          \
         ports:\n            - containerPort: 8080\n"
    );
    for index in 0..services {
        let address = match index {
            0 => Some(FIRST),
            _ if index + 1 == services => Some(LAST),
            _ => None,
        };
        _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{index:05}\n  namespace: many\nspec:\n"
        );
        if let Some(address) = address {
            _ = write!(text, "  type: LoadBalancer\n  loadBalancerIP: {address}\n");
        }
        text.push_str("  selector:\n    app: echo\n  ports:\n    - port: 80\n      targetPort: 8080\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::read, *};

    #[test]
    fn the_manifest_reads_back() {
        let text = many(200, 3);
        let (mut manifests, mut problems) = (vec![], vec![]);
        read::parse("many.yaml", &text, &mut manifests, &mut problems);
        assert_eq!(problems, []);
        let objects: Vec<_> = manifests.iter().map(|manifest| manifest.object()).collect();
        assert_eq!(objects.len(), 202);
        assert_eq!(objects[..3], ["Namespace many", "Deployment many/echo", "Service many/service-00000"]);
        assert_eq!(objects[201], "Service many/service-00199");
        assert_eq!((text.matches(FIRST).count(), text.matches(LAST).count()), (1, 1));
    }
}
