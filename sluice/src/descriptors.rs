//! How many files and sockets the process may have open: as many as it is let. What a shell or a service manager begins
//! with, 1024 often, is meant for programs that cannot deal with more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this a busy process runs out of them: each connection takes one, and a node on the stream too.
const FEW: u64 = 8 * 1024;

/// Raises the limit to the one that only an administrator can raise, and says where that is low.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < FEW) {
        tracing::warn!(
            "only {limit} files and sockets may be open at once: raise the hard limit (LimitNOFILE of systemd, ulimit -Hn)"
        );
    }
}
