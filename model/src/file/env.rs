//! `${env:NAME}` in the strings of a file stands for a variable of the environment.
//!
//! It is resolved in values that were read, never in the text, so that no value can change what the file says.
//! One more `$` in front makes it plain text: `$${env:NAME}` is the text `${env:NAME}`.

const OPEN: &str = "{env:";

/// The string with every variable in the place of its name, or the first thing that is wrong with it.
pub(super) fn resolve(written: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut resolved = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(open) = rest.find(OPEN) {
        let (before, after) = rest.split_at(open);
        let dollars = before.len() - before.trim_end_matches('$').len();
        let after = &after[OPEN.len()..];
        if dollars == 1 {
            let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
            let name = name.ok_or_else(|| "`${env:` without the name of a variable and a `}`".to_owned())?;
            let value = env(name).ok_or_else(|| format!("the environment has no variable `{name}`"))?;
            resolved.push_str(&before[..before.len() - 1]);
            resolved.push_str(&value);
            rest = &after[name.len() + 1..];
        } else {
            resolved.push_str(&before[..before.len() - usize::from(dollars > 1)]);
            resolved.push_str(OPEN);
            rest = after;
        }
    }
    resolved.push_str(rest);
    Ok(resolved)
}

/// What to write so that [`resolve`] gives this text.
pub(super) fn escape(text: &str) -> String {
    text.replace("${env:", "$${env:")
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "KEY").then(|| "a ${env:KEY} \"b\"".to_owned())
    }

    #[test]
    fn variables_are_put_in_and_never_read_again() {
        for (written, resolved) in [
            ("plain $ {env:KEY} $}", "plain $ {env:KEY} $}"),
            ("${env:KEY}", "a ${env:KEY} \"b\""),
            ("x${env:KEY}y${env:KEY}", "xa ${env:KEY} \"b\"ya ${env:KEY} \"b\""),
            ("$${env:KEY} $$${env:x", "${env:KEY} $${env:x"),
        ] {
            assert_eq!(resolve(written, &env).as_deref(), Ok(resolved));
        }
        assert_eq!(resolve("${env:OTHER}", &env), Err("the environment has no variable `OTHER`".into()));
        for written in ["${env:KEY", "${env:}", "${env:a b}", "${env:1}"] {
            assert!(resolve(written, &env).is_err(), "{written}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_plain_text(text in r"([$]|\{env:|KEY|\}|x){0,12}") {
            prop_assert_eq!(resolve(&escape(&text), &|_| None), Ok(text));
        }
    }
}
