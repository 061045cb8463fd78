//! `sluice watch`: what happens in a gateway, line by line, until it is stopped.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use model::problem::Problem;
use serde::Deserialize;

use crate::client::{Client, ClientArguments, Refusal, Stream, block_on};
use crate::output::{self, Paint, Painter, Shown};
use crate::{Outcome, problems};

/// The control plane says something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Pauses before another attempt, the last of them again and again.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
/// An event is short; beyond this something else is sent.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Show what happens: revisions, nodes that come, go and get further, targets
///
/// It goes on until it is stopped. When the connection is lost it comes back, and no revision is left out without a word.
#[derive(Args)]
pub struct Watch {
    /// Begin after this revision, with every one that came since
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,

    /// A line for people, or an object of JSON on each line
    #[arg(short, long, value_enum, default_value = "text")]
    output: Shown,

    #[command(flatten)]
    client: ClientArguments,
}

/// An event, as far as this program shows it. What a newer control plane tells beyond that is shown as it is.
#[derive(Deserialize)]
struct Event {
    at: String,
    r#type: String,
    #[serde(default)]
    revision: u64,
    #[serde(default)]
    total: usize,
    #[serde(default)]
    serving: usize,
    #[serde(default)]
    author: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    change_count: u64,
    #[serde(default)]
    node_id: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    version: serde_json::Value,
    #[serde(default)]
    problems: Vec<Problem>,
    #[serde(default)]
    serves: u64,
    #[serde(default)]
    lag_ms: u64,
    #[serde(default)]
    changes: u64,
    #[serde(default)]
    reason: String,
    revisions: Option<Missed>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    step: usize,
    #[serde(default)]
    steps: usize,
}

#[derive(Deserialize)]
struct Missed {
    first: u64,
    last: u64,
}

impl Watch {
    pub fn run(self) -> anyhow::Result<Outcome> {
        let client = self.client.connect()?;
        block_on(self.follow(&client))
    }

    async fn follow(&self, client: &Client) -> anyhow::Result<Outcome> {
        let mut last = self.after.map(|after| after.to_string());
        let mut attempt = 0;
        let mut stream = client.events(last.as_deref()).await?;
        loop {
            let ended = self.show(&mut stream, &mut last).await;
            match ended {
                Err(error) if output::is_broken_pipe(&error) => return Err(error),
                Err(error) => output::message(&format!("{error:#}; trying again")),
                Ok(()) => output::message("the control plane ended the stream; trying again"),
            }
            stream = loop {
                tokio::time::sleep(PAUSES[attempt.min(PAUSES.len() - 1)]).await;
                attempt += 1;
                match client.events(last.as_deref()).await {
                    Ok(stream) => break stream,
                    // It is there, and will not have us.
                    Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status < 500) => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            };
            attempt = 0;
        }
    }

    /// Shows events until the stream ends.
    async fn show(&self, stream: &mut Stream, last: &mut Option<String>) -> anyhow::Result<()> {
        let painter = Painter::for_stdout();
        let mut lines = Lines::default();
        loop {
            let piece = tokio::time::timeout(SILENCE, stream.next()).await;
            let piece = piece.context("the control plane has been silent for too long")??;
            let Some(piece) = piece else { return Ok(()) };
            lines.add(&piece)?;
            while let Some(line) = lines.next() {
                if let Some(id) = field(&line, "id") {
                    *last = Some(id.to_owned());
                } else if let Some(data) = field(&line, "data") {
                    match self.output {
                        Shown::Json => output::data(data)?,
                        Shown::Text => output::data(&told(data, &painter))?,
                    }
                }
            }
        }
    }
}

/// The value of a line of the stream, if it is of this field.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let value = line.strip_prefix(name)?.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

/// Pieces of a stream, as lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn add(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        if self.rest.len() > MAX_EVENT_BYTES && !self.rest.contains(&b'\n') {
            bail!("what comes is no stream of events");
        }
        Ok(())
    }

    fn next(&mut self) -> Option<String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.rest.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// An event as a line for people.
fn told(data: &str, painter: &Painter) -> String {
    let Ok(event) = serde_json::from_str::<Event>(data) else { return data.to_owned() };
    let Event { at, r#type, revision, node_id, .. } = &event;
    let sentence = match &**r#type {
        "status" => format!("{}/{} nodes serve revision {revision}", event.serving, event.total),
        "revision" => {
            let of = if event.change_count == 1 {
                "1 resource".to_owned()
            } else {
                format!("{} resources", event.change_count)
            };
            let message = if event.message.is_empty() { String::new() } else { format!(": {}", event.message) };
            painter.paint(Paint::Heading, &format!("revision {revision} by {}, {of}{message}", event.author))
        }
        "missed" => match &event.revisions {
            Some(Missed { first, last }) => format!("revisions {first} to {last} are left out: {}", event.reason),
            None => format!("some events are left out: {}", event.reason),
        },
        "node-joined" => {
            let version = event.version.as_str().unwrap_or_default();
            let on = if event.hostname.is_empty() { String::new() } else { format!(" on {}", event.hostname) };
            let with = if *revision > 0 { format!(" with revision {revision}") } else { String::new() };
            painter.paint(Paint::Added, &format!("{node_id} has connected{on}{with} (version {version})"))
        }
        "node-left" => painter.paint(Paint::Removed, &format!("{node_id} is not connected any more")),
        "node-received" => format!("{node_id} has received {revision}"),
        "node-compiled" => format!("{node_id} has compiled {revision}"),
        "node-serving" => painter.paint(Paint::Added, &format!("{node_id} serves {revision}")),
        "node-refused" => {
            let refuses = painter.paint(Paint::Removed, &format!("{node_id} refuses {revision}"));
            format!("{refuses}:\n{}", problems::list(&event.problems))
        }
        "node-behind" => {
            let lag = output::span(event.lag_ms);
            let serves = match event.serves {
                0 => "serves nothing".to_owned(),
                serves => format!("still serves {serves}"),
            };
            painter.paint(Paint::Removed, &format!("{node_id} {serves}, and has been behind for {lag}"))
        }
        "node-resynchronised" => format!("{node_id} had another content than it should, and is sent everything"),
        "rollout" => {
            let reason = if event.reason.is_empty() { String::new() } else { format!(": {}", event.reason) };
            let (state, step, steps) = (&event.state, event.step, event.steps);
            painter.paint(
                Paint::Heading,
                &format!("the rollout of {revision} is {state}, {step} of {steps} steps done{reason}"),
            )
        }
        "targets" => format!("what is said about targets has changed, {} times", event.changes),
        _ => data.to_owned(),
    };
    format!("{}  {sentence}", output::seconds(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_together_from_any_pieces() {
        let stream = b": nothing new\n\nid: 7\ndata: {\"type\":\"a\"}\n\nid:8\ndata:x\n\n";
        for size in 1..stream.len() {
            let mut lines = Lines::default();
            let mut fields = Vec::new();
            for piece in stream.chunks(size) {
                lines.add(piece).expect("short lines");
                while let Some(line) = lines.next() {
                    fields
                        .extend(["id", "data"].map(|name| field(&line, name).map(str::to_owned)).into_iter().flatten());
                }
            }
            assert_eq!(fields, ["7", "{\"type\":\"a\"}", "8", "x"]);
        }
        assert!(Lines::default().add(&[b'x'; MAX_EVENT_BYTES + 1]).is_err());
    }

    #[test]
    fn what_a_newer_control_plane_tells_is_shown_as_it_is() {
        let line = told(r#"{"at":"2026-11-24T22:00:00.5Z","type":"comet","step":3}"#, &Painter::for_stdout());
        assert_eq!(line, r#"2026-11-24T22:00:00Z  {"at":"2026-11-24T22:00:00.5Z","type":"comet","step":3}"#);
        assert_eq!(told("[]", &Painter::for_stdout()), "[]");
    }
}
