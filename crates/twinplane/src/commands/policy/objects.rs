//! The objects that decide: of a cluster, or of manifests. Reads them, and judges nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use policy::{
    manifest::{self, Trouble},
    v1alpha2::ClusterNetworkPolicy,
    world::World,
};
use serde::de::DeserializeOwned;

use super::super::target::Target;

#[derive(Debug, clap::Args)]
pub(super) struct Objects {
    /// Policies, namespaces, pods and nodes of these manifests (a file, a folder or "-") instead of a cluster's
    #[arg(long, value_name = "PATH", help_heading = "Objects")]
    objects: Vec<PathBuf>,
    /// How the cluster's API server is reached [default: the lab's, else as kubectl finds it]
    #[arg(long, value_name = "FILE", conflicts_with = "objects", help_heading = "Objects")]
    kubeconfig: Option<PathBuf>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) world: World,
    /// Addresses of Services, which no policy is asked about.
    pub(super) services: BTreeMap<IpAddr, String>,
    /// It is a cluster's, so that there are kernels to ask.
    pub(super) is_live: bool,
}

impl Objects {
    /// # Errors
    /// A file or the API server cannot be read.
    pub(super) fn read(&self, target: &Target) -> anyhow::Result<Known> {
        if !self.objects.is_empty() {
            let mut known = Known::default();
            tell(&read_files(&mut known.world, &self.objects)?);
            return Ok(known);
        }
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Some(path.clone()),
            None => target.kubeconfig()?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(of_cluster(kubeconfig))
    }
}

/// Says on stderr what is not as it was written.
pub(super) fn tell(troubles: &[Trouble]) {
    troubles.iter().for_each(|trouble| eprintln!("{trouble}"));
}

/// Adds what the files hold.
///
/// # Errors
/// A file cannot be read. What of it has no meaning is returned.
pub(super) fn read_files(world: &mut World, paths: &[PathBuf]) -> anyhow::Result<Vec<Trouble>> {
    let mut troubles = vec![];
    for path in paths {
        for file in files(path)? {
            let (name, text) = match file.to_str() {
                Some("-") => {
                    let mut text = String::new();
                    io::stdin().lock().read_to_string(&mut text).context("read standard input")?;
                    ("stdin".to_owned(), text)
                }
                _ => {
                    let name = file.display().to_string();
                    let text = fs::read_to_string(&file).with_context(|| format!("read {name}"))?;
                    (name, text)
                }
            };
            troubles.extend(manifest::read(world, &name, &text));
        }
    }
    Ok(troubles)
}

/// The file itself, or the manifests directly in a folder, in order of name.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("read folder {}", path.display()))?;
    let is_manifest = |path: &PathBuf| {
        path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    Ok(files)
}

async fn of_cluster(kubeconfig: Option<PathBuf>) -> anyhow::Result<Known> {
    let config = match &kubeconfig {
        Some(path) => {
            let shown = path.display();
            let read = Kubeconfig::read_from(path).with_context(|| format!("read {shown}"))?;
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            config.with_context(|| format!("use {shown}"))?
        }
        None => Config::infer().await.context(
            "find an API server\n\nname a lab with --lab NAME, a cluster with --kubeconfig FILE, or manifests with \
             --objects PATH",
        )?,
    };
    let client = Client::try_from(config).context("set up the connection to the API server")?;
    let mut known = Known { is_live: true, ..Known::default() };
    let world = &mut known.world;
    for namespace in list::<Namespace>(&client, "namespaces").await? {
        let name = namespace.metadata.name.unwrap_or_default();
        world.set_namespace_mode(&name, namespace.metadata.annotations.as_ref());
        world.set_namespace(&name, namespace.metadata.labels.unwrap_or_default());
    }
    list::<Pod>(&client, "pods").await?.iter().for_each(|pod| world.set_pod(pod));
    list::<Node>(&client, "nodes").await?.iter().for_each(|node| world.set_node(node));
    for policy in list::<NetworkPolicy>(&client, "network policies").await? {
        world.set_network_policy(policy, None);
    }
    match Api::<ClusterNetworkPolicy>::all(client.clone()).list(&ListParams::default()).await {
        Ok(policies) => {
            policies.items.into_iter().for_each(|policy| world.set_cluster_network_policy(policy, None));
        }
        // Not every cluster has the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error).context("list cluster network policies"),
    }
    for service in list::<Service>(&client, "services").await? {
        known.services.extend(addresses(&service));
    }
    Ok(known)
}

async fn list<K>(client: &Client, what: &str) -> anyhow::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    Ok(found.with_context(|| format!("list {what}"))?.items)
}

fn addresses(service: &Service) -> Vec<(IpAddr, String)> {
    let metadata = &service.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = format!("{}/{}", text(&metadata.namespace), text(&metadata.name));
    let spec = service.spec.iter();
    let own = spec.flat_map(|spec| spec.cluster_ips.iter().chain(&spec.external_ips).flatten());
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let given = balancer.flatten().filter_map(|ingress| ingress.ip.as_ref());
    own.chain(given).filter_map(|text| Some((text.parse().ok()?, name.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_manifests_are_read_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["b.yaml", "a.json", "notes.txt", "c.yml"] {
            fs::write(folder.path().join(name), "").expect("write");
        }
        let names = |path: &Path| -> Vec<String> {
            let found = files(path).expect("files");
            found.iter().filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect()
        };
        assert_eq!(names(folder.path()), ["a.json", "b.yaml", "c.yml"]);
        assert_eq!(names(&folder.path().join("notes.txt")), ["notes.txt"], "what is named is read");
        let missing = [folder.path().join("missing.yaml")];
        let error = read_files(&mut World::default(), &missing).expect_err("missing");
        assert!(format!("{error:#}").contains("missing.yaml"), "{error:#}");
    }

    #[test]
    fn every_address_of_a_service_is_known() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIPs": ["10.96.0.9", "fd96::9"], "externalIPs": ["192.0.2.1"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "x"}]}}
        }))
        .expect("a Service");
        let found: Vec<String> = addresses(&service).into_iter().map(|(ip, _)| ip.to_string()).collect();
        assert_eq!(found, ["10.96.0.9", "fd96::9", "192.0.2.1", "203.0.113.1"]);
        let headless: Service =
            serde_json::from_value(serde_json::json!({"spec": {"clusterIPs": ["None"]}})).expect("a Service");
        assert_eq!(addresses(&headless), []);
    }
}
