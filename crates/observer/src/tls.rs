//! TLS 1.3 with certificates on both sides, from files that are read again when they change. A file that cannot be used
//! is reported once and what was valid stays. Never accepts a peer without a certificate of the configured authority.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::time::Instant;

/// Where certificates are; all PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// Own certificate and what leads from it to the authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whom to trust.
    pub authority: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read certificate file {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("parse certificate file {}", .0.display())]
    Parse(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("use certificates of {}", .0.display())]
    Use(PathBuf, #[source] rustls::Error),
    #[error("use authority {}", .0.display())]
    Verifier(PathBuf, #[source] rustls::server::VerifierBuilderError),
}

/// Configurations for both sides from the same files.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

/// The files' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents([Vec<u8>; 3]);

#[derive(Debug)]
struct State {
    configs: Configs,
    /// What was looked at last, valid or not.
    seen: Contents,
    checked: Instant,
}

/// Certificates that follow their files.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    state: Mutex<State>,
}

/// How often files are looked at, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Certificates {
    pub fn load(files: Files) -> Result<Arc<Self>, TlsError> {
        let seen = Contents::read(&files)?;
        let state = State { configs: seen.configs(&files)?, seen, checked: Instant::now() };
        Ok(Arc::new(Self { files, state: Mutex::new(state) }))
    }

    /// What is valid now, for one new connection.
    pub(crate) fn current(&self) -> Configs {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            self.reload(&mut state);
        }
        state.configs.clone()
    }

    fn reload(&self, state: &mut State) {
        let changed = match Contents::read(&self.files) {
            Ok(contents) if contents == state.seen => return,
            Ok(contents) => {
                let configs = contents.configs(&self.files);
                state.seen = contents;
                configs
            }
            Err(error) => Err(error),
        };
        match changed {
            Ok(configs) => {
                tracing::info!(certificate = %self.files.certificate.display(), "certificates were replaced");
                state.configs = configs;
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "changed certificates are not used");
            }
        }
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| TlsError::Read(path.clone(), error));
        Ok(Self([read(&files.certificate)?, read(&files.key)?, read(&files.authority)?]))
    }

    fn configs(&self, files: &Files) -> Result<Configs, TlsError> {
        let [certificate, key, authority] = &self.0;
        let chain = certificates(certificate, &files.certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Parse(files.key.clone(), error))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(authority, &files.authority)? {
            roots.add(root).map_err(|error| TlsError::Use(files.authority.clone(), error))?;
        }
        let roots = Arc::new(roots);
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let unusable = |error| TlsError::Use(files.certificate.clone(), error);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Verifier(files.authority.clone(), error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parse = |error| TlsError::Parse(path.to_owned(), error);
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(parse)?;
    if all.is_empty() { Err(parse(rustls::pki_types::pem::Error::NoItemsFound)) } else { Ok(all) }
}
