//! A path that was rewritten: whatever was captured, it is canonical, holds no dot segment to whoever decodes it, and
//! begins with what the configuration fixes in front of the first name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model::filter::path::{PathRewrite, Substitution};
use model::pattern::Pattern;
use model::router::path::canonical;
use percent_encoding::percent_decode;

const PATTERN: &str = "/(?<a>[^!]*)(!(?<b>[^!]*))?(!(?<c>.*))?";

fuzz_target!(|lines: &str| {
    let Some((substitution, path)) = lines.split_once('\n') else { return };
    let (Ok(parsed), Ok(path)) = (Substitution::parse(substitution), canonical(path)) else { return };
    // What is checked of a substitution when it is written.
    let sample = parsed.with(|_| "x");
    if !canonical(&sample).is_ok_and(|canonical| canonical == sample) {
        return;
    }
    let fixed = substitution.split('{').next().unwrap_or_default();
    let lead = match substitution.contains('{') {
        true => &fixed[..=fixed.rfind('/').expect("it begins with a slash")],
        false => fixed,
    };
    let pattern = Pattern::compile(PATTERN).expect("an expression");
    let rewrite = PathRewrite::Regex(Box::new((pattern, parsed)));
    let Ok(made) = rewrite.apply(&path, &[]) else { return };
    assert_eq!(canonical(&made).as_deref(), Ok(&*made));
    if made == *path {
        return; // The expression may not have matched.
    }
    assert!(made.starts_with(lead), "{made} is not below {lead}");
    let decoded: Vec<u8> = percent_decode(made.as_bytes()).collect();
    let mut segments = decoded.split(|byte| *byte == b'/');
    assert!(segments.all(|segment| segment != b"." && segment != b".."), "a hidden dot segment");
});
