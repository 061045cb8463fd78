//! Which of many are meant, by their labels: `key=value` or `key`, and all of it must hold.

use model::resource::Labels;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `key=value`: that label has that value. `key`: there is such a label. All must hold; without any, everything is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Selector(Vec<String>);

impl Selector {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }
}

impl<T: Into<String>> FromIterator<T> for Selector {
    fn from_iter<I: IntoIterator<Item = T>>(wanted: I) -> Self {
        Self(wanted.into_iter().map(Into::into).collect())
    }
}
