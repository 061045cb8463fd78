//! Every command line of ours that people copy from `deploy/` and the README is one that this program takes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;
use serde_json::Value;

use crate::Arguments;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() { files(&entry, found) } else { found.push(entry) }
    }
}

/// Words of a command line as a shell would split it, to where the command ends.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_word, mut quote) = (String::new(), false, None);
    for letter in text.chars() {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => word.push(letter),
            ('\'' | '"', None) => (quote, is_word) = (Some(letter), true),
            ('|' | ';' | '&' | '>' | ')' | '`', None) => break,
            ('#', None) if !is_word => break,
            (letter, None) if letter.is_whitespace() => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (letter, None) => {
                word.push(letter);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

/// The command lines in a text: wherever `sluice` and one of its commands stand next to one another.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let commands = Arguments::command();
    let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
    // A line that goes on behind a backslash is one, also in comments; so is one that prose breaks between back ticks.
    let joined: Vec<&str> = text.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
    let joined = joined.join("\n").replace("\\\n", " ");
    let mut found = Vec::new();
    for (at, _) in joined.match_indices("sluice ") {
        let is_start =
            joined[..at].chars().next_back().is_none_or(|before| before.is_whitespace() || "`(/=".contains(before));
        let rest = &joined[at + "sluice ".len()..];
        if !is_start || !names.iter().any(|name| rest.split([' ', '\n', '`', ';']).next() == Some(name)) {
            continue;
        }
        let is_quoted = joined[..at].ends_with('`');
        let end = rest.find(if is_quoted { '`' } else { '\n' }).unwrap_or(rest.len());
        found.push(words(&rest[..end]));
    }
    found
}

/// The command lines of containers, whose image says what comes before.
fn container_commands(value: &Value, found: &mut Vec<Vec<String>>) {
    let before: Option<&[&str]> = match value["image"].as_str() {
        Some("sluice") => Some(&[]),
        Some("sluice-proxy") => Some(&["data-plane"]),
        _ => None,
    };
    if let Some(before) = before {
        let written = ["command", "args"].into_iter().filter_map(|field| value[field].as_array()).flatten();
        let written = written.map(|word| word.as_str().expect("arguments are texts").to_owned());
        found.push(before.iter().map(|word| (*word).to_owned()).chain(written).collect());
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| container_commands(value, found)),
        Value::Array(values) => values.iter().for_each(|value| container_commands(value, found)),
        _ => {}
    }
}

#[test]
fn every_command_line_that_is_written_down_is_taken() {
    let mut paths = vec![root().join("README.md")];
    files(&root().join("deploy"), &mut paths);
    let mut count = 0;
    for path in paths {
        let text = fs::read_to_string(&path).expect("texts");
        let mut lines = command_lines(&text);
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            documents.iter().for_each(|document| container_commands(document, &mut lines));
        }
        count += lines.len();
        for mut line in lines {
            // What is left out, and a number of one's own.
            line.retain(|word| word != "…");
            line.iter_mut().filter(|word| *word == "N").for_each(|word| "7".clone_into(word));
            let taken = Arguments::command().try_get_matches_from([&["sluice".to_owned()], &line[..]].concat());
            if let Err(error) = taken {
                // What is only spoken of, or given in the environment, is not written out.
                let is_short = [ErrorKind::MissingRequiredArgument, ErrorKind::MissingSubcommand]
                    .contains(&error.kind())
                    || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
                assert!(is_short, "{}: sluice {}\n{error}", path.display(), line.join(" "));
            }
        }
    }
    assert!(count > 60, "{count} command lines were found");
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let mut units = Vec::new();
    files(&root().join("deploy/systemd"), &mut units);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copies = units.iter().map(|unit| {
        let copy = folder.path().join(unit.file_name().expect("a file"));
        // It looks for the program, which is not installed here.
        let text = fs::read_to_string(unit).expect("a unit").replace("/usr/local/bin/sluice", "/bin/true");
        fs::write(&copy, text).expect("the folder can be written");
        copy
    });
    let copies: Vec<PathBuf> = copies.collect();
    assert_eq!(copies.len(), 2);
    let verified = std::process::Command::new("systemd-analyze").arg("verify").args(&copies).output();
    let verified = verified.expect("systemd-analyze can be run: tests/run installs it");
    let told = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && told.is_empty(), "{told}");
}

#[test]
fn command_lines_are_found_in_prose_comments_and_scripts() {
    let text = "see `sluice nodes --label zone=a`, and\n# kubectl exec x -- sluice apply -f 'a b' \\\n#   --wait > out # why\n\
                ExecStart=/usr/local/bin/sluice data-plane --join-token-file %d/t\nnever sluice something else\n";
    let expected = [
        vec!["nodes", "--label", "zone=a"],
        vec!["apply", "-f", "a b", "--wait"],
        vec!["data-plane", "--join-token-file", "%d/t"],
    ];
    assert_eq!(command_lines(text), expected);
}
