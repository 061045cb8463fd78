//! Files with a configuration: read, merged, and asked where something in them was written.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::anyhow;
use clap::Args;
use model::file::{Others, Parsed, Source, Surroundings};
use model::lint::lint;
use model::problem::{Fault, Problem, Problems};
use model::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::client::Refusal;
use crate::problems;

/// Which files.
#[derive(Args)]
pub struct FileArguments {
    /// A file, a folder with *.yaml, *.yml and *.json files, or `-` for stdin; all of them count as one
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Files that were read.
#[derive(Clone)]
pub struct Files {
    body: Value,
    /// Knows where things are written; absent when nothing was.
    parsed: Option<Arc<Parsed>>,
    /// Everything that was read, also what the files refer to.
    read: Vec<PathBuf>,
}

/// The state of files at a time: another state is another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl FileArguments {
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Reads them to send them; what is wrong is one error that shows every fault.
    pub fn read(&self) -> anyhow::Result<Files> {
        let read = self.load().and_then(|files| files.readable().map(|()| files));
        read.map_err(|found| anyhow!("the files cannot be used\n{}", problems::list(&found)))
    }

    /// Reads them as far as they can be read; [`Files::check`] says what is wrong in them.
    pub fn load(&self) -> Result<Files, Problems> {
        let mut found = Problems::new();
        let mut sources = Vec::new();
        for path in &self.files {
            match texts(path) {
                Ok(texts) => sources.extend(texts),
                Err(error) => found.push(unreadable(path, &error)),
            }
        }
        if found.is_empty() { Ok(Files::parse(sources, &|name| std::env::var(name).ok())) } else { Err(found) }
    }
}

/// The texts at a path: of a file, of all files in a folder, or of stdin.
fn texts(path: &Path) -> io::Result<Vec<Source>> {
    let source = |path: &Path, text| Source { path: path.display().to_string(), text };
    if path.as_os_str() == "-" {
        return Ok(vec![source(Path::new("stdin"), io::read_to_string(io::stdin())?)]);
    }
    if !path.is_dir() {
        return Ok(vec![source(path, std::fs::read_to_string(path)?)]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|suffix| ["yaml", "yml", "json"].iter().any(|ours| suffix == *ours));
        if is_ours && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(source(path, std::fs::read_to_string(path)?))).collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let message = format!("{} cannot be read: {error}", path.display());
    let Fault { pointer, code, message, hint } = Fault::new("", "unreadable-file", message);
    Problem { kind: None, name: None, pointer, code: code.into(), message, hint, location: None, page: None }
}

impl Files {
    #[must_use]
    pub fn none() -> Self {
        Self::from_body(json!({ "version": model::file::VERSION }))
    }

    /// As if this had been in a file.
    #[must_use]
    pub fn from_body(body: Value) -> Self {
        Self { body, parsed: None, read: Vec::new() }
    }

    /// A text that is part of this program.
    #[must_use]
    pub fn from_text(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Self {
        Self::parse(vec![Source { path: name.to_owned(), text: text.to_owned() }], env)
    }

    fn parse(sources: Vec<Source>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let read: Vec<PathBuf> = sources.iter().map(|source| PathBuf::from(&source.path)).collect();
        let read = RefCell::new(read);
        let file = |path: &Path| {
            read.borrow_mut().push(path.to_owned());
            std::fs::read(path)
        };
        let parsed = model::file::parse(sources, &Surroundings { env, file: &file });
        Self { body: parsed.to_value(), parsed: Some(Arc::new(parsed)), read: read.into_inner() }
    }

    /// What the control plane cannot find out, because it gets the values only. The files may be a part of the
    /// configuration, so that what they refer to may be there.
    fn readable(&self) -> Result<(), Problems> {
        let Some(parsed) = self.parsed.as_ref().filter(|parsed| !parsed.problems().is_empty()) else { return Ok(()) };
        let mut found = parsed.edits_on(&Snapshot::default(), Others::Keep).err().unwrap_or_default();
        found.retain(|problem| problem.code != "unknown-reference");
        Err(found)
    }

    /// Compiles the files as the whole configuration of a gateway, and looks for what is hardly meant.
    pub fn check(&self) -> Result<(Snapshot, Vec<Problem>), Problems> {
        let empty = Snapshot::default();
        let Some(parsed) = &self.parsed else { return Ok((empty, Vec::new())) };
        let edits = parsed.edits_on(&empty, Others::Remove)?;
        match empty.apply(1, edits) {
            Ok((snapshot, changes)) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                let mut warnings = lint(&snapshot, &changes, now);
                parsed.locate(&mut warnings);
                Ok((snapshot, warnings))
            }
            Err(mut found) => {
                parsed.locate(&mut found);
                Err(found)
            }
        }
    }

    #[must_use]
    pub fn map_body(&self, change: impl Fn(Value) -> Value) -> Self {
        Self { body: change(self.body.clone()), ..self.clone() }
    }

    /// What the admin API is sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// The problem with the place where it was written.
    #[must_use]
    pub fn located(&self, problem: Problem) -> Problem {
        let mut one = vec![Problem { location: None, ..problem }];
        if let Some(parsed) = &self.parsed {
            parsed.locate(&mut one);
        }
        one.pop().expect("locating takes nothing away")
    }

    /// The same for every problem that the control plane found.
    #[must_use]
    pub fn locate_in(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<Refusal>() {
            Ok(mut refusal) => {
                refusal.errors = refusal.errors.into_iter().map(|problem| self.located(problem)).collect();
                refusal.into()
            }
            Err(other) => other,
        }
    }

    /// The state of everything that was read.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.read)
    }
}

/// The state of files as they are now; one that is not there has a state too.
fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        path.hash(&mut hasher);
        std::fs::read(path).ok().hash(&mut hasher);
    }
    Fingerprint(hasher.finish())
}
