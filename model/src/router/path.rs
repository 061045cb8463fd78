//! The one canonical path of a request.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// It does not begin with a slash.
    NotAbsolute,
}

/// The canonical form of the path of a request.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if path.starts_with('/') { Ok(Cow::Borrowed(path)) } else { Err(PathFault::NotAbsolute) }
}
