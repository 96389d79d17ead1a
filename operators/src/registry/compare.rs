//! Two versions side by side.

use std::collections::BTreeMap;

use millstream_engine::Result;
use serde::Serialize;
use serde_json::Value;

use super::measures::DECISIVE;
use super::store::Registry;
use super::version::{DESCRIPTION, Metadata, Score, Version};

/// How two versions differ: `b` beside `a`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The first version, `model/id`.
    pub a: String,
    /// The second one.
    pub b: String,
    /// All measures of both, over all rows and over slices, of the models and of their baselines.
    pub measures: Vec<Compared>,
    /// What else is known of them and differs: `frontier.offsets.flights/0`.
    pub metadata: Vec<Difference>,
    /// What differs in what the models are: `parameters.update`.
    pub parameters: Vec<Difference>,
}

/// A measure of two versions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was measured: `log_loss`.
    pub name: String,
    /// Who reached it: `model`, `majority`.
    pub who: String,
    /// Over which rows: `all`, `carrier=AA`.
    pub over: String,
    /// The first version's value.
    pub a: Option<f64>,
    /// The second one's.
    pub b: Option<f64>,
    /// `b` less `a`.
    pub difference: Option<f64>,
}

/// Something of two versions that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is.
    pub what: String,
    /// What the first version says; `null` where nothing.
    pub a: Value,
    /// What the second one says.
    pub b: Value,
}

impl Registry {
    /// Compares two versions, whose files are checked.
    pub fn compare(&self, a: &Version, b: &Version) -> Result<Comparison> {
        let name = |version: &Version| format!("{}/{}", version.metadata.model, version.id);
        let description = |version| -> Result<Value> {
            let files = self.artefacts(version)?;
            let file = files.iter().find(|(name, _)| name == DESCRIPTION);
            // What another program has written may be no JSON.
            Ok(file.and_then(|(_, content)| serde_json::from_slice(content).ok()).unwrap_or_default())
        };
        Ok(Comparison {
            a: name(a),
            b: name(b),
            measures: measures(&a.metadata, &b.metadata),
            metadata: differences(&known(&a.metadata), &known(&b.metadata)),
            parameters: differences(&description(a)?, &description(b)?),
        })
    }
}

/// Why `b` is not to take the place of `a`: a decisive measure is worse over all rows, or on a slice by more than
/// `slice_tolerance` of its value.
pub(super) fn check(comparison: &Comparison, slice_tolerance: f64) -> Result<(), String> {
    let name = DECISIVE.into_iter().find(|name| {
        let decides = |of: &&Compared| of.name == *name && of.who == "model" && of.over == "all";
        comparison.measures.iter().find(decides).is_some_and(|of| of.difference.is_some())
    });
    let mend = "--force moves the alias anyway";
    let Some(name) = name else {
        return Err(format!("there is no {} of both to compare them by; {mend}", DECISIVE.join(" or ")));
    };
    let mut worse = Vec::new();
    for Compared { over, a, b, .. } in comparison.measures.iter().filter(|of| of.name == name && of.who == "model") {
        let (Some(a), Some(b)) = (a, b) else { continue };
        let bound = if over == "all" { *a } else { a * (1.0 + slice_tolerance) };
        // Written so that what is not a number is worse.
        let is_fine = b <= &bound;
        if !is_fine {
            worse.push(format!("{b:.4} instead of {a:.4} over {over}"));
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    let shown = worse.len().min(5);
    let more = if worse.len() > shown { format!(" and {} more", worse.len() - shown) } else { String::new() };
    let percent = 100.0 * slice_tolerance;
    Err(format!(
        "{name} of {} would be {}{more} (slices may be worse by {percent}%); {mend}, --slice-tolerance lets slices be worse",
        comparison.b,
        worse[..shown].join(", ")
    ))
}

fn measures(a: &Metadata, b: &Metadata) -> Vec<Compared> {
    let same = |score: &Score, other: &&Score| {
        (&score.name, &score.who, &score.over) == (&other.name, &other.who, &other.over)
    };
    let compared = |score: &Score, a: Option<f64>, b: Option<f64>| Compared {
        name: score.name.clone(),
        who: score.who.clone(),
        over: score.over.clone(),
        a,
        b,
        difference: a.zip(b).map(|(a, b)| b - a),
    };
    let of_a = a.measures.iter().map(|score| {
        let other = b.measures.iter().find(|other| same(score, other));
        compared(score, Some(score.value), other.map(|other| other.value))
    });
    let only_b = b.measures.iter().filter(|score| !a.measures.iter().any(|other| same(score, &other)));
    of_a.chain(only_b.map(|score| compared(score, None, Some(score.value)))).collect()
}

/// Metadata without the measures, which are compared one by one.
fn known(metadata: &Metadata) -> Value {
    serde_json::to_value(Metadata { measures: Vec::new(), ..metadata.clone() }).unwrap_or_default()
}

fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
    flatten(a, String::new(), &mut left);
    flatten(b, String::new(), &mut right);
    let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let value = |of: &BTreeMap<String, Value>, name: &String| of.get(name).cloned().unwrap_or_default();
    let all =
        names.into_iter().map(|name| Difference { what: name.clone(), a: value(&left, name), b: value(&right, name) });
    all.filter(|difference| difference.a != difference.b).collect()
}

/// The leaves by their path.
fn flatten(value: &Value, path: String, leaves: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(name, value)| flatten(value, below(name), leaves)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(value, below(&at.to_string()), leaves));
        }
        leaf => drop(leaves.insert(path, leaf.clone())),
    }
}
