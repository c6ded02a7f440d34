//! COSI resources: reading and watching them, decoded from their protobuf specs (talos.md 4).

mod kinds;

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use prost::Message;
use tonic::Code;

pub use kinds::*;

use super::{Client, Error, MESSAGE_LIMIT};
use crate::proto::cosi::resource::{
    self as wire, EventType, GetRequest, ListRequest, WatchOptions, WatchRequest, state_client::StateClient,
};

/// A type of resource.
pub trait Kind {
    /// For example `MachineStatuses.runtime.talos.dev`.
    const TYPE: &'static str;
    /// Where resources of this type live.
    const NAMESPACE: &'static str;
    /// The message in `proto_spec`.
    type Spec: Message + Default;
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource<S> {
    /// Unique in type and namespace.
    pub id: String,
    /// A decimal number that grows with every change, or `undefined`.
    pub version: String,
    /// Whether it is being torn down.
    pub tearing_down: bool,
    /// Its content.
    pub spec: S,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<S> {
    /// It exists, in this state.
    Is(Resource<S>),
    /// It does not exist (any more).
    Gone { id: String },
    /// All that existed when the watch began was told.
    Bootstrapped,
}

impl Client {
    /// One resource; `None` if it is absent.
    pub async fn get<K: Kind>(&self, id: &str) -> Result<Option<Resource<K::Spec>>, Error> {
        let request = GetRequest {
            namespace: K::NAMESPACE.to_owned(),
            r#type: K::TYPE.to_owned(),
            id: id.to_owned(),
            options: None,
        };
        match self.state().get(self.unary(request)).await {
            Ok(response) => response.into_inner().resource.map(|resource| self.decode::<K>(resource)).transpose(),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed("Get")(status)),
        }
    }

    /// All resources of a type.
    pub async fn list<K: Kind>(&self) -> Result<Vec<Resource<K::Spec>>, Error> {
        let request = ListRequest { namespace: K::NAMESPACE.to_owned(), r#type: K::TYPE.to_owned(), options: None };
        let mut stream = self.state().list(self.unary(request)).await.map_err(self.failed("List"))?.into_inner();
        let mut resources = Vec::new();
        while let Some(response) = stream.message().await.map_err(self.failed("List"))? {
            if let Some(resource) = response.resource {
                resources.push(self.decode::<K>(resource)?);
            }
        }
        Ok(resources)
    }

    /// Changes of one resource, its present state first.
    pub async fn watch<K: Kind>(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Change<K::Spec>, Error>> + Send + use<K>, Error> {
        self.open::<K>(Some(id.to_owned())).await
    }

    /// Changes of all resources of a type: those that exist first, then [`Change::Bootstrapped`], then what happens.
    pub async fn watch_all<K: Kind>(
        &self,
    ) -> Result<impl Stream<Item = Result<Change<K::Spec>, Error>> + Send + use<K>, Error> {
        self.open::<K>(None).await
    }

    /// Watches one resource until `wanted` says yes to its spec, at most `within`.
    pub async fn until<K: Kind>(
        &self,
        id: &str,
        within: Duration,
        mut wanted: impl FnMut(&K::Spec) -> bool,
    ) -> Result<Resource<K::Spec>, Error> {
        let waiting = async {
            let mut changes = std::pin::pin!(self.watch::<K>(id).await?);
            while let Some(change) = changes.next().await {
                match change? {
                    Change::Is(resource) if wanted(&resource.spec) => return Ok(resource),
                    _ => {}
                }
            }
            Err(Error::Ended { what: K::TYPE, node: self.name() })
        };
        tokio::time::timeout(within, waiting)
            .await
            .unwrap_or_else(|_| Err(Error::TimedOut { what: K::TYPE, node: self.name(), after: within }))
    }

    async fn open<K: Kind>(
        &self,
        id: Option<String>,
    ) -> Result<impl Stream<Item = Result<Change<K::Spec>, Error>> + Send + use<K>, Error> {
        let options = id.is_none().then(|| WatchOptions { bootstrap_contents: true, ..WatchOptions::default() });
        let request = WatchRequest {
            namespace: K::NAMESPACE.to_owned(),
            r#type: K::TYPE.to_owned(),
            id,
            options,
            api_version: 1,
        };
        let stream = self.state().watch(self.streaming(request)).await.map_err(self.failed("Watch"))?.into_inner();
        let client = self.clone();
        Ok(stream.flat_map(move |response| {
            let changes = match response {
                Ok(response) => response.event.into_iter().filter_map(|event| client.change::<K>(event)).collect(),
                Err(status) => vec![Err(client.failed("Watch")(status))],
            };
            stream::iter(changes)
        }))
    }

    fn change<K: Kind>(&self, event: wire::Event) -> Option<Result<Change<K::Spec>, Error>> {
        let kind = event.event_type();
        let id = |resource: Option<wire::Resource>| resource.and_then(|of| of.metadata).unwrap_or_default().id;
        match kind {
            EventType::Created | EventType::Updated => {
                event.resource.map(|resource| self.decode::<K>(resource).map(Change::Is))
            }
            EventType::Destroyed => Some(Ok(Change::Gone { id: id(event.resource) })),
            EventType::Bootstrapped => Some(Ok(Change::Bootstrapped)),
            EventType::Noop => None,
            EventType::Errored => Some(Err(Error::Rpc {
                rpc: "Watch",
                node: self.name(),
                code: Code::Unknown,
                message: event.error.unwrap_or_default(),
            })),
        }
    }

    fn decode<K: Kind>(&self, resource: wire::Resource) -> Result<Resource<K::Spec>, Error> {
        let metadata = resource.metadata.unwrap_or_default();
        let bytes = resource.spec.unwrap_or_default().proto_spec;
        let spec = K::Spec::decode(bytes.as_slice()).map_err(|source| Error::Decode {
            what: K::TYPE,
            node: self.name(),
            source,
        })?;
        Ok(Resource { id: metadata.id, version: metadata.version, tearing_down: metadata.phase == "tearingDown", spec })
    }

    fn state(&self) -> StateClient<tonic::transport::Channel> {
        StateClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }
}
