//! Who this node is to the control plane, and who the control plane is to it.
//!
//! A node makes a key once and keeps it. With a join token it gets a certificate for it, and with that certificate the
//! next one. Whom it connects to must show a certificate of the authority whose pin the token had.
//!
//! In the folder `trust` of the data folder: `node.key`, unless it is kept elsewhere, and `node.crt` with the certificate
//! and that of the authority.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::sealing::SealingKey;
use proto::distribution_client::DistributionClient;
use proto::join::{CONTROL_PLANE_NAME, JoinToken, NodeName, Pin};
use proto::{Certified, EnrolRequest, RenewRequest};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};

mod approval;
mod certificate;
mod files;
mod pinned;
mod renewal;

pub use approval::Approver;
pub use certificate::gateway_of;
use certificate::{NodeCertificate, NodeKey};
pub use files::Files;
use pinned::Pinned;
use renewal::Renewal;

use crate::settings::JoinTokenSource;
use crate::sync::lost::{Lost, why_unreachable};

/// What seals the files of a node: derived from its key, which is made where there is none.
pub fn sealing_key(data_dir: &Path, key_file: Option<&Path>) -> io::Result<SealingKey> {
    Ok(Files::open(data_dir, key_file)?.key()?.sealing_key())
}

/// How long a certificate may be waited for.
const DEADLINE: Duration = Duration::from_secs(15);

/// See the head of this file.
pub struct Trust {
    files: Files,
    key: NodeKey,
    join_token: Option<JoinTokenSource>,
    name: NodeName,
    certificate: watch::Sender<Option<Arc<NodeCertificate>>>,
}

impl Trust {
    /// Takes what is in the data folder; makes the key where there is none.
    pub fn open(files: Files, join_token: Option<JoinTokenSource>, name: NodeName) -> io::Result<Self> {
        let key = files.key()?;
        let found = files.certificate()?.map(Arc::new);
        let certificate = found.filter(|found| {
            if !found.is_for(&key) {
                tracing::warn!("its certificate is for another key than the one that it has now: it joins anew");
                return false;
            }
            let is_ours = found.node == name;
            if !is_ours {
                let NodeName { gateway, node_id } = &found.node;
                tracing::warn!("its certificate is for the node `{node_id}` of the gateway `{gateway}`: it joins anew");
            }
            is_ours
        });
        Ok(Self { files, key, join_token, name, certificate: watch::Sender::new(certificate) })
    }

    fn certificate(&self) -> Option<Arc<NodeCertificate>> {
        self.certificate.borrow().clone()
    }

    /// Who says whether a revision is the authority's; nothing before this node has joined.
    pub fn approver(&self) -> Option<Approver> {
        let certificate = self.certificate()?;
        Some(Approver::new(certificate.authority_key(), certificate.node.gateway.clone()))
    }

    /// A connection with the certificate of this node, which joins first if it has none.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Lost> {
        let certificate = match self.certificate() {
            Some(certificate) => certificate,
            None => self.join(endpoint).await?,
        };
        self.open_channel(endpoint, certificate.pin, Some(&certificate)).await
    }

    /// After the control plane took no longer what this node showed: joins anew, if there is a token.
    pub async fn join_again(&self, endpoint: &Endpoint, refused: Lost) -> Result<(), Lost> {
        match self.join(endpoint).await {
            Ok(_) => Ok(()),
            Err(Lost::NoJoinToken) => Err(refused),
            Err(Lost::Rejected(status)) => Err(Lost::Outside { refused: refused.to_string(), status }),
            Err(other) => Err(other),
        }
    }

    async fn join(&self, endpoint: &Endpoint) -> Result<Arc<NodeCertificate>, Lost> {
        let source = self.join_token.as_ref().ok_or(Lost::NoJoinToken)?;
        let JoinToken { gateway, secret, pin } = source.read().await.map_err(Lost::JoinToken)?;
        if gateway != self.name.gateway {
            return Err(Lost::OtherGateway { token: gateway, node: self.name.gateway.clone() });
        }
        let channel = self.open_channel(endpoint, pin, None).await?;
        let request = EnrolRequest {
            secret: secret.to_vec().into(),
            node_id: self.name.node_id.clone(),
            signing_request: self.key.signing_request().into(),
        };
        let mut client = DistributionClient::new(channel);
        let certified = timeout(DEADLINE, client.enrol(request)).await.map_err(|_| Lost::Silent)??;
        let certificate = self.keep(certified.into_inner())?;
        tracing::info!(
            "this node has joined the gateway `{gateway}`; its certificate is good until {}",
            certificate.end()
        );
        Ok(certificate)
    }

    async fn renew(&self, endpoint: &Endpoint) -> Result<Arc<NodeCertificate>, Lost> {
        let certificate = self.certificate().ok_or(Lost::NoJoinToken)?;
        let channel = self.open_channel(endpoint, certificate.pin, Some(&certificate)).await?;
        let mut client = DistributionClient::new(channel);
        let request = RenewRequest { signing_request: self.key.signing_request().into() };
        let certified = timeout(DEADLINE, client.renew(request)).await.map_err(|_| Lost::Silent)??;
        self.keep(certified.into_inner())
    }

    /// Takes a certificate into use when it is on disk. Its authority may be a new one: who sent it is of the authority that
    /// this node knew until now.
    fn keep(&self, certified: Certified) -> Result<Arc<NodeCertificate>, Lost> {
        let Certified { certificate, authority } = certified;
        let certificate = NodeCertificate::new(certificate.to_vec(), authority.to_vec()).map_err(Lost::Protocol)?;
        let before = self.certificate().map(|before| before.pin);
        if before.is_some_and(|before| before != certificate.pin) {
            tracing::info!("this node knows the control plane by the pin {} from now on", certificate.pin);
        }
        self.files.keep(&certificate).map_err(|error| Lost::Disk(error.to_string()))?;
        let certificate = Arc::new(certificate);
        self.certificate.send_replace(Some(certificate.clone()));
        Ok(certificate)
    }

    async fn open_channel(
        &self,
        endpoint: &Endpoint,
        pin: Pin,
        shown: Option<&NodeCertificate>,
    ) -> Result<Channel, Lost> {
        let tls = ClientTlsConfig::new().domain_name(CONTROL_PLANE_NAME);
        let tls = match shown {
            Some(certificate) => tls.identity(Identity::from_pem(certificate.to_pem(), self.key.to_pem())),
            None => tls,
        };
        let unusable = |error: tonic::transport::Error| Lost::Unreachable(why_unreachable(&error));
        let endpoint = endpoint.clone().tls_config_with_verifier(tls, Arc::new(Pinned::new(pin))).map_err(unusable)?;
        timeout(DEADLINE, endpoint.connect())
            .await
            .map_err(|_| Lost::Unreachable("no answer".to_owned()))?
            .map_err(unusable)
    }

    /// Renews the certificate whenever it is time, until `shutdown`. The stream goes on meanwhile.
    pub async fn keep_fresh(&self, endpoint: &Endpoint, shutdown: &CancellationToken) {
        let mut renewal: Option<Renewal> = None;
        let mut changes = self.certificate.subscribe();
        loop {
            let now = SystemTime::now();
            let current = self.certificate();
            if let Some(certificate) = &current
                && renewal.as_ref().is_none_or(|renewal| !renewal.is_of(certificate))
            {
                renewal = Some(Renewal::of(certificate, fastrand::f64()));
            }
            if let Some(due) = renewal.as_mut().filter(|renewal| renewal.is_due(now)) {
                match self.renew(endpoint).await {
                    Ok(next) => tracing::info!("the certificate of this node is renewed, until {}", next.end()),
                    Err(error) => {
                        due.postpone(now);
                        if due.is_worth_a_word(now) {
                            tracing::warn!("cannot renew the certificate of this node, will try again: {error}");
                        }
                    }
                }
            }
            let pause = renewal.as_ref().map_or(renewal::LOOK_AGAIN, |renewal| renewal.pause(SystemTime::now()));
            tokio::select! {
                () = shutdown.cancelled() => return,
                // It has joined, or joined again.
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl JoinTokenSource {
    /// A file is read again for every attempt, so that a new token needs no restart.
    async fn read(&self) -> Result<JoinToken, String> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => tokio::fs::read_to_string(path).await.map_err(|error| not_readable(path, &error))?,
        };
        text.parse().map_err(|error: proto::join::NotAJoinToken| match self {
            Self::Text(_) => error.to_string(),
            Self::File(path) => format!("{}: {error}", path.display()),
        })
    }

    /// The gateway that a node joins with it, where that can be told.
    #[must_use]
    pub fn gateway(&self) -> Option<String> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => fs::read_to_string(path).ok()?,
        };
        text.parse::<JoinToken>().ok().map(|token| token.gateway)
    }
}

fn not_readable(path: &Path, error: &io::Error) -> String {
    format!("cannot read it from {}: {error}", path.display())
}
