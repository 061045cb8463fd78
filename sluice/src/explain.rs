//! `sluice explain`: what a gateway would do with a request, and why; by files, without a control plane, if they are given.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::Args;
use http::Method;
use model::explain::{CandidateExplained, Explanation, Outcome as Outcomes, Question, Said, SentField, explain};
use model::resource::Name;
use model::resource::route::{HeaderField, MethodName};

use crate::client::{ClientArguments, Query, block_on};
use crate::files::FileArguments;
use crate::output::{self, Shown};
use crate::{Outcome, problems};

/// Show what would be done with a request, and why: path, listener, every candidate, policies
///
/// Nothing is sent to the gateway but the question. With files it needs no control plane at all.
#[derive(Args)]
pub struct Explain {
    /// The request method, GET for example
    method: MethodName,

    /// https://api.example.com/orders, with the port of the listener; or a path, with -H 'Host: …'
    url: String,

    /// A header field; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Header>,

    /// The address of the client
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,

    /// The listener that the request comes in through [default: the one that the URL leads to]
    #[arg(long, value_name = "NAME")]
    listener: Option<Name>,

    /// Ask an earlier revision
    #[arg(long, value_name = "N", conflicts_with = "files")]
    revision: Option<u64>,

    /// Ask these files instead of a gateway: a file, a folder, or `-` for stdin
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,

    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

/// `Name: value`, as curl takes it.
#[derive(Clone)]
struct Header(SentField);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is no field: write `Name: value`"))?;
        let name: HeaderField = name.trim().parse()?;
        Ok(Self(SentField { name, value: value.trim().to_owned() }))
    }
}

impl Explain {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let question = Question {
            method: self.method,
            url: self.url,
            headers: self.headers.into_iter().map(|Header(field)| field).collect(),
            source: self.source,
            listener: self.listener,
        };
        let explanation = if self.files.is_empty() {
            let client = self.client.connect()?;
            let path = Query::new("explain").with_some("revision", self.revision).into_path();
            let body = serde_json::to_value(&question)?;
            block_on(client.write(Method::POST, &path, Some(&body)))?
        } else {
            by_files(self.files, &question)?
        };
        match self.output {
            Shown::Json => output::json(&explanation)?,
            Shown::Text => show(&explanation)?,
        }
        Ok(Outcome::Done)
    }
}

fn by_files(files: Vec<PathBuf>, question: &Question) -> anyhow::Result<Explanation> {
    let checked = FileArguments::new(files).load().and_then(|files| files.check());
    let (snapshot, _) =
        checked.map_err(|found| anyhow!("the configuration does not hold\n{}", problems::list(&found)))?;
    explain(&snapshot, question).map_err(|faults| {
        let faults: Vec<String> = faults
            .into_iter()
            .map(|fault| fault.message + &fault.hint.map(|hint| format!(" ({hint})")).unwrap_or_default())
            .collect();
        anyhow!("{}", faults.join("; "))
    })
}

fn show(explanation: &Explanation) -> anyhow::Result<()> {
    let Explanation { path, host, listener, route, captures, candidates, omitted, other_values, outcomes } =
        explanation;
    let mut text = String::new();
    let mut row = |what: &str, value: String| text.push_str(&format!("{what:<9} {value}\n"));
    let mut last = None;
    for step in &path.steps {
        if last != Some(&step.path) {
            row("path", step.path.clone());
        }
        last = Some(&step.path);
    }
    if let Some(counts) = path.counts.as_ref().filter(|counts| last != Some(*counts)) {
        row("path", format!("{counts} (counts as it came)"));
    }
    row("host", host.canonical.clone().unwrap_or_else(|| host.received.clone()));
    row("listener", listener.as_ref().map_or_else(|| "none, or one of several".to_owned(), ToString::to_string));
    for refused in [&path.refused, &host.refused].into_iter().flatten() {
        row("refused", format!("400 {}: {}", refused.code, refused.detail));
    }
    if path.refused.is_none() && host.refused.is_none() {
        row("route", route.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string));
    }
    for capture in captures {
        row("capture", format!("{} = {}", capture.name, capture.value));
    }
    output::data(&text)?;
    if !candidates.is_empty() {
        output::data("\n")?;
        output::table(&["candidate", "host", "path", "verdict"], candidates.iter().map(candidate))?;
    }
    if omitted + other_values > 0 {
        output::message(&format!(
            "not listed: {omitted} more candidates, and {other_values} routes at the same places that ask for other values"
        ));
    }
    for outcome in outcomes {
        output::data(&format!("\n{}\n", destination(outcome)))?;
        output::table(&["what", "value", "from"], effects(outcome))?;
    }
    Ok(())
}

fn candidate(candidate: &CandidateExplained) -> Vec<String> {
    let CandidateExplained { route, host, path, verdict, because: _, detail } = candidate;
    let verdict = match (verdict, detail) {
        (Said::Won, _) => "won".to_owned(),
        (Said::Lost, detail) => format!("lost: {}", detail.as_deref().unwrap_or_default()),
        (Said::NoMatch, detail) => format!("no match: {}", detail.as_deref().unwrap_or_default()),
    };
    let host = host.clone().unwrap_or_else(|| "every".to_owned());
    vec![route.to_string(), host, format!("{} {}", path.form(), path.as_str()), verdict]
}

fn destination(outcome: &Outcomes) -> String {
    let part = outcome.share.map(|share| format!(", {} of {}", share.weight, share.total)).unwrap_or_default();
    match (&outcome.service, outcome.status) {
        (Some(service), _) => format!("to service `{service}`{part}"),
        (None, Some(status)) => format!("answered with {status}"),
        (None, None) => "answered by the gateway".to_owned(),
    }
}

fn effects(outcome: &Outcomes) -> Vec<Vec<String>> {
    let policies = outcome.policies.iter().map(|policy| {
        let instead: Vec<String> =
            policy.instead_of.iter().map(|other| format!("`{}` of {}", other.policy, word(&other.from))).collect();
        let instead =
            if instead.is_empty() { String::new() } else { format!(", instead of {}", instead.join(" and ")) };
        vec![policy.type_name.clone(), policy.policy.to_string(), word(&policy.from) + &instead]
    });
    let settings = outcome.filters.iter().chain(&outcome.settings);
    let settings = settings.map(|setting| vec![setting.name.clone(), setting.value.clone(), word(&setting.from)]);
    policies.chain(settings).collect()
}

/// The word of an enumeration, as in JSON.
fn word(value: &impl serde::Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
