//! Regular expressions that a whole text must match, compiled at publish time.
//!
//! Each becomes one automaton that is complete before the first request: matching takes one step for each byte, needs no
//! memory of its own and shares nothing that is written to, so that cores do not meet. What such an automaton cannot
//! hold within [`MAX_AUTOMATON_BYTES`] is refused. Letters are those of ASCII (`\w`, `\d`, `(?i)`), because
//! paths are percent-encoded.

use std::ops::Range;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::pikevm::PikeVM;
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Hir, HirKind};

use crate::problem::Fault;

mod joint;

pub(crate) use joint::{Joint, MAX_JOINED};

/// Longest expression, as it is written.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Largest automaton of one expression.
pub const MAX_AUTOMATON_BYTES: usize = 128 * 1024;
/// What making it may take for a moment.
const MAX_WORK_BYTES: usize = 2 * 1024 * 1024;

/// See the head of this file.
#[derive(Debug)]
pub struct Pattern {
    text: Box<str>,
    automaton: dense::DFA<Vec<u32>>,
    start: StateID,
    /// For expressions with named groups.
    groups: Option<Box<PikeVM>>,
}

impl Pattern {
    /// The expression, or why it cannot be one.
    pub fn compile(text: &str) -> Result<Self, Fault> {
        let hir = parse(text)?;
        let automaton = automaton(&hir).ok_or_else(too_large)?;
        let at_start = start::Config::new().anchored(Anchored::Yes);
        let start = automaton.start_state(&at_start).map_err(|_| too_large())?;
        let mut names = Vec::new();
        add_names(&hir, &mut names);
        let groups = if !names.is_empty() {
            let whole = Hir::concat(vec![hir, Hir::look(regex_syntax::hir::Look::End)]);
            let nfa = nfa(&whole, WhichCaptures::All).ok_or_else(too_large)?;
            Some(Box::new(PikeVM::new_from_nfa(nfa).map_err(|_| too_large())?))
        } else {
            None
        };
        Ok(Self { text: text.into(), automaton, start, groups })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole text.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        let mut state = self.start;
        for byte in text {
            state = self.automaton.next_state(state, *byte);
            if self.automaton.is_dead_state(state) {
                return false;
            }
        }
        self.automaton.is_match_state(self.automaton.next_eoi_state(state))
    }

    /// Its named groups in a text that it matches. This takes memory for a moment: it is for the one
    /// expression that decided, not for those that are tried.
    pub fn groups(&self, text: &str) -> Vec<(&str, Range<usize>)> {
        let Some(groups) = &self.groups else { return Vec::new() };
        let mut captures = groups.create_captures();
        groups.captures(&mut groups.create_cache(), Input::new(text).anchored(Anchored::Yes), &mut captures);
        let names = groups.get_nfa().group_info().pattern_names(regex_automata::PatternID::ZERO);
        let named = names.enumerate().filter_map(|(index, name)| Some((name?, captures.get_group(index)?.range())));
        named.collect()
    }
}

/// Why a text is no expression, as far as that can be told without compiling it.
pub fn check(text: &str) -> Option<Fault> {
    parse(text).err()
}

/// The names of its groups; none of a text that is no expression.
#[must_use]
pub fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(hir) = parse(text) {
        add_names(&hir, &mut names);
    }
    names
}

fn add_names(hir: &Hir, names: &mut Vec<String>) {
    match hir.kind() {
        HirKind::Capture(capture) => {
            names.extend(capture.name.as_deref().map(str::to_owned));
            add_names(&capture.sub, names);
        }
        HirKind::Repetition(repetition) => add_names(&repetition.sub, names),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().for_each(|part| add_names(part, names)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => {}
    }
}

/// What every text that the expression matches begins with.
#[must_use]
pub fn lead(text: &str) -> Lead {
    let hir = parse(text).unwrap_or_else(|_| Hir::empty());
    let mut lead = Lead { text: String::new(), is_whole: true };
    extend_lead(&hir, &mut lead);
    lead
}

/// See [`lead`].
#[derive(Debug, PartialEq, Eq)]
pub struct Lead {
    pub text: String,
    /// It is all that the expression matches.
    pub is_whole: bool,
}

fn extend_lead(hir: &Hir, lead: &mut Lead) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => match str::from_utf8(&literal.0) {
            Ok(text) => lead.text.push_str(text),
            Err(_) => lead.is_whole = false,
        },
        HirKind::Capture(capture) => extend_lead(&capture.sub, lead),
        HirKind::Concat(parts) => {
            for part in parts {
                if lead.is_whole {
                    extend_lead(part, lead);
                }
            }
        }
        // A `^` in front says what is the case anyway.
        HirKind::Look(regex_syntax::hir::Look::Start) if lead.text.is_empty() => {}
        HirKind::Look(_) | HirKind::Class(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => {
            lead.is_whole = false;
        }
    }
}

fn parse(text: &str) -> Result<Hir, Fault> {
    if text.len() > MAX_PATTERN_BYTES {
        let message = format!("a regular expression of {} bytes is too long", text.len());
        return Err(Fault::new("", "regex-too-large", message).hint(format!("use {MAX_PATTERN_BYTES} bytes at most")));
    }
    regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(text).map_err(|error| {
        let why = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "it cannot be read".to_owned(),
        };
        Fault::new("", "invalid-regex", format!("`{text}` is no regular expression: {why}")).hint(
            "the syntax is that of the Rust crate `regex`, without look-around, back-references and Unicode classes",
        )
    })
}

fn too_large() -> Fault {
    let message = format!("the regular expression takes more than {} KiB compiled", MAX_AUTOMATON_BYTES / 1024);
    Fault::new("", "regex-too-large", message)
        .hint("repeat fewer characters a counted number of times, or write `*` and `+` instead of counts")
}

fn nfa(hir: &Hir, captures: WhichCaptures) -> Option<NFA> {
    let config = thompson::Config::new().utf8(false).which_captures(captures).nfa_size_limit(Some(MAX_WORK_BYTES));
    thompson::Compiler::new().configure(config).build_from_hir(hir).ok()
}

fn automaton(hir: &Hir) -> Option<dense::DFA<Vec<u32>>> {
    // All matches and not the first: what counts is whether one of them ends where the text does.
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .dfa_size_limit(Some(MAX_AUTOMATON_BYTES))
        .determinize_size_limit(Some(MAX_WORK_BYTES));
    dense::Builder::new().configure(config).build_from_nfa(&nfa(hir, WhichCaptures::None)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, matching, other) in [
            ("a|ab", &["a", "ab"][..], &["", "abc", "b"][..]),
            ("/orders/[0-9]+", &["/orders/7", "/orders/007"], &["/orders/", "/orders/7/", "x/orders/7", "/orders/7x"]),
            ("^/a$", &["/a"], &["/ab", "", "/a\n"]),
            ("(?i)/Ab.*", &["/aB", "/abc/d"], &["/a"]),
            ("", &[""], &["a"]),
            (r"(?x) /a # one", &["/a"], &["/a # one"]),
            (r"\w+\b", &["ab_1"], &["a-b", "ä"]),
            (r"[^/]{3}", &["abc"], &["ab", "a/c", "abcd"]),
        ] {
            let compiled = Pattern::compile(pattern).expect(pattern);
            for text in matching {
                assert!(compiled.is_match(text.as_bytes()), "{pattern} {text}");
            }
            for text in other {
                assert!(!compiled.is_match(text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn what_is_wrong_or_too_large_says_so() {
        let long = "a".repeat(MAX_PATTERN_BYTES + 1);
        for (pattern, code) in [
            ("(", "invalid-regex"),
            (r"(a)\1", "invalid-regex"),
            (r"\p{Greek}", "invalid-regex"),
            ("(?=a)", "invalid-regex"),
            ("[ä]", "invalid-regex"),
            ("((a{1000}){1000}){1000}", "regex-too-large"),
            (".*a.{30}", "regex-too-large"),
            (&long, "regex-too-large"),
        ] {
            assert_eq!(Pattern::compile(pattern).map(drop).expect_err(pattern).code, code, "{pattern}");
        }
        assert!(Pattern::compile("/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/(.*)").is_ok());
    }

    #[test]
    fn leads_are_what_every_match_begins_with() {
        for (pattern, text, is_whole) in [
            ("/orders/[0-9]+", "/orders/", false),
            ("^/a/(b)/c", "/a/b/c", true),
            ("/a(b|c)", "/a", false),
            ("(?i)/a", "/", false),
            (".*", "", false),
            ("/a?", "/", false),
        ] {
            assert_eq!(lead(pattern), Lead { text: text.to_owned(), is_whole }, "{pattern}");
        }
    }

    #[test]
    fn named_groups_are_told() {
        let pattern = Pattern::compile("/(?<kind>[a-z]+)/(?<id>[0-9]+)(/(?<rest>.*))?").expect("an expression");
        assert_eq!(pattern.groups("/a/12"), [("kind", 1..2), ("id", 3..5)]);
        assert_eq!(pattern.groups("/a/1/b/c"), [("kind", 1..2), ("id", 3..4), ("rest", 5..8)]);
    }
}
