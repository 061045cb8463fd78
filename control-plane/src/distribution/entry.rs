//! Who a node is, and how it comes to a certificate that says so.

use proto::join::NodeName;
use proto::{Certified, EnrolRequest, RenewRequest};
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::Distribution;
use crate::store::StoreError;
use crate::token::Role;
use crate::trust::enrolment::{self, Refusal, clock};
use crate::trust::shown::Shown;

/// How a connection came about.
pub enum Way {
    /// Over plain text, on loopback.
    Plain,
    /// Over TLS, with a certificate or without.
    Tls(Option<Shown>),
}

impl Distribution {
    /// The node of the certificate; nothing where nodes share a token.
    pub(super) async fn identify(&self, way: &Way, metadata: &MetadataMap) -> Result<Option<NodeName>, Status> {
        match way {
            Way::Plain => self.find_token(metadata).await.map(|()| None),
            Way::Tls(None) => {
                Err(Status::unauthenticated("it shows no certificate: over TLS, nodes join with a join token"))
            }
            Way::Tls(Some(shown)) => {
                self.check(shown)?;
                Ok(Some(shown.node.clone()))
            }
        }
    }

    /// Whether a certificate still counts.
    fn check(&self, shown: &Shown) -> Result<(), Status> {
        if self.trust.revocations.watch().borrow().contains(&shown.node) {
            return Err(refuse(&Refusal::NodeRevoked(shown.node.node_id.clone())));
        }
        if shown.expires_at <= OffsetDateTime::now_utc() {
            let (ended, gateway) = (clock(shown.expires_at), &shown.node.gateway);
            return Err(Status::unauthenticated(format!(
                "its certificate ended at {ended}: make a join token with `sluice join-token create --gateway {gateway}` and \
                 start the node with it"
            )));
        }
        Ok(())
    }

    async fn find_token(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let sent = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token =
            sent.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else {
            return Err(Status::unauthenticated("it sent no bearer token"));
        };
        match self.tokens.find(token.trim()).await {
            Ok(Some(bearer)) if bearer.role == Role::Node => Ok(()),
            Ok(Some(bearer)) => {
                let (name, role) = (bearer.name, bearer.role);
                Err(Status::permission_denied(format!(
                    "the token `{name}` has the role {role}; nodes need the role node"
                )))
            }
            Ok(None) => Err(Status::unauthenticated("its token is not known here")),
            Err(error) => {
                tracing::warn!("cannot look up the token of a node: {error}");
                Err(Status::unavailable("the control plane cannot look up tokens at present"))
            }
        }
    }

    /// Sees that this control plane is not behind what a node has from another one, which it would take back. Where the
    /// store itself is behind that, it counts: it was restored.
    pub(super) async fn catch_up_with(&self, gateway: &str, revision: u64, targets: u64) -> Result<(), Status> {
        let Some(head) = self.publisher.head(gateway).map(|head| head.revision) else { return Ok(()) };
        let is_unknown = |error| {
            tracing::warn!(
                gateway,
                "a node serves revision {revision}, revision {head} is known here, and the database does not say which counts: \
                 the node is sent away: {error}"
            );
            let text =
                format!("this control plane knows revision {head} alone, and cannot ask its database at present");
            Status::unavailable(text)
        };
        let catching_up = async {
            if head < revision {
                self.publisher.catch_up(gateway).await?;
            }
            if self.lanes.now(gateway).await?.membership.version() < targets {
                self.lanes.catch_up(gateway).await?;
            }
            Ok(())
        };
        // Less than the node waits.
        match tokio::time::timeout(self.timing.heartbeat, catching_up).await {
            Ok(caught_up) => caught_up.map_err(|error: StoreError| is_unknown(error.to_string())),
            Err(_) => Err(is_unknown("it is silent".to_owned())),
        }
    }

    pub(super) async fn enrol(&self, way: &Way, request: EnrolRequest) -> Result<Certified, Status> {
        if matches!(way, Way::Plain) {
            return Err(Status::failed_precondition("nodes join over TLS: the URL of the control plane is https then"));
        }
        let EnrolRequest { secret, node_id, signing_request } = request;
        let _room = self.room_to_enrol().await?;
        let now = OffsetDateTime::now_utc();
        let enrolled = self.trust.enrolment.enrol(&secret, &node_id, &signing_request, now).await;
        let (node, certified) = enrolled.map_err(|refusal| refuse(&refusal))?;
        tracing::info!(node.id = node.node_id, gateway = node.gateway, "a node has joined");
        Ok(to_wire(&certified))
    }

    /// Whoever would wait for longer comes back after a pause of its own, instead of giving up when its turn is near.
    async fn room_to_enrol(&self) -> Result<SemaphorePermit<'_>, Status> {
        match tokio::time::timeout(self.timing.silence / 3, self.enrolling.acquire()).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(Status::unavailable("too many nodes want a certificate at the same time, this one has to wait")),
        }
    }

    pub(super) async fn renew(&self, way: &Way, request: RenewRequest) -> Result<Certified, Status> {
        let Way::Tls(Some(shown)) = way else {
            return Err(Status::unauthenticated("it shows no certificate that could be renewed"));
        };
        self.check(shown)?;
        let _room = self.room_to_enrol().await?;
        let now = OffsetDateTime::now_utc();
        let renewed = self.trust.enrolment.renew(&shown.node, &request.signing_request, now).await;
        renewed.map(|certified| to_wire(&certified)).map_err(|refusal| refuse(&refusal))
    }
}

fn refuse(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Store(error) => {
            tracing::warn!("a node waits for its certificate: {error}");
            Status::unavailable(refusal.to_string())
        }
        _ => Status::permission_denied(refusal.to_string()),
    }
}

fn to_wire(certified: &enrolment::Certified) -> Certified {
    Certified { certificate: certified.certificate.to_vec().into(), authority: certified.authority.to_vec().into() }
}
