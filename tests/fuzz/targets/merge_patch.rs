//! JSON merge patch, as target and patch on a line each: what a patch says holds afterwards, what it does not mention
//! stays, and saying it twice changes nothing (RFC 7396 section 2).

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// Alone, because the control plane around it takes longer to build than all else here.
#[path = "../../../control-plane/src/api/merge_patch.rs"]
mod merge_patch;

fuzz_target!(|text: &str| {
    let Some((target, patch)) = text.split_once('\n') else { return };
    let (Ok(target), Ok(patch)) = (serde_json::from_str::<Value>(target), serde_json::from_str::<Value>(patch)) else {
        return;
    };
    let mut merged = target.clone();
    merge_patch::merge(&mut merged, patch.clone());
    check(&target, &patch, &merged);
    let mut again = merged.clone();
    merge_patch::merge(&mut again, patch);
    assert_eq!(again, merged);
});

fn check(target: &Value, patch: &Value, merged: &Value) {
    let Value::Object(fields) = patch else { return assert_eq!(patch, merged) };
    let Value::Object(result) = merged else { panic!("a patch that is an object makes one") };
    for (name, field) in fields {
        match result.get(name) {
            Some(after) => check(target.get(name).unwrap_or(&Value::Null), field, after),
            None => assert!(field.is_null(), "`{name}` is not there"),
        }
    }
    for (name, before) in target.as_object().into_iter().flatten().filter(|(name, _)| !fields.contains_key(*name)) {
        assert_eq!(result.get(name), Some(before), "`{name}` was not mentioned");
    }
    for name in result.keys() {
        assert!(fields.contains_key(name) || target.get(name).is_some(), "`{name}` comes from nowhere");
    }
}
