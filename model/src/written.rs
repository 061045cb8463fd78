//! Reading a written form so that every fault in it is found, not only the first.
//!
//! serde stops at the first error. Here the value that caused it is taken out and the reading starts
//! again, until what is left parses or nothing is left to take. Each error becomes a [`Fault`] with a JSON
//! pointer and, for a misspelt field or variant, a hint.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::problem::{Fault, did_you_mean, push_pointer};

/// No resource has more faults than anyone would read at once.
const MAX_FAULTS: usize = 50;

/// The typed form of `value`, or every fault in it.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Fault>> {
    match read_partly(value) {
        Reading { typed: Some(typed), faults, .. } if faults.is_empty() => Ok(typed),
        reading => Err(reading.faults),
    }
}

/// What can be made of `value`, with every fault in it.
pub fn read_partly<T: DeserializeOwned>(mut value: Value) -> Reading<T> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut removed = Removed::default();
    // serde takes a list for the fields of a form, in their order.
    if value.is_array() {
        faults.push(Fault::new("", "invalid-value", "a list does not fit here").hint("write an object"));
        return Reading { typed: None, faults, removed };
    }
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(typed) => return Reading { typed: Some(typed), faults, removed },
            Err(error) => error,
        };
        let mut fault = describe(&value, error.path(), &error.inner().to_string());
        let now = fault.pointer.clone();
        fault.pointer = removed.as_written(&now);
        if !faults.iter().any(|earlier| is_cause(earlier, &fault)) {
            faults.push(fault);
        }
        // Where a field is missing there is nothing to take out but what should contain it.
        let taken = removed.take(&mut value, &now)
            || now.rsplit_once('/').is_some_and(|(container, _)| removed.take(&mut value, container));
        if !taken || faults.len() >= MAX_FAULTS {
            return Reading { typed: None, faults, removed };
        }
    }
}

/// What was made of a value.
pub struct Reading<T> {
    /// The value without what was at fault; nothing if too much was.
    pub typed: Option<T>,
    pub faults: Vec<Fault>,
    removed: Removed,
}

impl<T> Reading<T> {
    /// Whether a fault that a look at `typed` finds is the author's, and not there only because something was taken
    /// out.
    #[must_use]
    pub fn is_genuine(&self, fault: &Fault) -> bool {
        let is_loss = fault.code.starts_with("missing-");
        let container = |pointer: &str| pointer.rsplit_once('/').map(|(container, _)| container.to_owned());
        !self.faults.iter().any(|earlier| {
            is_cause(earlier, fault) || (is_loss && container(&earlier.pointer) == container(&fault.pointer))
        })
    }

    /// Where in the value as it was written something in `typed` is.
    #[must_use]
    pub fn as_written(&self, pointer: &str) -> String {
        self.removed.as_written(pointer)
    }
}

/// Whether `later` is found only because the value of `earlier` was taken out, and so is no fault of the
/// author's: something in it was at fault before, or it is missing under its right name.
fn is_cause(earlier: &Fault, later: &Fault) -> bool {
    if let Some(rest) = earlier.pointer.strip_prefix(later.pointer.as_str())
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return true;
    }
    let (Some((earlier_in, _)), Some((later_in, meant))) =
        (earlier.pointer.rsplit_once('/'), later.pointer.rsplit_once('/'))
    else {
        return false;
    };
    earlier_in == later_in
        && earlier.code == "unknown-field"
        && later.code == "missing-field"
        && earlier.hint.as_deref() == did_you_mean(meant, [meant]).as_deref()
}

/// The canonical text of a written form: what is stored, hashed and sent.
#[must_use]
pub fn canonical<T: Serialize>(typed: &T) -> String {
    serde_json::to_string(typed).expect("written forms are plain data")
}

fn describe(value: &Value, path: &Path, message: &str) -> Fault {
    let mut pointer = pointer_of(path);
    // serde_json appends a position in its own input, which nobody has seen.
    let message = match message.rfind(" at line ") {
        Some(end) => &message[..end],
        None => message,
    };
    if let Some((field, known)) = unknown(message, "unknown field `") {
        let named = pointer.rsplit('/').next() == Some(field);
        if !named || value.pointer(&pointer).is_none() {
            push_pointer(&mut pointer, field);
        }
        let fault = Fault::new(pointer, "unknown-field", format!("there is no field `{field}`"));
        return fault.hint(suggestion(field, &known, "the fields are"));
    }
    if let Some((variant, known)) = unknown(message, "unknown variant `") {
        let fault = Fault::new(pointer, "unknown-value", format!("`{variant}` is not possible here"));
        return fault.hint(suggestion(variant, &known, "possible are"));
    }
    if let Some(rest) = message.strip_prefix("missing field `") {
        let field = rest.trim_end_matches('`');
        push_pointer(&mut pointer, field);
        return Fault::new(pointer, "missing-field", format!("the field `{field}` is missing"));
    }
    if let Some((found, expected)) = misfit(message) {
        let fault = Fault::new(pointer, "invalid-value", format!("{found} does not fit here"));
        return fault.hint(format!("write {expected}"));
    }
    Fault::new(pointer, "invalid-value", message.to_owned())
}

/// What was found and what belongs there, of serde's "invalid type: integer `5`, expected a string".
fn misfit(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.split_once(", expected ")?;
    let found = match found {
        "sequence" => "a list",
        "map" => "an object",
        "null" | "unit value" => "nothing",
        // The text could be a secret in a wrong place.
        text if text.starts_with("string ") => "a string",
        other => other,
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a boolean" => "`true` or `false`",
        "a string" => "a string, in quotes",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a map" => "an object",
        other if ["struct ", "internally tagged enum ", "tuple "].iter().any(|lead| other.starts_with(lead)) => {
            "an object"
        }
        other => other,
    };
    Some((found, expected))
}

fn suggestion(written: &str, known: &[&str], lead: &str) -> String {
    did_you_mean(written, known.iter().copied()).unwrap_or_else(|| format!("{lead} {}", known.join(", ")))
}

/// The offender and the possibilities of serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown<'m>(message: &'m str, lead: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let rest = message.strip_prefix(lead)?;
    let (offender, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((offender, known))
}

fn pointer_of(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push_pointer(&mut pointer, &index.to_string()),
            Segment::Map { key } => push_pointer(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// What was taken out so far, so that places in what is left can be told as places in what was written.
#[derive(Default)]
struct Removed {
    /// Pointer of a list as written, and the places of the entries taken out of it, in ascending order.
    entries: Vec<(String, Vec<usize>)>,
}

impl Removed {
    /// Takes the value at `pointer` out of `value`; false if there is nothing there.
    fn take(&mut self, value: &mut Value, pointer: &str) -> bool {
        let Some((parent, last)) = pointer.rsplit_once('/') else {
            return false;
        };
        match value.pointer_mut(parent) {
            Some(Value::Object(map)) => map.shift_remove(&last.replace("~1", "/").replace("~0", "~")).is_some(),
            Some(Value::Array(list)) => {
                let Some(index) = last.parse().ok().filter(|index| *index < list.len()) else {
                    return false;
                };
                list.remove(index);
                let parent = self.as_written(parent);
                let index = self.index_as_written(&parent, index);
                match self.entries.iter_mut().find(|(list, _)| *list == parent) {
                    Some((_, gone)) => {
                        gone.push(index);
                        gone.sort_unstable();
                    }
                    None => self.entries.push((parent, vec![index])),
                }
                true
            }
            _ => false,
        }
    }

    fn as_written(&self, pointer: &str) -> String {
        let mut written = String::new();
        for step in pointer.split('/').skip(1) {
            let step = match step.parse() {
                Ok(index) => self.index_as_written(&written, index).to_string(),
                Err(_) => step.to_owned(),
            };
            written.push('/');
            written.push_str(&step);
        }
        written
    }

    fn index_as_written(&self, list: &str, mut index: usize) -> usize {
        for (_, gone) in self.entries.iter().filter(|(pointer, _)| pointer == list) {
            for place in gone {
                index += usize::from(*place <= index);
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsing is under test")]
    struct Outer {
        count: u8,
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsing is under test")]
    struct Inner {
        weight: u8,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        LeastRequest,
        RoundRobin,
    }

    fn pointers(value: Value) -> Vec<String> {
        let faults = read::<Outer>(value).expect_err("faults");
        faults
            .into_iter()
            .map(|fault| format!("{} {} {}", fault.pointer, fault.code, fault.hint.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn every_fault_is_found_once() {
        let found = pointers(json!({
            "count": 300,
            "inner": [{"weight": 1}, 7, {"weight": 2}, {"wieght": 2}, {"weight": -1}],
            "mode": "round_robbin",
            "conut": 1,
        }));
        assert_eq!(found.len(), 6, "{found:?}");
        for expected in [
            "/count invalid-value write a whole number from 0 to 255",
            "/inner/1 invalid-value write an object",
            "/inner/3/wieght unknown-field did you mean `weight`?",
            "/inner/4/weight invalid-value write a whole number from 0 to 255",
            "/mode unknown-value did you mean `round_robin`?",
            "/conut unknown-field did you mean `count`?",
        ] {
            assert!(found.iter().any(|fault| fault == expected), "{expected} in {found:?}");
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(pointers(json!({})), ["/count missing-field "]);
    }

    #[test]
    fn a_field_missing_deep_inside_does_not_hide_later_faults() {
        let found = pointers(json!({
            "count": 1,
            "inner": [{}, {"weight": 1}, {"weight": 2, "x": 1}, {}, {"weight": "no"}],
        }));
        assert_eq!(
            found,
            [
                "/inner/0/weight missing-field ",
                "/inner/2/x unknown-field the fields are weight",
                "/inner/3/weight missing-field ",
                "/inner/4/weight invalid-value write a whole number from 0 to 255",
            ]
        );
    }

    #[test]
    fn what_is_no_object_at_all_is_one_fault() {
        assert_eq!(read::<Outer>(json!(7)).expect_err("a fault").len(), 1);
    }
}
