//! Child processes on chosen cores, and what they cost: CPU of the whole tree, memory, readiness.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process that is killed with all its children when it goes out of scope.
pub struct Process {
    child: Child,
    pub name: String,
}

impl Process {
    /// Starts `command` on one core; its output goes to `log`.
    pub fn start(
        name: &str,
        core: usize,
        command: &[&str],
        environment: &[(&str, String)],
        log: &Path,
    ) -> Result<Self> {
        let output = fs::File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds on a processor so far, of the process, its threads and its children.
    pub fn cpu_ns(&self) -> Result<u64> {
        let tree = tree(self.pid());
        if tree.is_empty() {
            bail!("{} has ended", self.name);
        }
        Ok(tree.iter().filter_map(|pid| cpu_ns_of(*pid)).sum())
    }

    /// Proportional set size of the tree, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        tree(self.pid()).iter().filter_map(|pid| pss_of(*pid)).sum()
    }

    /// The most that was resident of the tree at any time, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        let peak = |pid: &u32| kib_in(&format!("/proc/{pid}/status"), "VmHWM:");
        tree(self.pid()).iter().filter_map(peak).sum()
    }

    /// Files and sockets that the tree has open.
    pub fn open_files(&self) -> usize {
        let open = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        tree(self.pid()).iter().map(open).sum()
    }
}

impl Process {
    /// Kills it with all its children, and waits for that.
    pub fn end(&mut self) {
        for pid in tree(self.pid()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn tree(root: u32) -> Vec<u32> {
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            tree.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    tree.retain(|pid| Path::new(&format!("/proc/{pid}")).exists());
    tree
}

/// Of the whole process: what threads took that have ended is part of it.
fn cpu_ns_of(pid: u32) -> Option<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
    u64::try_from(Duration::from(clock_gettime(clock).ok()?).as_nanos()).ok()
}

fn pss_of(pid: u32) -> Option<u64> {
    kib_in(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// What a line of a file says in KiB, in bytes.
fn kib_in(file: &str, label: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A port that nobody has at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until something accepts connections there.
pub fn wait_for_port(port: u16, what: &str) -> Result<()> {
    wait_until(&format!("{what} on port {port}"), || TcpStream::connect(("127.0.0.1", port)).is_ok())
}

/// Looks again and again until it is so, for half a minute.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if is_so() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("gave up waiting for {what}")
}
