//! A place in a text as people like to see it: the line, and a marker below.

use super::Source;
use super::yaml::Place;
use crate::problem::Location;

/// Of a longer line only the part around the place is shown.
const MAX_SHOWN: usize = 120;

/// A file with the places where its lines begin, so that a file full of problems is not searched for each.
pub(super) struct Lines {
    pub source: Source,
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(source: Source) -> Self {
        // A carriage return alone is a line break too (YAML 1.2.2 section 5.4).
        let text = source.text.as_bytes();
        let is_break = |at: &usize| match text[*at] {
            b'\n' => true,
            b'\r' => text.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let breaks = (0..text.len()).filter(is_break).map(|at| at + 1);
        Self { starts: [0].into_iter().chain(breaks).collect(), source }
    }

    /// Lines count from 1.
    fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).and_then(|index| self.starts.get(index));
        let rest = start.map_or("", |start| &self.source.text[*start..]);
        rest.split(['\r', '\n']).next().unwrap_or_default()
    }
}

/// ```text
/// 12 |   - service: order
///    |              ^^^^^
/// ```
pub(super) fn location(lines: &Lines, at: Place) -> Location {
    let line: Vec<char> = lines.line(at.line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let begin = at.column.saturating_sub(1).min(line.len());
    let skipped = if line.len() > MAX_SHOWN { begin.saturating_sub(MAX_SHOWN / 2) } else { 0 };
    let shown: String = line[skipped..].iter().take(MAX_SHOWN).collect();
    let shown = shown.trim_end();
    let room = shown.chars().count().saturating_sub(begin - skipped);
    let marker = "^".repeat(at.length.min(room).max(1));
    let number = at.line.to_string();
    let (margin, indent) = (" ".repeat(number.len()), " ".repeat(begin - skipped));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Location {
        file: lines.source.path.clone(),
        line: count(at.line),
        column: count(at.column),
        excerpt: format!("{number} | {shown}\n{margin} | {indent}{marker}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_stands_below_the_place() {
        let text = "routes:\n  - name: ä\n    service: order # x\n";
        let lines = Lines::of(Source { path: "f".into(), text: text.into() });
        let location = |line, column, length| location(&lines, Place { line, column, length });
        assert_eq!(location(3, 14, 5).excerpt, "3 |     service: order # x\n  |              ^^^^^");
        assert_eq!(location(2, 11, 400).excerpt, "2 |   - name: ä\n  |           ^");
        assert_eq!(location(9, 9, 9).excerpt, "9 | \n  | ^", "also where there is nothing");
    }

    #[test]
    fn lines_end_as_those_of_yaml_do() {
        let lines = Lines::of(Source { path: "f".into(), text: "one\r\ntwo\rthree\n\rfive".into() });
        let line = |line| location(&lines, Place { line, column: 1, length: 1 }).excerpt;
        assert_eq!(
            [1, 2, 3, 5].map(line),
            ["1 | one", "2 | two", "3 | three", "5 | five"].map(|line| format!("{line}\n  | ^"))
        );
    }

    #[test]
    fn of_a_long_line_a_part_is_shown() {
        let text = format!("{}here{}", "x".repeat(5000), "y".repeat(5000));
        let lines = Lines::of(Source { path: "f".into(), text });
        let excerpt = location(&lines, Place { line: 1, column: 5001, length: 4 }).excerpt;
        let (line, marker) = excerpt.split_once('\n').expect("two lines");
        assert!(line.len() < 200);
        assert_eq!(line.find("here"), marker.find("^^^^"));
    }
}
