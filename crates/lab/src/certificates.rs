//! The lab's own authority and what it signs: a certificate per node, one for the relay, one for clients. The authority's key
//! is kept nowhere, so that nothing can be signed once the lab is up.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use observer::names::{DEFAULT_CLUSTER, node_server, peer_service};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{paths::Paths, plan::Topology};

/// What Hubble's relays, and its command, are called in certificates.
pub(crate) const RELAY: &str = "*.hubble-relay.cilium.io";
const CLIENT: &str = "client.hubble-relay.cilium.io";

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("make the certificate of {0}")]
    Make(String, #[source] rcgen::Error),
    #[error("write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Makes and writes all of them; keys are readable by root only.
pub(crate) fn make(topology: &Topology, paths: &Paths) -> Result<(), Error> {
    fs::create_dir_all(paths.tls()).map_err(|error| Error::Write(paths.tls(), error))?;
    let authority = Authority::new(&format!("lab {}", topology.name))?;
    write(&paths.authority(), &authority.certificate, 0o644)?;
    let nodes = topology.nodes.iter().map(|node| {
        let names = vec![node_server(&node.name, DEFAULT_CLUSTER), peer_service(DEFAULT_CLUSTER)];
        (node.name.as_str(), names)
    });
    let others = [("relay", vec![RELAY.to_owned()]), ("client", vec![CLIENT.to_owned()])];
    for (whose, names) in nodes.chain(others) {
        let (certificate, key) = authority.sign(whose, names)?;
        write(&paths.certificate(whose), &certificate, 0o644)?;
        write(&paths.key(whose), &key, 0o600)?;
    }
    Ok(())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self, Error> {
        let failed = |error| Error::Make("the authority".to_owned(), error);
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("Twinplane {name}"));
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Certificate and key as PEM.
    fn sign(&self, whose: &str, names: Vec<String>) -> Result<(String, String), Error> {
        let failed = |error| Error::Make(whose.to_owned(), error);
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, whose);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok((certificate, key.serialize_pem()))
    }
}

/// Never there with other rights.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| Error::Write(path.to_owned(), error))
}
