//! What seals the secrets in the store: one key for all of them, which lies in the store itself, sealed by a master key.
//!
//! So a change of the master key seals one value again and not all, and replicas take the key from the store when they
//! start. The key is read then and never again.

use model::sealing::{KEY_BYTES, SealingKey, new_secret};

use super::TrustError;
use super::master_key::MasterKeys;
use crate::store::{Store, StoreError};

/// Under which name it lies in the store; also what it is bound to.
const NAME: &str = "sealing-key";

/// The key of a store. Whoever is first makes it; where it is sealed by a master key other than the first, that is
/// mended.
pub async fn open(store: &dyn Store, master: &MasterKeys) -> Result<SealingKey, TrustError> {
    let fresh = master.first().seal(NAME.as_bytes(), &new_secret());
    let stored = store.keep_shared(NAME, &fresh).await?;
    let Some(secret) = master.open(NAME.as_bytes(), &stored) else {
        let sealed_with = model::sealing::key_of(&stored).map_or_else(String::new, |id| id.to_string());
        return Err(TrustError::WrongMasterKey { sealed_with, known: master.ids().map(|id| id.to_string()).collect() });
    };
    let secret: [u8; KEY_BYTES] = secret
        .try_into()
        .map_err(|_| StoreError::Unreadable("the sealing key has not the length of a key".to_owned()))?;
    if !master.sealed_by_first(&stored) {
        let again = master.first().seal(NAME.as_bytes(), &secret);
        // Otherwise another replica was faster.
        if store.swap_shared(NAME, &stored, &again).await? {
            tracing::info!("the secrets in the store are under the master key {} from now on", master.first().id());
        }
    }
    Ok(SealingKey::new(&secret))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::store::SqliteStore;
    use crate::trust::master_key::MasterKeySource;

    fn keys(digits: &[&str]) -> MasterKeys {
        let lines: Vec<_> = digits.iter().map(|digit| digit.repeat(2 * KEY_BYTES)).collect();
        MasterKeys::load(Some(&MasterKeySource::Text(lines.join("\n"))), Path::new("/nowhere"), true).expect("keys")
    }

    #[tokio::test]
    async fn a_master_key_takes_the_place_of_another_step_by_step() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("sluice.db")).await.expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        let first = open(&*store, &keys(&["1"])).await.expect("it is made").id();
        // Known, then first, then alone.
        for step in [["1", "2"].as_slice(), &["2", "1"], &["1", "2"], &["2", "1"], &["2"]] {
            assert_eq!(open(&*store, &keys(step)).await.expect("it opens").id(), first, "{step:?}");
        }
        let error = open(&*store, &keys(&["1"])).await.expect_err("it is gone").to_string();
        assert!(error.contains(&keys(&["2"]).first().id().to_string()), "{error}");
        assert!(error.contains(&keys(&["1"]).first().id().to_string()), "{error}");
    }
}
