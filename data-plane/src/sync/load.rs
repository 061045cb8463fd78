//! What the process of a node uses, as heartbeats tell it.

use std::time::{Duration, Instant};

/// The kernel counts processor time in hundredths of a second: what was used in less time than this says little.
const SHORTEST: Duration = Duration::from_secs(1);

/// Makes a load of the processor time that was used between two looks.
pub struct Meter {
    since: Instant,
    cpu_time: Duration,
}

impl Meter {
    pub fn start(now: Instant, cpu_time: Duration) -> Self {
        Self { since: now, cpu_time }
    }

    /// What was used since the load before; nothing if that is too short a time.
    pub fn read(&mut self, now: Instant, cpu_time: Duration, resident_bytes: u64) -> Option<proto::Load> {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < SHORTEST {
            return None;
        }
        let used = cpu_time.saturating_sub(self.cpu_time).as_millis() * 1000 / elapsed.as_millis();
        *self = Self::start(now, cpu_time);
        Some(proto::Load { cpu_millicores: u32::try_from(used).unwrap_or(u32::MAX), resident_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_what_was_used_since_the_one_before() {
        let begin = Instant::now();
        let (at, cpu) = (|seconds| begin + Duration::from_secs(seconds), Duration::from_secs);
        let mut meter = Meter::start(begin, cpu(100));
        assert!(meter.read(begin + Duration::from_millis(999), cpu(101), 7).is_none());
        let load = |cpu_millicores| Some(proto::Load { cpu_millicores, resident_bytes: 7 });
        assert_eq!(meter.read(at(2), cpu(103), 7), load(1500));
        assert_eq!(meter.read(at(6), cpu(104), 7), load(250));
        assert_eq!(meter.read(at(8), cpu(0), 7), load(0), "time that went back is no load");
    }
}
