//! Values that are stored but never shown: what stands in their place, and what putting that back means.
//!
//! In what people see, a secret is `redacted:sha256:` and its digest. Writing that back keeps the value that is
//! there if it has this digest, so that an export can be edited and applied, and is refused otherwise.

use std::fmt::Write;

use serde_json::Value;

use crate::digest::sha256;
use crate::problem::Fault;
use crate::resource::{Document, Kind};

const MARK: &str = "redacted:sha256:";

/// Puts marks in the place of all secrets in the written form of a resource.
pub fn redact(kind: Kind, value: &mut Value) {
    for pointer in kind.info().secrets {
        if let Some(Value::String(secret)) = value.pointer_mut(pointer) {
            *secret = mark_of(secret);
        }
    }
}

/// Puts the secrets of `before` in the place of their marks.
pub fn restore(kind: Kind, value: &mut Value, before: Option<&Document>) -> Result<(), Fault> {
    for pointer in kind.info().secrets {
        let Some(Value::String(written)) = value.pointer_mut(pointer) else { continue };
        if !written.starts_with(MARK) {
            continue;
        }
        let Some(before) = before else {
            let message = "this stands for a secret, and there is none to keep: the resource is new";
            return Err(Fault::new(*pointer, "redacted-value", message).hint("write the secret itself"));
        };
        let stored = serde_json::from_str(&before.spec).unwrap_or(Value::Null);
        match stored.pointer(pointer).and_then(Value::as_str).filter(|secret| mark_of(secret) == *written) {
            Some(secret) => secret.clone_into(written),
            None => {
                let message = "this stands for a secret that is not, or no longer, the stored one";
                return Err(Fault::new(*pointer, "redacted-value", message)
                    .hint("export the configuration again, or write the secret itself"));
            }
        }
    }
    Ok(())
}

fn mark_of(secret: &str) -> String {
    let mut mark = MARK.to_owned();
    for byte in sha256(secret.as_bytes()) {
        write!(mark, "{byte:02x}").expect("writing to a string cannot fail");
    }
    mark
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mark_stands_for_the_stored_secret_and_for_no_other() {
        let stored = json!({"cert": "public", "key": "secret"});
        let before = Document { created: 1, spec: stored.to_string().into() };
        let mut shown = stored.clone();
        redact(Kind::Certificate, &mut shown);
        assert_eq!(shown["cert"], "public");
        assert!(!shown.to_string().contains("secret"), "{shown}");

        let mut written = shown.clone();
        restore(Kind::Certificate, &mut written, Some(&before)).expect("the digest is right");
        assert_eq!(written, stored);

        let later = Document { created: 1, spec: json!({"cert": "public", "key": "renewed"}).to_string().into() };
        for before in [None, Some(&later)] {
            let fault = restore(Kind::Certificate, &mut shown.clone(), before).expect_err("a fault");
            assert_eq!((&*fault.pointer, fault.code), ("/key", "redacted-value"));
        }

        let mut plain = json!({"cert": "public", "key": "another"});
        restore(Kind::Certificate, &mut plain, None).expect("no mark, nothing to restore");
        assert_eq!(plain["key"], "another");
    }
}
