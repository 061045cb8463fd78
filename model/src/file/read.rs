//! From texts to resources, with every problem on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::excerpt::Lines;
use super::yaml::{self, Form, Node, Place};
use super::{Parsed, Source, VERSION, Written, env, excerpt, place_of};
use crate::problem::{Fault, Problem, push_pointer};
use crate::resource::{KINDS, Kind, Resource};

/// What files may refer to. A reader that has none of it, such as a server that was sent a file, says so in the
/// error of `file`.
pub struct Surroundings<'a> {
    /// The value of a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The content of another file. What is no text stands in the resource as base64.
    pub file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// Reads files, as one.
#[must_use]
pub fn parse(sources: Vec<Source>, surroundings: &Surroundings<'_>) -> Parsed {
    let parsed = Parsed {
        sources: sources.into_iter().map(Lines::of).collect(),
        resources: Vec::new(),
        by_name: BTreeMap::new(),
        problems: Vec::new(),
        unresolved: BTreeSet::new(),
    };
    let mut reader = Reader { parsed, surroundings };
    for source in 0..reader.parsed.sources.len() {
        reader.read_source(source);
    }
    reader.parsed
}

struct Reader<'a> {
    parsed: Parsed,
    surroundings: &'a Surroundings<'a>,
}

impl Reader<'_> {
    fn read_source(&mut self, source: usize) {
        let root = match yaml::read(&self.parsed.sources[source].source.text) {
            Ok(root) => root,
            Err(unreadable) => {
                let mut fault = Fault::new("", "invalid-syntax", unreadable.message);
                fault.hint = unreadable.hint.map(str::to_owned);
                let start = Place { line: 1, column: 1, length: 1 };
                self.report(source, unreadable.at.unwrap_or(start), None, fault);
                return;
            }
        };
        let at = root.at;
        let Form::Map(lists) = root.form else {
            let fault = Fault::new("", "invalid-value", "this is no configuration");
            self.report(source, at, None, fault.hint("begin with `version: 1`, then lists such as `routes:`"));
            return;
        };
        let mut has_version = false;
        for (key, node) in lists {
            if key.text == "version" {
                has_version = true;
                self.check_version(source, &node);
            } else if let Some(info) = KINDS.iter().find(|info| info.plural == key.text) {
                self.read_list(source, info.kind, node);
            } else {
                let mut pointer = String::new();
                push_pointer(&mut pointer, &key.text);
                let fault = Fault::new(pointer, "unknown-kind", format!("there is no kind `{}`", key.text));
                let meant = Kind::parse(&key.text).map(Kind::plural).or_else(|| Kind::closest(&key.text));
                let hint = match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => {
                        let plurals: Vec<_> = KINDS.iter().map(|info| info.plural).collect();
                        format!("the kinds are {}", plurals.join(", "))
                    }
                };
                self.report(source, key.at, None, fault.hint(hint));
            }
        }
        if !has_version {
            let fault =
                Fault::new("/version", "missing-field", "the file does not say which version of the format it has");
            self.report(source, at, None, fault.hint("begin with `version: 1`"));
        }
    }

    fn check_version(&mut self, source: usize, node: &Node) {
        if !matches!(&node.form, Form::Leaf(value) if value.as_u64() == Some(VERSION)) {
            let fault = Fault::new("/version", "invalid-value", "this version of the format is not known here");
            self.report(source, node.at, None, fault.hint(format!("write `version: {VERSION}`")));
        }
    }

    fn read_list(&mut self, source: usize, kind: Kind, node: Node) {
        match node.form {
            Form::List(entries) => {
                for entry in entries {
                    self.read_resource(source, kind, entry);
                }
            }
            Form::Leaf(Value::Null) => {}
            Form::Map(_) | Form::Leaf(_) => {
                let message = format!("`{}` is no list", kind.plural());
                let fault = Fault::new(format!("/{}", kind.plural()), "invalid-value", message);
                self.report(source, node.at, None, fault.hint(format!("begin each {kind} with `- name: `")));
            }
        }
    }

    fn read_resource(&mut self, source: usize, kind: Kind, node: Node) {
        let Form::Map(fields) = &node.form else {
            let fault = Fault::new("", "invalid-value", format!("this is no {kind}"));
            self.report(source, node.at, Some((kind, None)), fault.hint("begin with `- name: `"));
            return;
        };
        let (name, name_fault) = match node.get("name") {
            Some((_, Node { form: Form::Leaf(Value::String(name)), .. })) => (Some(name.clone()), None),
            Some(_) => {
                let fault = Fault::new("/name", "invalid-name", "a name is a string");
                (None, Some(fault.hint("put it in quotes, as what it is looks like something else to YAML")))
            }
            None => {
                let fault = Fault::new("/name", "missing-field", format!("the {kind} has no name"));
                (None, Some(fault.hint("write `name: ` and a name of your choice")))
            }
        };
        let mut faults: Vec<Fault> = Vec::new();
        let mut spec = Map::new();
        for (key, value) in fields.iter().filter(|(key, _)| key.text != "name") {
            let mut pointer = String::new();
            push_pointer(&mut pointer, &key.text);
            spec.insert(key.text.clone(), self.resolved(value, &mut pointer, &mut faults));
        }
        self.put_files_in(source, kind, &mut spec, &mut faults);
        let spec = Value::Object(spec);
        let twin = name.as_ref().and_then(|name| self.parsed.by_name.get(&(kind, name.clone())).copied());
        // What no edit is made of is checked here, so that its other faults are not found only later.
        let is_orphan = name.is_none() || twin.is_some();
        if is_orphan {
            let more = Resource::parse(kind, spec.clone()).err().into_iter().flatten();
            let unresolved: BTreeSet<String> = faults.iter().map(|fault| fault.pointer.clone()).collect();
            faults.extend(more.filter(|fault| !unresolved.contains(&fault.pointer)));
        } else if let Some(name) = &name {
            let places = faults.iter().map(|fault| (kind, name.clone(), long_form(&fault.pointer).to_owned()));
            self.parsed.unresolved.extend(places);
        }
        faults.splice(0..0, name_fault.into_iter().chain(twin.map(|twin| self.duplicate(twin))));
        for fault in faults {
            let at = place_of(&node, &fault.pointer, fault.code);
            self.report(source, at, Some((kind, name.clone())), fault);
        }
        if let Some(name) = name.filter(|_| !is_orphan) {
            self.parsed.by_name.insert((kind, name), self.parsed.resources.len());
            self.parsed.resources.push(Written { kind, spec, source, node });
        }
    }

    fn duplicate(&self, twin: usize) -> Fault {
        let first = &self.parsed.resources[twin];
        let at = place_of(&first.node, "/name", "");
        let (kind, path) = (first.kind, &self.parsed.sources[first.source].source.path);
        let message = format!("another {kind} has this name, at {path}:{}:{}", at.line, at.column);
        Fault::new("/name", "duplicate-name", message).hint("rename one of them")
    }

    /// The value with variables put in.
    fn resolved(&self, node: &Node, pointer: &mut String, faults: &mut Vec<Fault>) -> Value {
        let length = pointer.len();
        match &node.form {
            Form::Map(fields) => {
                let mut map = Map::with_capacity(fields.len());
                for (key, value) in fields {
                    push_pointer(pointer, &key.text);
                    map.insert(key.text.clone(), self.resolved(value, pointer, faults));
                    pointer.truncate(length);
                }
                Value::Object(map)
            }
            Form::List(entries) => {
                let mut list = Vec::with_capacity(entries.len());
                for (index, entry) in entries.iter().enumerate() {
                    push_pointer(pointer, &index.to_string());
                    list.push(self.resolved(entry, pointer, faults));
                    pointer.truncate(length);
                }
                Value::Array(list)
            }
            Form::Leaf(Value::String(text)) => match env::resolve(text, self.surroundings.env) {
                Ok(resolved) => Value::String(resolved),
                Err(message) => {
                    let fault = Fault::new(pointer.clone(), "unknown-variable", message);
                    faults.push(fault.hint("set it, or write `$${` for the characters `${`"));
                    Value::String(text.clone())
                }
            },
            Form::Leaf(value) => value.clone(),
        }
    }

    /// Puts the content of files in the place of their names.
    fn put_files_in(&self, source: usize, kind: Kind, spec: &mut Map<String, Value>, faults: &mut Vec<Fault>) {
        for field in kind.info().file_fields {
            let name = format!("{field}_file");
            let Some(path) = spec.shift_remove(&name) else { continue };
            let pointer = format!("/{name}");
            let Value::String(path) = path else {
                faults.push(Fault::new(pointer, "invalid-value", "the name of a file is a string"));
                continue;
            };
            if spec.contains_key(*field) {
                let message = format!("`{field}` and `{name}` are two ways to say the same: write one of them");
                faults.push(Fault::new(pointer, "conflicting-fields", message));
                continue;
            }
            let path = beside(&self.parsed.sources[source].source.path, &path);
            match (self.surroundings.file)(&path) {
                Ok(content) => {
                    let text = String::from_utf8(content).unwrap_or_else(|binary| STANDARD.encode(binary.as_bytes()));
                    spec.insert((*field).to_owned(), Value::String(text));
                }
                Err(error) => {
                    let message = format!("`{}` cannot be read: {error}", path.display());
                    faults.push(Fault::new(pointer, "unreadable-file", message));
                }
            }
        }
    }

    fn report(&mut self, source: usize, at: Place, resource: Option<(Kind, Option<String>)>, fault: Fault) {
        let location = Some(excerpt::location(&self.parsed.sources[source], at));
        let (kind, name) = match resource {
            Some((kind, name)) => (Some(kind), name),
            None => (None, None),
        };
        let Fault { pointer, code, message, hint } = fault;
        self.parsed.problems.push(Problem {
            kind,
            name,
            pointer,
            code: code.into(),
            message,
            hint,
            location,
            page: None,
        });
    }
}

/// The field that another file was to fill.
fn long_form(pointer: &str) -> &str {
    pointer.strip_suffix("_file").unwrap_or(pointer)
}

/// A path as seen from the folder of the file that names it.
fn beside(file: &str, path: &str) -> PathBuf {
    Path::new(file).parent().unwrap_or(Path::new("")).join(path)
}
