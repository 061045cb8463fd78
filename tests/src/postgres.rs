//! A throw-away PostgreSQL server, from the binaries that Debian installs.
//!
//! It listens on loopback and keeps everything in a temporary folder. PostgreSQL refuses to
//! run as root, so as root it is started as the user `postgres`. Nothing is flushed to disk: a test kills
//! servers, never the machine.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::address::free_address;

/// The user that runs the server when the test runs as root; Debian's package creates it.
const SERVER_USER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server; dropping it ends the server and removes its files.
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    server: Option<Child>,
}

impl Postgres {
    /// Starts a new, empty server.
    ///
    /// # Panics
    /// Panics when there is no PostgreSQL, or it does not start: tests that need one fail without it.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments for `initdb`.
    ///
    /// # Panics
    /// As [`Postgres::start`] does.
    #[must_use]
    pub fn start_with(initdb: &[&str]) -> Self {
        let mut postgres = Self::empty();
        postgres.run("initdb", |command| {
            command.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
            command.args(initdb);
        });
        postgres.start_again();
        postgres
    }

    /// A server that has, and gets, all that this one has. What this one acknowledges from now on the other one has too.
    ///
    /// # Panics
    /// Panics when the copy does not start or does not follow.
    #[must_use]
    pub fn standby(&self) -> Self {
        let mut standby = Self::empty();
        let mut copy = standby.command("pg_basebackup");
        copy.args(self.place()).args([
            "-U",
            "postgres",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            "-D",
        ]);
        let status = copy.arg(standby.data()).status().expect("pg_basebackup is installed beside initdb");
        assert!(status.success(), "pg_basebackup failed");
        standby.start_again();
        self.query("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.query("SELECT pg_reload_conf()");
        standby
    }

    /// Makes a standby a server of its own.
    ///
    /// # Panics
    /// Panics when it does not become one.
    pub fn promote(&self) {
        let promoted = self.command("pg_ctl").args(["promote", "--silent", "--pgdata"]).arg(self.data()).status();
        assert!(promoted.is_ok_and(|status| status.success()), "it is not promoted: {}", self.log_tail());
    }

    /// Has the server do something in the database `postgres`.
    ///
    /// # Panics
    /// Panics when it does not.
    pub fn query(&self, text: &str) -> String {
        let mut command = self.command("psql");
        command.args(self.place()).args(["-U", "postgres", "--no-psqlrc", "--tuples-only", "--no-align", "-c", text]);
        let output = command.output().expect("psql is installed beside initdb");
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// No file of the server may become larger than this, or as large as it likes: to it, that is a disk without room.
    ///
    /// # Panics
    /// Panics when there is no `prlimit`, which is part of util-linux.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let server = self.server.as_ref().expect("the server is running").id();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        for process in children.split_whitespace().chain([server.to_string().as_str()]) {
            // Of the soft limit alone, so that it can be lifted again. A child may have ended meanwhile.
            let limited =
                self.command("/usr/bin/prlimit").args(["--pid", process, &format!("--fsize={limit}:")]).status();
            let limited = limited.expect("prlimit is part of util-linux");
            assert!(limited.success() || process != server.to_string(), "the server cannot be limited");
        }
    }

    /// A place for a server, with nothing in it.
    fn empty() -> Self {
        let binaries = find_binaries();
        let folder = TempDir::with_prefix("sluice-postgres-").expect("a temporary folder can be made");
        if is_root() {
            let (uid, gid) = server_user();
            chown(folder.path(), Some(uid), Some(gid)).expect("root may give a folder away");
        }
        Self { binaries, folder, address: free_address(), server: None }
    }

    /// The database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The database `postgres`, by way of something that passes connections on.
    #[must_use]
    pub fn url_through(&self, relay: SocketAddr) -> String {
        format!("postgres://postgres@{relay}/postgres")
    }

    /// Creates another database and returns its URL.
    #[must_use]
    pub fn create_database(&self, name: &str) -> String {
        let status = self
            .command("createdb")
            .args(self.place())
            .args(["-U", "postgres", name])
            .status()
            .expect("createdb is installed beside initdb");
        assert!(status.success(), "createdb {name} failed");
        self.url_of(name)
    }

    /// Ends the server at once, as if it had crashed; connections are cut.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let data = self.data();
        let stopped =
            self.command("pg_ctl").args(["stop", "--mode=immediate", "--silent", "--pgdata"]).arg(data).status();
        if !stopped.is_ok_and(|status| status.success()) {
            // It may have ended by itself; then there is nothing to kill.
            let _ = server.kill();
        }
        let _ = server.wait();
    }

    /// Starts the server again after [`Postgres::stop`], at the same address and with the same data.
    ///
    /// # Panics
    /// Panics when it does not start.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "the server is running");
        assert!(self.try_start(), "PostgreSQL does not start; its log ends with:\n{}", self.log_tail());
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    fn place(&self) -> [String; 4] {
        ["-h".to_owned(), self.address.ip().to_string(), "-p".to_owned(), self.address.port().to_string()]
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("log")).expect("the temporary folder can be written");
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(self.place())
            .arg("-k")
            .arg(self.folder.path())
            .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("postgres is installed beside initdb");
        self.server = Some(server);
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if self.answers() {
                return true;
            }
            let server = self.server.as_mut().expect("it was just started");
            if server.try_wait().is_ok_and(|status| status.is_some()) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.stop();
        false
    }

    /// Asks through the socket in our own folder, which no other server has.
    fn answers(&self) -> bool {
        let ready = self
            .command("pg_isready")
            .arg("-h")
            .arg(self.folder.path())
            .args(["-p", &self.address.port().to_string(), "--quiet"])
            .status();
        ready.is_ok_and(|status| status.success())
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) {
        let mut command = self.command(program);
        command.arg("-D").arg(self.data());
        arguments(&mut command);
        let output = command.output().unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        assert!(output.status.success(), "{program} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// One of PostgreSQL's programs, as a user that it agrees to run as.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // The folder of the test need not be readable to that user.
        command.current_dir("/").env_remove("PGDATA").env_remove("PGPORT").env("LC_ALL", "C");
        command
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The newest version where Debian puts them, or whatever is in the search path.
fn find_binaries() -> PathBuf {
    let version = |path: &Path| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .map(|version| version.join("bin"))
        .chain(std::env::split_paths(&search_path))
        .find(|folder| folder.join("initdb").exists())
        .expect("this test needs PostgreSQL in /usr/lib/postgresql: apt-get install postgresql (tests/run does it)")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn server_user() -> (u32, u32) {
    let passwd = fs::File::open("/etc/passwd").expect("users are listed in /etc/passwd");
    let lines = io::BufReader::new(passwd).lines().map_while(Result::ok);
    for line in lines {
        let fields: Vec<&str> = line.split(':').collect();
        if let [SERVER_USER, _, uid, gid, ..] = fields[..] {
            return (uid.parse().expect("a user id"), gid.parse().expect("a group id"));
        }
    }
    panic!("as root, this test needs the user `{SERVER_USER}` to run PostgreSQL; Debian's package creates it")
}
