//! `sluice get` and `sluice delete`: single resources.

use clap::Args;
use http::Method;
use model::resource::{KINDS, Kind};
use serde_json::{Value, json};

use crate::Outcome;
use crate::client::{ClientArguments, Query, block_on};
use crate::output::{self, Format};

/// Show resources of a kind, or one of them
#[derive(Args)]
pub struct Get {
    /// A kind of resource, such as `listeners` or `routes`; the singular will do
    #[arg(value_parser = parse_kind)]
    kind: Kind,

    name: Option<String>,

    /// Only those with this label, `team=orders` or `team`
    #[arg(short, long, value_name = "LABEL", conflicts_with = "name")]
    label: Option<String>,

    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    client: ClientArguments,
}

/// Delete a resource
#[derive(Args)]
pub struct Delete {
    /// A kind of resource, such as `route`
    #[arg(value_parser = parse_kind)]
    kind: Kind,

    name: String,

    /// Why: kept with the revision
    #[arg(short, long)]
    message: Option<String>,

    #[command(flatten)]
    client: ClientArguments,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| match Kind::closest(text) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("the kinds are {}", KINDS.iter().map(|info| info.plural).collect::<Vec<_>>().join(", ")),
    })
}

impl Get {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let Some(name) = &self.name else {
            let what = Query::new(self.kind.plural()).with_some("label", self.label.as_deref());
            let found: Vec<Value> = block_on(client.list(what))?;
            match self.output {
                Format::Table => table(self.kind, &found)?,
                Format::Json => output::json(&found)?,
                Format::Yaml => output::data(&file_of(self.kind, found))?,
                Format::Name => names(&found)?,
            }
            return Ok(Outcome::Done);
        };
        let found: Value = block_on(client.get(&path(self.kind, name)))?;
        match self.output {
            Format::Table => table(self.kind, &[found])?,
            Format::Json => output::json(&found)?,
            Format::Yaml => output::data(&file_of(self.kind, vec![found]))?,
            Format::Name => names(&[found])?,
        }
        Ok(Outcome::Done)
    }
}

impl Delete {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        let query = Query::new(&path(self.kind, &self.name)).with_some("message", self.message.as_deref());
        block_on(client.send(Method::DELETE, &query.into_path(), "application/json", None))?;
        output::message(&format!("{} `{}` is deleted", self.kind, self.name));
        Ok(Outcome::Done)
    }
}

/// Resources as a file that can be changed and applied.
fn file_of(kind: Kind, found: Vec<Value>) -> String {
    let mut file = json!({ "version": 1 });
    file[kind.plural()] = Value::Array(found);
    model::file::to_yaml(&file)
}

fn path(kind: Kind, name: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("{}/{name}", kind.plural())
}

fn names(found: &[Value]) -> std::io::Result<()> {
    output::data(&found.iter().map(|resource| format!("{}\n", brief(resource.get("name")))).collect::<String>())
}

/// What a table shows of each kind, next to the name.
fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Listener => &["bind", "tls", "policies"],
        Kind::Certificate => &["hosts"],
        Kind::CaBundle => &["description"],
        Kind::Service => &["targets", "policies"],
        Kind::Route => &["hosts", "paths", "methods", "backends", "policies"],
        Kind::Policy => &["type", "apply_to", "config"],
        Kind::Consumer => &["credentials", "policies"],
    }
}

fn table(kind: Kind, found: &[Value]) -> std::io::Result<()> {
    let headings: Vec<&str> = ["name"].iter().chain(columns(kind)).copied().collect();
    let rows = found.iter().map(|resource| headings.iter().map(|field| brief(resource.get(*field))).collect());
    output::table(&headings, rows)
}

/// A value on one line, by what tells it from others of its sort.
fn brief(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| brief(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(fields)) => {
            let telling = ["url", "service", "name", "exact", "prefix", "certificates"];
            match telling.iter().find_map(|field| fields.get(*field)) {
                Some(value) => brief(Some(value)),
                None => Value::Object(fields.clone()).to_string(),
            }
        }
        Some(other) => other.to_string(),
    }
}
