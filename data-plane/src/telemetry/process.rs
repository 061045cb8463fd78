//! Memory and processor time of this process, as the kernel tells them.

use std::fs;
use std::time::Duration;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUse {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_files: u64,
}

/// Linux counts processor time for user space in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the process uses now; zeros where there is no `/proc`.
pub fn used() -> ProcessUse {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ProcessUse {
        resident_bytes: resident(&status).unwrap_or(0),
        cpu_seconds: cpu_seconds(&stat).unwrap_or(0.0),
        open_files: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

/// Resident memory of the process now, in bytes; 0 where there is no `/proc`.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    resident(&status).unwrap_or(0)
}

/// Processor time of the process since its start; nothing where there is no `/proc`.
#[must_use]
pub fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Duration::try_from_secs_f64(cpu_seconds(&stat).unwrap_or(0.0)).unwrap_or_default()
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program, in brackets, may contain anything: fields are counted from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(resident("VmPeak:\t 12 kB\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert!(used().resident_bytes > 0 && cpu_time().as_secs_f64() <= used().cpu_seconds);
    }
}
