//! What of a store is sealed: documents of kinds that hold secrets, and the keys of session tickets. Both databases go
//! through it; without a key, as in tests, everything stays as it is.
//!
//! What was stored before sealing began is read as it is, and sealed when it is written again.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::resource::{Document, Key};
use model::sealing::SealingKey;

use super::{ResourceChange, RevisionRecord, StoreError, TicketKey};

/// In the place of a specification, which is an object, there is a text that begins so.
const MARK: &str = "\"sealed:";

/// The key of a store, when it is there.
#[derive(Default)]
pub struct Sealed(OnceLock<Arc<SealingKey>>);

impl Sealed {
    /// From now on everything is sealed. A second key is passed over: there is one for a store.
    pub fn begin(&self, key: Arc<SealingKey>) {
        let _ = self.0.set(key);
    }

    /// A revision as it is stored.
    pub fn record(&self, gateway: &str, record: &RevisionRecord) -> RevisionRecord {
        let changes = record.changes.iter().map(|change| ResourceChange {
            key: change.key.clone(),
            before: change.before.as_ref().map(|document| self.document(gateway, &change.key, document)),
            after: change.after.as_ref().map(|document| self.document(gateway, &change.key, document)),
        });
        RevisionRecord { revision: record.revision.clone(), changes: changes.collect() }
    }

    fn document(&self, gateway: &str, key: &Key, document: &Document) -> Document {
        let Some(sealing) = self.0.get().filter(|_| !key.kind.info().secrets.is_empty()) else {
            return document.clone();
        };
        let sealed = STANDARD.encode(sealing.seal(&context(gateway, key), document.spec.as_bytes()));
        Document { created: document.created, spec: format!("{MARK}{sealed}\"").into() }
    }

    /// A revision as it was made.
    pub fn open_record(&self, gateway: &str, record: RevisionRecord) -> Result<RevisionRecord, StoreError> {
        if !record.changes.iter().any(|change| !change.key.kind.info().secrets.is_empty()) {
            return Ok(record);
        }
        let open = |key: &Key, document: &Option<Document>| {
            document.clone().map(|document| self.open_document(gateway, key, document)).transpose()
        };
        let changes = record.changes.iter().map(|change| {
            let (before, after) = (open(&change.key, &change.before)?, open(&change.key, &change.after)?);
            Ok(ResourceChange { key: change.key.clone(), before, after })
        });
        let changes = changes.collect::<Result<_, StoreError>>()?;
        Ok(RevisionRecord { changes, ..record })
    }

    pub fn open_document(&self, gateway: &str, key: &Key, document: Document) -> Result<Document, StoreError> {
        let Some(sealed) = document.spec.strip_prefix(MARK).and_then(|rest| rest.strip_suffix('"')) else {
            return Ok(document);
        };
        let opened = self.0.get().and_then(|sealing| {
            let plain = sealing.open(&context(gateway, key), &STANDARD.decode(sealed).ok()?)?;
            String::from_utf8(plain).ok()
        });
        let spec = opened.ok_or_else(|| StoreError::Unreadable(format!("{key} does not open with the sealing key")))?;
        Ok(Document { created: document.created, spec: spec.into() })
    }

    pub fn ticket_key(&self, gateway: &str, key: &TicketKey) -> Vec<u8> {
        match self.0.get() {
            Some(sealing) => sealing.seal(&ticket_context(gateway, key.period), &key.secret),
            None => key.secret.to_vec(),
        }
    }

    pub fn open_ticket_key(&self, gateway: &str, period: u64, stored: Vec<u8>) -> Result<TicketKey, StoreError> {
        let unreadable = || StoreError::Unreadable(format!("the ticket key of period {period} does not open"));
        let secret = match <[u8; 32]>::try_from(stored) {
            Ok(plain) => plain,
            Err(sealed) => {
                let opened = self.0.get().and_then(|sealing| sealing.open(&ticket_context(gateway, period), &sealed));
                opened.and_then(|secret| secret.try_into().ok()).ok_or_else(unreadable)?
            }
        };
        Ok(TicketKey { period, secret })
    }
}

fn context(gateway: &str, key: &Key) -> Vec<u8> {
    format!("{gateway} {} {}", key.kind.singular(), &*key.name).into_bytes()
}

fn ticket_context(gateway: &str, period: u64) -> Vec<u8> {
    format!("{gateway} ticket key {period}").into_bytes()
}
