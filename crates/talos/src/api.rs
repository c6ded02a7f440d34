//! Clients of the Talos API: maintenance mode without a client certificate, and mTLS once a node has its configuration.

mod broken;
mod connect;
pub mod cosi;
mod dial;
mod etcd;
mod events;
mod kubeconfig;
mod machine;
mod peer;
mod sight;
mod trust;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use tonic::Code;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

pub use connect::{AllowedTargets, Connector, Credentials, PORT};
pub use etcd::{EtcdMember, EtcdStatus};
pub use events::{Event, EventStream, Happening};
pub use machine::{Applied, ApplyMode, ClientConfiguration, ResetOptions, Service, Version};
pub use peer::Peer;
pub use sight::{Clocks, Strange};
pub use trust::{Fingerprint, ParseFingerprint, is_about_dates};

use crate::proto::common;

/// Both ways, as Talos's own client has it (talos.md 2.1).
const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;
/// How long a call that is answered at once may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to one node. Cheap to clone; the clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    address: IpAddr,
    node: Option<MetadataValue<Ascii>>,
    /// What was seen of whoever answers; tells a refusal from a connection that broke.
    sight: Arc<sight::Sight>,
}

impl Client {
    /// The address that was dialled.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The same connection, but calls are forwarded to `node` (an address) by the control plane that was dialled.
    #[must_use]
    pub fn for_node(&self, node: IpAddr) -> Self {
        let node = node.to_string().parse().expect("an address is ASCII");
        Self { node: Some(node), ..self.clone() }
    }

    /// A call that is answered at once.
    fn unary<T>(&self, message: T) -> Request<T> {
        let mut request = self.streaming(message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }

    /// A call whose answer is a stream without a known end.
    fn streaming<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("runtime", MetadataValue::from_static("Talos"));
        if let Some(node) = &self.node {
            request.metadata_mut().insert("node", node.clone());
        }
        request
    }

    fn failed(&self, rpc: &'static str) -> impl Fn(Status) -> Error + use<> {
        let (node, address, sight) = (self.name(), self.address, Arc::clone(&self.sight));
        move |status| match sight.error(address) {
            Some(refusal) => refusal,
            None => match broken::why(&status) {
                Some(reason) => Error::Broken { rpc, node: node.clone(), reason },
                None => {
                    Error::Rpc { rpc, node: node.clone(), code: status.code(), message: status.message().to_owned() }
                }
            },
        }
    }

    /// Whom an answer is from.
    fn name(&self) -> String {
        match self.node.as_ref().and_then(|node| node.to_str().ok()) {
            Some(node) => node.to_owned(),
            None => self.address.to_string(),
        }
    }

    /// The one message that a single node answers with.
    fn single<M: Reply>(&self, rpc: &'static str, messages: Vec<M>) -> Result<M, Error> {
        let message = messages.into_iter().next().ok_or_else(|| Error::Empty { rpc, node: self.name() })?;
        match message.metadata() {
            Some(metadata) if !metadata.error.is_empty() => Err(Error::forwarded(rpc, metadata.clone())),
            _ => Ok(message),
        }
    }
}

/// Why a call failed. Holds no content of configurations or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is outside the allowed targets; nothing was dialled.
    #[error("{address} is outside the allowed targets ({allowed})")]
    Forbidden { address: IpAddr, allowed: String },
    /// Our own credentials cannot be used.
    #[error("the credentials for the Talos API cannot be used")]
    Credentials(#[from] crate::pki::Error),
    /// No connection: nobody there, or TLS refused by either side.
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: IpAddr, reason: String },
    /// Somebody answers there who is not the node that was meant, or does not take us for whom we are.
    #[error("{address} is answered by {seen}, {strange}")]
    Stranger { address: IpAddr, seen: Box<Peer>, strange: Strange },
    /// A certificate is out of its dates for one side: one of the two clocks is wrong.
    #[error("{0}")]
    Clock(Box<Clocks>),
    /// The connection broke before the whole answer came: nobody knows whether the call was done.
    #[error("{rpc} on {node}: the connection broke ({reason})")]
    Broken { rpc: &'static str, node: String, reason: String },
    /// The node answered with an error.
    #[error("{rpc} on {node}: {message} ({code:?})")]
    Rpc { rpc: &'static str, node: String, code: Code, message: String },
    /// The node answered with nothing.
    #[error("{rpc} on {node}: empty answer")]
    Empty { rpc: &'static str, node: String },
    /// A resource or event that cannot be decoded.
    #[error("{what} of {node} cannot be decoded")]
    Decode { what: &'static str, node: String, source: prost::DecodeError },
    /// The archive around a kubeconfig is broken.
    #[error("the kubeconfig archive of {node} cannot be read")]
    Archive { node: String, source: std::io::Error },
    /// A stream ended before what was awaited came.
    #[error("{what} of {node} ended")]
    Ended { what: &'static str, node: String },
    /// What was awaited did not come in time.
    #[error("{what} of {node} did not come within {after:?}")]
    TimedOut { what: &'static str, node: String, after: Duration },
}

impl Error {
    /// The gRPC code, if the node answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What a control plane says of a node that it forwarded the call to.
    fn forwarded(rpc: &'static str, metadata: common::Metadata) -> Self {
        let code = metadata.status.as_ref().map_or(Code::Unknown, |status| Code::from(status.code));
        Self::Rpc { rpc, node: metadata.hostname, code, message: metadata.error }
    }

    /// The same with the first line of the node's message only: what follows may be a diff of configurations, with keys.
    fn shortened(self) -> Self {
        const LONGEST: usize = 300;
        match self {
            Self::Rpc { rpc, node, code, message } => {
                let message = message.lines().next().unwrap_or_default().chars().take(LONGEST).collect();
                Self::Rpc { rpc, node, code, message }
            }
            other => other,
        }
    }

    /// Whether the node could not be reached or went away: worth trying again when it is back.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Stranger { .. }
            | Self::Clock(_)
            | Self::Broken { .. }
            | Self::Ended { .. } => true,
            Self::Rpc { code, .. } => matches!(code, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded),
            _ => false,
        }
    }
}

/// A reply that tells which node it is from.
trait Reply {
    fn metadata(&self) -> Option<&common::Metadata>;
}

/// Implements [`Reply`] for messages of the machine service.
macro_rules! replies {
    ($($message:ident),+ $(,)?) => {
        $(impl Reply for crate::proto::machine::$message {
            fn metadata(&self) -> Option<&common::Metadata> {
                self.metadata.as_ref()
            }
        })+
    };
}

replies!(
    ApplyConfiguration,
    Bootstrap,
    EtcdForfeitLeadership,
    EtcdLeaveCluster,
    EtcdMembers,
    EtcdRemoveMemberById,
    EtcdStatus,
    GenerateClientConfiguration,
    Memory,
    Reboot,
    Reset,
    ServiceList,
    ServiceRestart,
    Shutdown,
    Version,
);
