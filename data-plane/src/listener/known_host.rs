//! The host that the requests of a connection name. Nearly all of them name the same, which is made canonical once.

use std::cell::RefCell;
use std::rc::Rc;

use model::fields::plain_text;
use model::router::host::{self, HostFault};

/// The host that was named last.
#[derive(Default)]
pub struct KnownHost(RefCell<Option<Known>>);

struct Known {
    /// As it came.
    text: Box<[u8]>,
    host: Rc<str>,
}

impl KnownHost {
    /// The canonical form of a `Host` field or an authority.
    pub fn canonical(&self, text: &[u8]) -> Result<Rc<str>, HostFault> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.as_ref().filter(|known| *known.text == *text) {
            return Ok(Rc::clone(&known.host));
        }
        let host: Rc<str> = host::canonical(plain_text(text).ok_or(HostFault::InvalidName)?)?.into();
        *known = Some(Known { text: text.into(), host: Rc::clone(&host) });
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_the_one_that_was_asked_for() {
        let known = KnownHost::default();
        for (text, host) in [("A.test:80", "a.test"), ("A.test:80", "a.test"), ("b.test", "b.test"), ("", "")] {
            assert_eq!(known.canonical(text.as_bytes()).as_deref(), Ok(host));
        }
        assert_eq!(known.canonical(b"user@b.test"), Err(HostFault::UserInfo));
        assert_eq!(known.canonical(b"b\xfc.test"), Err(HostFault::InvalidName));
        assert_eq!(known.canonical(b"A.test:80").as_deref(), Ok("a.test"));
    }
}
