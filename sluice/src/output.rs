//! Data to stdout, messages to stderr. A reader that closes the pipe ends the command quietly: an error of that sort
//! travels up to `main` like any other, and `main` says nothing about it.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::logging::may_colour;

/// How lists are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
    Name,
}

/// How what is no list of resources is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    Text,
    Json,
}

/// Writes data.
pub fn data(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Writes data as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(data(&serde_json::to_string_pretty(value)?)?)
}

/// Writes a message. When nobody reads messages, there is nobody to tell.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes columns under headings.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    data(&text)
}

/// An RFC 3339 time without what is finer than a second.
#[must_use]
pub fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

/// A span in its two largest units.
#[must_use]
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..60 => format!("{seconds}.{}s", milliseconds % 1_000 / 100),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// What lines of a diff are painted with.
#[derive(Clone, Copy)]
pub enum Paint {
    Added,
    Removed,
    Heading,
}

/// Paints text for stdout where that is wanted.
pub struct Painter {
    has_colours: bool,
}

impl Painter {
    #[must_use]
    pub fn for_stdout() -> Self {
        Self { has_colours: may_colour(&io::stdout()) }
    }

    #[must_use]
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Added => 32,
            Paint::Removed => 31,
            Paint::Heading => 1,
        };
        if self.has_colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_two_largest_units() {
        let told = [0, 999, 1_000, 59_999, 60_000, 3_599_000, 3_600_000, 86_399_000, 90_000_000].map(span);
        assert_eq!(told, ["0ms", "999ms", "1.0s", "59.9s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 1h"]);
    }
}
