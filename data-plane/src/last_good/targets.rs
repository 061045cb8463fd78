//! What was last said about targets beside the configuration, on disk beside the last good configuration.
//!
//! One file, replaced whole, sealed as the configuration is: the message as it would come from the control plane. It
//! changes often, so it is written no more than once a second, and when the node stops.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::digest::sha256;
use model::membership::{Change, Membership};
use model::sealing::SealingKey;
use model::wire::{target_change_from_wire, target_change_to_wire};
use prost::Message;

use super::writer::Writer;

const FILE: &str = "targets";
/// How far two writes are apart.
const PACE: Duration = Duration::from_secs(1);
const DIGEST: usize = 32;

/// The file. Its directory is held by [`super::LastGood`].
pub struct LastTargets(Writer<Membership>);

impl LastTargets {
    /// Reads what the directory holds. Nothing can be made of a damaged file; the control plane says all of it again.
    pub fn open(directory: &Path, key: Arc<SealingKey>) -> io::Result<(Self, Membership)> {
        let path = directory.join(FILE);
        let known = match fs::read(&path) {
            Ok(bytes) => decode(&key, &bytes).unwrap_or_else(|reason| {
                tracing::error!("cannot use the targets in {}: {reason}", path.display());
                Membership::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Membership::default(),
            Err(error) => return Err(error),
        };
        // What was read may have the form of before: it is written once more.
        let mut written = None;
        let writer = Writer::start("targets", PACE, move |next| {
            if written.as_ref() != Some(&next) {
                match write(&path, &encode(&key, &next)) {
                    Ok(()) => written = Some(next),
                    Err(error) => return Err((error, next)),
                }
            }
            Ok(())
        })?;
        Ok((Self(writer), known))
    }

    /// Has it written soon. The newest counts.
    pub fn keep(&self, membership: Membership) {
        self.0.put(|_| membership);
    }

    /// Returns when everything is on disk, or cannot be written.
    pub fn close(self) {
        self.0.close();
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn encode(key: &SealingKey, membership: &Membership) -> Vec<u8> {
    let changes = membership.changes().map(|change| target_change_to_wire(&change)).collect();
    let message = proto::Targets { version: membership.version(), whole: true, more: false, changes };
    key.seal(FILE.as_bytes(), &message.encode_to_vec())
}

fn decode(key: &SealingKey, bytes: &[u8]) -> Result<Membership, String> {
    // What was written before it was sealed: a digest, and the message.
    let plain = bytes.split_at_checked(DIGEST).filter(|(digest, message)| *digest == sha256(message));
    let message = match plain {
        Some((_, message)) => message.to_vec(),
        None => key.open(FILE.as_bytes(), bytes).ok_or("it is damaged, or sealed with another key")?,
    };
    let message = proto::Targets::decode(&message[..]).map_err(|error| error.to_string())?;
    let changes: Result<Vec<Change>, String> = message.changes.iter().map(target_change_from_wire).collect();
    Ok(Membership::whole(message.version, changes?))
}

#[cfg(test)]
mod tests {
    use model::membership::Member;

    use super::*;

    fn membership(version: u64) -> Membership {
        let change = |number| Change {
            service: "shop".parse().expect("a name"),
            target: format!("http://10.0.0.{number}:80").parse().expect("a URL"),
            version: number,
            member: Some(Member { draining: number % 2 == 0, ..Member::default() }),
        };
        Membership::whole(version, (1..=version).map(change))
    }

    #[test]
    fn the_newest_is_there_after_a_stop_and_damage_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |secret: u8| LastTargets::open(directory.path(), Arc::new(SealingKey::new(&[secret; 32])));
        let (disk, known) = open(1).expect("it opens");
        assert_eq!(known, Membership::default());
        (1..=5).for_each(|version| disk.keep(membership(version)));
        disk.close();
        let path = directory.path().join(FILE);
        let mut bytes = fs::read(&path).expect("a file");
        assert!(!bytes.windows(8).any(|window| window == b"10.0.0.1"), "it is sealed");
        let (disk, known) = open(1).expect("it opens");
        assert_eq!(known, membership(5));
        disk.close();
        assert_eq!(open(2).expect("it opens").1, Membership::default(), "another key");

        *bytes.last_mut().expect("bytes") ^= 1;
        fs::write(&path, bytes).expect("a file");
        assert_eq!(open(1).expect("it opens").1, Membership::default());
    }

    #[test]
    fn what_was_written_before_it_was_sealed_is_read_and_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = Arc::new(SealingKey::new(&[1; 32]));
        let path = directory.path().join(FILE);
        let changes = membership(3).changes().map(|change| target_change_to_wire(&change)).collect();
        let message = proto::Targets { version: 3, whole: true, more: false, changes }.encode_to_vec();
        fs::write(&path, [&sha256(&message)[..], &message].concat()).expect("a file");
        let (disk, known) = LastTargets::open(directory.path(), key.clone()).expect("it opens");
        assert_eq!(known, membership(3));
        disk.keep(membership(3));
        disk.close();
        let sealed = fs::read(&path).expect("a file");
        assert_eq!(decode(&key, &sealed), Ok(membership(3)));
        assert!(!sealed.windows(8).any(|window| window == b"10.0.0.1"), "it is sealed now");
    }
}
