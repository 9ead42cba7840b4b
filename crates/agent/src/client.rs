//! Speaks to an agent over its unix socket. Used by the command line, the CNI plugin, the lab and the trace.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cluster::{EndpointView, IdentityView};
use dataplane::{Connection, ObjectStatus, ServiceRow};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use model::{Endpoint, IdentityId, PodName};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::wire::{
    AddRequest, Added, AddressIdentity, AgentStatus, Attachment, CheckRequest, CollectRequest, Failure,
    FailureKind, PolicyDecision, PolicyQuestion, PolicyView, SnapshotView,
};

/// Where an agent listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/twinplane/agent.sock";

/// Every request opens a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A request that failed: what was asked, and of whom.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of the agent at {}", socket.display())]
pub struct Error {
    /// A verb with its object: "ask for services".
    pub operation: &'static str,
    pub socket: PathBuf,
    #[source]
    pub source: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Nobody listens there, or it may not be reached.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("connection broke: {0}")]
    Broken(hyper::Error),
    #[error("unexpected answer: {0}")]
    Unreadable(String),
    /// The agent's own answer.
    #[error("{0}")]
    Refused(Failure),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> FailureKind {
        match &self.source {
            Cause::Refused(failure) => failure.kind,
            Cause::Connect(_) | Cause::Broken(_) => FailureKind::Unavailable,
            Cause::Unreadable(_) => FailureKind::Internal,
        }
    }

    /// Nobody listens on the socket.
    pub fn is_absent(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(&self.source, Cause::Connect(error) if matches!(error.kind(), NotFound | ConnectionRefused))
    }
}

impl Client {
    /// A client of the agent at `socket`. Connects with the first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// # Errors
    /// As every request: [`Error`].
    pub async fn status(&self) -> Result<AgentStatus, Error> {
        self.get("ask for the status", "/v1/status").await
    }

    /// The frontends as the kernel has them.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn services(&self) -> Result<Vec<ServiceRow>, Error> {
        self.get("ask for the services", "/v1/services").await
    }

    /// Tracked connections, at most `limit`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn connections(&self, limit: usize) -> Result<Vec<Connection>, Error> {
        self.get("ask for the connections", &format!("/v1/conntrack?limit={limit}")).await
    }

    /// Every object with its state, problems included.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn objects(&self) -> Result<Vec<ObjectStatus>, Error> {
        self.get("ask for the objects", "/v1/objects").await
    }

    /// The pods of this node.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.get("ask for the endpoints", "/v1/endpoints").await
    }

    /// The endpoints of the whole cluster, in order of pod.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn cluster_endpoints(&self) -> Result<Vec<EndpointView>, Error> {
        self.get("ask for the cluster's endpoints", "/v1/cluster/endpoints").await
    }

    /// Every identity, in order of number.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn identities(&self) -> Result<Vec<IdentityView>, Error> {
        self.get("ask for the identities", "/v1/identities").await
    }

    /// Whose the addresses of each prefix are to be; the longest one counts.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn addresses(&self) -> Result<Vec<AddressIdentity>, Error> {
        self.get("ask for the identities of addresses", "/v1/addresses").await
    }

    /// Whose `address` is, as the kernel has it.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        let found: Vec<AddressIdentity> =
            self.get("ask for the identity of an address", &format!("/v1/addresses?of={address}")).await?;
        Ok(found.first().map(|row| row.identity))
    }

    /// What the kernel enforces at a pod of this node.
    ///
    /// # Errors
    /// See [`Self::status`]; the node does not have the pod, or enforces no policies.
    pub async fn policy(&self, pod: &PodName) -> Result<PolicyView, Error> {
        let PodName { namespace, name } = pod;
        self.get("ask for the policy of a pod", &format!("/v1/policy?namespace={namespace}&pod={name}")).await
    }

    /// What the kernel's tables say of the first packet of a flow.
    ///
    /// # Errors
    /// See [`Self::policy`].
    pub async fn policy_decision(&self, question: &PolicyQuestion) -> Result<PolicyDecision, Error> {
        self.post("ask what the kernel decides", "/v1/policy/decision", question).await
    }

    /// What the dataplane was asked for.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn snapshot(&self) -> Result<SnapshotView, Error> {
        self.get("ask for the snapshot", "/v1/snapshot").await
    }

    /// Attaches a pod; answers once the dataplane has programmed it.
    ///
    /// # Errors
    /// See [`Self::status`]; nothing is left behind then.
    pub async fn cni_add(&self, request: &AddRequest) -> Result<Added, Error> {
        self.post("ask to attach a pod", "/v1/cni/add", request).await
    }

    /// Detaches a pod. One that is not attached is no error.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn cni_del(&self, attachment: &Attachment) -> Result<(), Error> {
        self.post("ask to detach a pod", "/v1/cni/del", attachment).await
    }

    /// Whether a pod is attached as the runtime believes.
    ///
    /// # Errors
    /// See [`Self::status`]; names what differs.
    pub async fn cni_check(&self, request: &CheckRequest) -> Result<(), Error> {
        self.post("ask to check a pod", "/v1/cni/check", request).await
    }

    /// Detaches every pod that `request` does not list.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn cni_gc(&self, request: &CollectRequest) -> Result<(), Error> {
        self.post("ask to detach stale pods", "/v1/cni/gc", request).await
    }

    /// Whether pods can be attached now.
    ///
    /// # Errors
    /// See [`Self::status`]; says what is waited for.
    pub async fn cni_status(&self) -> Result<(), Error> {
        self.get("ask whether pods can be attached", "/v1/cni/status").await
    }

    async fn get<T: DeserializeOwned>(&self, operation: &'static str, path: &str) -> Result<T, Error> {
        self.request(operation, Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        match serde_json::to_vec(body) {
            Ok(body) => self.request(operation, Method::POST, path, body.into()).await,
            Err(error) => Err(self.failed(operation, Cause::Unreadable(error.to_string()))),
        }
    }

    async fn request<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        self.exchange(method, path, body).await.map_err(|cause| self.failed(operation, cause))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Cause> {
        let unreadable = |error: &dyn fmt::Display| Cause::Unreadable(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(Cause::Connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Cause::Broken)?;
        // Ends with the exchange: the sender below is its only user.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| unreadable(&error))?;
        let response = sender.send_request(request).await.map_err(Cause::Broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(Cause::Broken)?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| unreadable(&error));
        }
        match serde_json::from_slice(&body) {
            Ok(failure) => Err(Cause::Refused(failure)),
            Err(_) => Err(unreadable(&format_args!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    fn failed(&self, operation: &'static str, source: Cause) -> Error {
        Error { operation, socket: self.socket.clone(), source }
    }
}
