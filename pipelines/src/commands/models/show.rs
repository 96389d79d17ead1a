//! What looks at versions.

use std::collections::BTreeMap;
use std::fmt::Write;

use millstream_engine::{Fault, Result};
use millstream_operators::registry::{Comparison, Difference, Entry, Metadata, Registry, select};
use millstream_pipelines::run::time;
use serde::Serialize;

use crate::Form;

/// Which versions are listed.
pub(super) struct Choice<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) condition: Option<&'a str>,
    pub(super) sort: Option<&'a str>,
}

/// A version as it is shown to machines.
#[derive(Serialize)]
struct Shown<'a> {
    model: &'a str,
    id: &'a str,
    number: Option<u64>,
    aliases: &'a [String],
    tags: &'a BTreeMap<String, String>,
    description: &'a str,
    /// What is wrong with it.
    damage: Option<String>,
    digest: Option<&'a str>,
    files: Option<&'a [String]>,
    metadata: Option<&'a Metadata>,
}

impl<'a> Shown<'a> {
    fn of(entry: &'a Entry) -> Self {
        let version = entry.version.as_ref();
        Self {
            model: &entry.model,
            id: &entry.id,
            number: entry.number,
            aliases: &entry.aliases,
            tags: &entry.tags,
            description: &entry.description,
            damage: version.err().map(ToString::to_string),
            digest: version.ok().map(|version| version.digest.as_str()),
            files: version.ok().map(|version| version.files.as_slice()),
            metadata: version.ok().map(|version| &version.metadata),
        }
    }
}

fn json(found: &impl Serialize) -> String {
    serde_json::to_string_pretty(found).expect("what is shown is JSON") + "\n"
}

pub(super) fn list(registry: &Registry, choice: &Choice<'_>, format: Form) -> Result<String> {
    let mut entries = registry.entries()?;
    let none = entries.is_empty();
    entries.retain(|entry| choice.model.is_none_or(|model| model == entry.model));
    let entries = select(entries, choice.condition, choice.sort)?;
    if format == Form::Json {
        return Ok(json(&entries.iter().map(Shown::of).collect::<Vec<_>>()));
    }
    if entries.is_empty() {
        return Ok(if none { "no versions yet\n" } else { "no such versions\n" }.to_owned());
    }
    let head = ["version", "model", "no", "aliases", "revision", "measure", "best baseline", "why"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(entries.iter().map(row));
    Ok(table(&rows))
}

fn row(entry: &Entry) -> [String; 8] {
    let number = entry.number.map_or_else(String::new, |number| number.to_string());
    let (revision, measure, baseline, why) = match &entry.version {
        Err(fault) => ("damaged".to_owned(), String::new(), String::new(), fault.to_string()),
        Ok(version) => {
            let metadata = &version.metadata;
            let decisive = metadata.decisive();
            let best = decisive.and_then(|(name, _)| metadata.best_baseline(name));
            let measure = decisive.map_or_else(String::new, |(name, value)| format!("{name} {value:.4}"));
            let baseline = best.map_or_else(String::new, |best| format!("{} {:.4}", best.who, best.value));
            (metadata.revision.to_string(), measure, baseline, metadata.reason.clone())
        }
    };
    [entry.id.clone(), entry.model.clone(), number, entry.aliases.join(","), revision, measure, baseline, why]
}

/// Columns as wide as they need to be.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row: &[String; N]| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn show(registry: &Registry, name: &str, format: Form) -> Result<String> {
    let version = registry.show(name)?;
    let entries = registry.entries()?;
    let entry = entries.iter().find(|entry| (&entry.model, &entry.id) == (&version.metadata.model, &version.id));
    let Some(entry) = entry else {
        return Err(Fault::definition(format!("version {name} has been deleted meanwhile")));
    };
    if format == Form::Json {
        return Ok(json(&Shown::of(entry)));
    }
    let mut text = format!("version      {}\ndigest       {}\n", version.id, version.digest);
    let number = entry.number.map_or_else(String::new, |number| number.to_string());
    let tags: Vec<String> = entry.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let facts = [
        ("number", number),
        ("aliases", entry.aliases.join(" ")),
        ("tags", tags.join(" ")),
        ("description", entry.description.clone()),
        ("files", version.files.join(" ")),
        ("place", version.place.clone()),
    ];
    for (what, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{what:<12} {fact}");
    }
    Ok(text + &json(&version.metadata))
}

pub(super) fn compare(registry: &Registry, [a, b]: [&str; 2], format: Form) -> Result<String> {
    let comparison = registry.compare(&registry.find(a)?, &registry.find(b)?)?;
    Ok(match format {
        Form::Json => json(&comparison),
        Form::Text => compared(&comparison),
    })
}

/// A comparison for people: measures over all rows, then by slices, then all else that differs.
pub(super) fn compared(comparison: &Comparison) -> String {
    let Comparison { a, b, measures, metadata, parameters } = comparison;
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let head = |what: &str| [what, a, b, "difference"].map(str::to_owned);
    let mut rows = vec![head("measure")];
    let (whole, slices): (Vec<_>, Vec<_>) = measures.iter().partition(|measure| measure.over == "all");
    for measure in whole.into_iter().chain(slices) {
        let who = if measure.who == "model" { String::new() } else { format!(" of {}", measure.who) };
        let over = if measure.over == "all" { String::new() } else { format!(", {}", measure.over) };
        let difference = measure.difference.map_or_else(String::new, |difference| format!("{difference:+.4}"));
        rows.push([format!("{}{who}{over}", measure.name), number(measure.a), number(measure.b), difference]);
    }
    let mut text = table(&rows);
    for (what, differences) in [("known of them", metadata), ("parameters", parameters)] {
        if differences.is_empty() {
            continue;
        }
        let mut rows = vec![[what, a, b].map(str::to_owned)];
        let said = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        rows.extend(differences.iter().map(|Difference { what, a, b }| [what.clone(), said(a), said(b)]));
        let _ = write!(text, "\n{}", table(&rows));
    }
    text
}

pub(super) fn history(registry: &Registry, of: Option<&str>, format: Form) -> Result<String> {
    let is_model = of.is_some_and(|of| !of.contains(['@', '/']));
    let events = match of {
        None => registry.history(None, None)?,
        Some(model) if is_model && !registry.history(Some(model), None)?.is_empty() => {
            registry.history(Some(model), None)?
        }
        Some(version) => {
            let version = registry.find(version)?;
            registry.history(Some(&version.metadata.model), Some(&version.id))?
        }
    };
    if format == Form::Json {
        return Ok(json(&events));
    }
    if events.is_empty() {
        return Ok("nothing yet\n".to_owned());
    }
    let mut rows = vec![["when", "model", "version", "what", "by", "why"].map(str::to_owned)];
    rows.extend(events.into_iter().map(|event| {
        let what = format!("{} {}", event.kind, event.what);
        [time(event.at_ms), event.model, event.version, what, event.by, event.why]
    }));
    Ok(table(&rows))
}
