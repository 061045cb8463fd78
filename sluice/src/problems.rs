//! How problems are shown: where, what, and what to do about it.
//!
//! ```text
//! gateway.yaml:12:14: route `orders` at /service: no service is named `order`
//!   12 |     service: order
//!      |              ^^^^^
//!   hint: did you mean `orders`?
//! ```

use std::fmt::Write;

use model::problem::{Location, Problem};

use crate::output;

/// One paragraph for each.
#[must_use]
pub fn list(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        paragraph(&mut text, problem);
    }
    let count = problems.len();
    if count > 1 {
        let _ = write!(text, "{count} problems");
    }
    text.truncate(text.trim_end().len());
    text
}

/// Says what is possible and hardly meant, each with its code.
pub fn warn(warnings: &[Problem]) {
    for warning in warnings {
        let mut text = format!("warning[{}]: ", warning.code);
        paragraph(&mut text, warning);
        output::message(text.trim_end());
    }
}

fn paragraph(text: &mut String, problem: &Problem) {
    let Problem { kind, name, pointer, code: _, message, hint, location, page } = problem;
    if let Some(Location { file, line, column, .. }) = location {
        let _ = write!(text, "{file}:{line}:{column}: ");
    }
    if let Some(kind) = kind {
        let _ = write!(text, "{kind}");
        if let Some(name) = name {
            let _ = write!(text, " `{name}`");
        }
        if !pointer.is_empty() {
            let _ = write!(text, " at {pointer}");
        }
        text.push_str(": ");
    }
    let _ = writeln!(text, "{message}");
    for line in location.iter().flat_map(|location| location.excerpt.lines()) {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "  hint: {hint}");
    }
    match page.as_deref() {
        Some(page) if page.starts_with('/') => drop(writeln!(text, "  more: {page} of any admin API")),
        Some(page) => drop(writeln!(text, "  more: {page}")),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn problem(location: Option<Location>) -> Problem {
        Problem {
            kind: model::resource::Kind::parse("route"),
            name: Some("orders".into()),
            pointer: "/service".into(),
            code: Cow::Borrowed("unknown-reference"),
            message: "no service is named `order`".into(),
            hint: Some("did you mean `orders`?".into()),
            location,
            page: None,
        }
    }

    #[test]
    fn a_problem_shows_its_place() {
        let excerpt = "12 |     service: order\n   |              ^^^^^".to_owned();
        let located = problem(Some(Location { file: "gateway.yaml".into(), line: 12, column: 14, excerpt }));
        let expected = "\
gateway.yaml:12:14: route `orders` at /service: no service is named `order`
  12 |     service: order
     |              ^^^^^
  hint: did you mean `orders`?";
        assert_eq!(list(&[located]), expected);
    }

    #[test]
    fn what_is_explained_elsewhere_says_where() {
        let with = |page: &str| list(&[Problem { page: Some(page.into()), ..problem(None) }]);
        assert!(with("/docs/lints/a").ends_with("\n  more: /docs/lints/a of any admin API"));
        assert!(with("http://x/docs/lints/a").ends_with("\n  more: http://x/docs/lints/a"));
    }

    #[test]
    fn several_are_counted() {
        let text = list(&[problem(None), problem(None)]);
        assert!(text.starts_with("route `orders` at /service: no service is named `order`\n  hint: did you"), "{text}");
        assert!(text.ends_with("\n2 problems"), "{text}");
    }
}
