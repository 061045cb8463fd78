//! The memory of the process against its budget. As it fills up, cores give up in stages what others can have again:
//! connections that wait, connections and requests that are new, and then the largest of those that are served.
//!
//! Looked at from outside the cores ten times a second: a request costs nothing for it. What answers operators and
//! follows the configuration does not run on cores and is never given up.

use std::fs;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cores::Cores;
use crate::telemetry::{NodeState, resident_bytes};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A stage ends only when this share of the budget less is used than where it begins, so that it does not flutter.
const EASE_PERCENT: u64 = 5;

/// How far the memory of the process is used up. Each stage does what those before it do as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    #[default]
    None,
    /// Connections are closed after the request that they have.
    NoKeepAlive,
    /// New connections are closed, and new requests answered with 503.
    NothingNew,
    /// The connections that hold most are closed in the middle of what they do.
    ResetLargest,
}

impl Pressure {
    const STAGES: [(Self, u64); 3] = [(Self::ResetLargest, 95), (Self::NothingNew, 90), (Self::NoKeepAlive, 80)];

    /// What the use of the budget means, coming from this stage.
    #[must_use]
    pub fn after(self, used: u64, budget: u64) -> Self {
        let percent = u64::try_from(u128::from(used) * 100 / u128::from(budget.max(1))).unwrap_or(u64::MAX);
        let is_in =
            |(stage, begins): &&(Self, u64)| percent >= if *stage <= self { begins - EASE_PERCENT } else { *begins };
        Self::STAGES.iter().find(is_in).map_or(Self::None, |(stage, _)| *stage)
    }
}

/// What the process may have: the limit of its control group, or the memory of the machine.
#[must_use]
pub fn available() -> u64 {
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = limits.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 =
            text.lines().next()?.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    });
    group.unwrap_or(u64::MAX).min(machine.unwrap_or(u64::MAX))
}

/// Tells the cores what the use of memory means, until `stop`.
pub async fn watch(budget: u64, cores: Cores, node: std::sync::Arc<NodeState>, stop: CancellationToken) {
    let mut pressure = Pressure::None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let used = resident_bytes();
        let next = pressure.after(used, budget);
        if next != pressure {
            tracing::warn!(memory.used = used, memory.budget = budget, from = ?pressure, to = ?next, "memory pressure");
        }
        // Each time anew: connections come and requests end between two looks.
        if next != pressure || next != Pressure::None {
            cores.press(next);
        }
        pressure = next;
        node.has_memory(pressure, budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_begin_at_their_share_and_end_below_it() {
        let mut pressure = Pressure::None;
        for (used, expected) in [
            (79, Pressure::None),
            (80, Pressure::NoKeepAlive),
            (89, Pressure::NoKeepAlive),
            (76, Pressure::NoKeepAlive),
            (90, Pressure::NothingNew),
            (96, Pressure::ResetLargest),
            (91, Pressure::ResetLargest),
            (89, Pressure::NothingNew),
            (84, Pressure::NoKeepAlive),
            (74, Pressure::None),
            (79, Pressure::None),
            (1000, Pressure::ResetLargest),
        ] {
            pressure = pressure.after(used, 100);
            assert_eq!(pressure, expected, "{used}");
        }
        assert_eq!(Pressure::None.after(u64::MAX, 0), Pressure::ResetLargest);
        assert!(available() > 0);
    }
}
