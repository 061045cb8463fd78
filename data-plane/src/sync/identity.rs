//! Who this node is, and what it can do.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use model::policy::PolicyKind;
use model::resource::{KINDS, Labels, Name};
use proto::join::NodeName;

use crate::last_good::Position;

/// What the node says about itself.
pub struct Identity {
    node_id: String,
    gateway: String,
    hostname: String,
    labels: Labels,
    started: Instant,
}

impl Identity {
    /// The node is called `given`, or what it was called before, or something new.
    pub fn load(data_dir: &Path, given: Option<String>, gateway: &Name, labels: Labels) -> io::Result<Self> {
        let node_id = match given {
            Some(given) => given,
            None => kept_id(data_dir)?,
        };
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = hostname.trim().to_owned();
        Ok(Self { node_id, gateway: gateway.to_string(), hostname, labels, started: Instant::now() })
    }

    /// As its certificate names it.
    pub fn name(&self) -> NodeName {
        NodeName { gateway: self.gateway.clone(), node_id: self.node_id.clone() }
    }

    /// The first message on every connection; `held` is what has been served for `held_for`, `targets` the version of what
    /// is said about targets.
    pub fn hello(&self, held: Option<Position>, held_for: Duration, targets: u64) -> proto::Hello {
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        proto::Hello {
            node_id: self.node_id.clone(),
            gateway: self.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: KINDS.iter().map(|info| info.singular.to_owned()).collect(),
            policy_types: PolicyKind::names().map(str::to_owned).collect(),
            held: held.map(super::conversation::to_wire),
            hostname: self.hostname.clone(),
            uptime_ms: milliseconds(self.started.elapsed()).max(1),
            held_for_ms: milliseconds(held_for),
            labels: self.labels.clone(),
            targets,
        }
    }
}

/// The id in the data directory; made when it is not there yet.
fn kept_id(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("node-id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // An empty file is what a crash in the middle of the first start leaves.
        _ => {
            fs::create_dir_all(data_dir)?;
            let id = uuid::Uuid::now_v7().to_string();
            fs::write(&path, format!("{id}\n"))?;
            Ok(id)
        }
    }
}
