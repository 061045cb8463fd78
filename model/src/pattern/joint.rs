//! Several regular expressions as one automaton: a text is read once for all of them.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use super::{Pattern, parse};

/// As many as there are bits in what is told of a text.
pub(crate) const MAX_JOINED: usize = 64;
/// Largest automaton of several expressions. Those for which it does not do stay on their own.
const MAX_AUTOMATON_BYTES: usize = 512 * 1024;
/// What making it may take for a moment.
const MAX_WORK_BYTES: usize = 2 * 1024 * 1024;

/// See the head of this file.
pub(crate) struct Joint {
    automaton: dense::DFA<Vec<u32>>,
    start: StateID,
}

impl Joint {
    /// Nothing if they are too large together.
    pub(crate) fn compile<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Option<Self> {
        let parsed: Vec<_> = patterns.map(|pattern| parse(pattern.as_str())).collect::<Result<_, _>>().ok()?;
        debug_assert!(parsed.len() <= MAX_JOINED, "each has a bit");
        let config = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_WORK_BYTES));
        let nfa = thompson::Compiler::new().configure(config).build_many_from_hir(&parsed).ok()?;
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(MAX_AUTOMATON_BYTES))
            .determinize_size_limit(Some(MAX_WORK_BYTES));
        let automaton = dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        let start = automaton.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some(Self { automaton, start })
    }

    /// A bit for each expression that matches the whole text, the lowest for the first.
    pub(crate) fn matches(&self, text: &[u8]) -> u64 {
        let mut state = self.start;
        for byte in text {
            state = self.automaton.next_state(state, *byte);
            if self.automaton.is_dead_state(state) {
                return 0;
            }
        }
        let state = self.automaton.next_eoi_state(state);
        if !self.automaton.is_match_state(state) {
            return 0;
        }
        let matching = 0..self.automaton.match_len(state);
        matching.fold(0, |bits, index| bits | 1 << self.automaton.match_pattern(state, index).as_usize())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expression() -> impl Strategy<Value = String> {
        let leaf =
            prop_oneof![Just("a"), Just("b"), Just("/"), Just("[ab]"), Just("."), Just("^"), Just("$"), Just(r"\b")];
        leaf.prop_map(str::to_owned).prop_recursive(4, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner.clone(), 1..3).prop_map(|parts| format!("({})", parts.join("|"))),
                inner.prop_map(|part| format!("(?:{part})*")),
            ]
        })
    }

    proptest! {
        /// Oracle: each on its own.
        #[test]
        fn together_they_match_what_each_does(
            texts in prop::collection::vec(expression(), 1..20),
            paths in prop::collection::vec("[ab/]{0,6}", 8),
        ) {
            let patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::compile(text).expect("small")).collect();
            let joint = Joint::compile(patterns.iter()).expect("few");
            for path in paths {
                let each = patterns.iter().enumerate();
                let bits = each.fold(0, |bits, (at, one)| bits | u64::from(one.is_match(path.as_bytes())) << at);
                prop_assert_eq!(joint.matches(path.as_bytes()), bits, "{:?} {}", texts, path);
            }
        }
    }

    #[test]
    fn what_is_too_large_together_is_not_joined() {
        let texts = (0..MAX_JOINED).map(|number| format!("/.*{number}.*{}x", (b'a' + number as u8 % 26) as char));
        let patterns: Vec<Pattern> = texts.map(|text| Pattern::compile(&text).expect("small alone")).collect();
        assert!(Joint::compile(patterns.iter()).is_none());
    }
}
