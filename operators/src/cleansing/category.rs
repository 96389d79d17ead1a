//! Categories as definitions list them.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "text, a whole number, true or false")]
pub(super) enum Category {
    Text(String),
    Int(i64),
    Bool(bool),
}

impl Category {
    /// As a cast of the column to text gives it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
        }
    }
}
