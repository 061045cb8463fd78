//! How a node joins: the text of a join token, and the name that a certificate gives to a node.

use std::fmt;
use std::str::FromStr;

/// The name that the certificate of every control plane is for. Nodes ask for it whatever address they connect to: whom
/// they trust is settled by the pin of the authority.
pub const CONTROL_PLANE_NAME: &str = "control-plane.sluice";

const PREFIX: &str = "slu_join_";
const BYTES: usize = 32;

/// SHA-256 of the subject public key info of an authority, as in RFC 7469 section 2.4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; BYTES]);

/// What a node shows to join: `slu_join_<gateway>.<secret>.<pin>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub gateway: String,
    pub secret: [u8; BYTES],
    /// Of the authority of the control plane that made it.
    pub pin: Pin,
}

/// Which node of which gateway a certificate is for: its URI subject alternative name, in the form of a SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName {
    pub gateway: String,
    pub node_id: String,
}

/// No join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no join token: one begins with {PREFIX} and is made by `sluice join-token create`")]
pub struct NotAJoinToken;

impl FromStr for JoinToken {
    type Err = NotAJoinToken;

    fn from_str(text: &str) -> Result<Self, NotAJoinToken> {
        let parts: Vec<_> = text.trim().strip_prefix(PREFIX).ok_or(NotAJoinToken)?.split('.').collect();
        let [gateway, secret, pin] = parts[..] else { return Err(NotAJoinToken) };
        if gateway.is_empty() {
            return Err(NotAJoinToken);
        }
        let (secret, pin) = (bytes(secret).ok_or(NotAJoinToken)?, bytes(pin).ok_or(NotAJoinToken)?);
        Ok(Self { gateway: gateway.to_owned(), secret, pin: Pin(pin) })
    }
}

impl JoinToken {
    /// The token as text. There is no `Display`, so that it gets into no log by accident.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}.{}.{}", self.gateway, Pin(self.secret), self.pin)
    }
}

impl NodeName {
    #[must_use]
    pub fn to_uri(&self) -> String {
        format!("spiffe://sluice/gateway/{}/node/{}", self.gateway, self.node_id)
    }

    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (gateway, node_id) = uri.strip_prefix("spiffe://sluice/gateway/")?.split_once("/node/")?;
        let is_good = Self::may_be_called(node_id) && !gateway.is_empty() && !gateway.contains('/');
        is_good.then(|| Self { gateway: gateway.to_owned(), node_id: node_id.to_owned() })
    }

    /// Whether a node can have this id: what a segment of a SPIFFE ID may be made of, up to 128 characters.
    #[must_use]
    pub fn may_be_called(node_id: &str) -> bool {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=128).contains(&node_id.len()) && node_id.bytes().all(is_good) && !matches!(node_id, "." | "..")
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("gateway", &self.gateway).field("pin", &self.pin).finish_non_exhaustive()
    }
}

fn bytes(text: &str) -> Option<[u8; BYTES]> {
    if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = JoinToken { gateway: "edge".to_owned(), secret: [0xa5; BYTES], pin: Pin([0x0f; BYTES]) };
        let text = token.reveal();
        assert!(text.starts_with("slu_join_edge.a5a5"), "{text}");
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("a5a5"));
        for bad in ["", "slu_join_", "slu_admin_00", &text[1..], &text[..text.len() - 1], &format!("{text}.")] {
            assert_eq!(bad.parse::<JoinToken>(), Err(NotAJoinToken), "{bad}");
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_written_and_nothing_else_is() {
        let name = NodeName { gateway: "edge".to_owned(), node_id: "node-1.example_x".to_owned() };
        assert_eq!(NodeName::from_uri(&name.to_uri()), Some(name));
        for bad in [
            "spiffe://other/gateway/edge/node/a",
            "spiffe://sluice/gateway/edge/node/",
            "spiffe://sluice/gateway//node/a",
            "spiffe://sluice/gateway/a/b/node/c",
            "spiffe://sluice/gateway/edge/node/a/node/b",
            "spiffe://sluice/gateway/edge/node/..",
        ] {
            assert_eq!(NodeName::from_uri(bad), None, "{bad}");
        }
    }
}
