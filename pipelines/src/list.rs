//! The catalogue for people: `millstream list`.

use std::collections::BTreeSet;
use std::fmt::Write;

use millstream_engine::catalogue::schema_of;
use serde_json::Value;

use crate::catalogue::{Catalogue, Entry};
use crate::shape;

/// How wide the text is, in characters.
const WIDTH: usize = 100;

/// Sections in the order in which data passes them.
const SECTIONS: [(&str, &str); 6] = [
    ("source", "Sources: where records come from"),
    ("format", "Formats: bytes into columns, and back"),
    ("step", "Steps: cleansing, one stream at a time"),
    ("learner", "Learners: what a model is"),
    ("policy", "Policies: whose answer a request gets, where several models answer it"),
    ("sink", "Sinks: where rows go"),
];

/// Sections that are no kinds, and have their own story.
fn sections() -> [Entry; 1] {
    [Entry {
        what: "section",
        name: "tests",
        about: "What must come of which records: `millstream test` checks it on the real engine, in memory.\n\n\
            A test has a name, records that it gives to sources, and rows that it expects in places: after a source, a \
            stream, one of its steps (`clean/2` is the third), a model; among the dead letters; among the answers to \
            questions that it asks when everything given has been learned. Of a row only the columns that it names are \
            compared, floats to nine digits; the number of rows and their order (event time, then source, partition and \
            offset) must agree. A record is a map of columns, or a text as the source would read it; in a map, `_time`, \
            `_key` and `_partition` are the record's own. Tests do not count as a change of the definition.",
        schema: schema_of::<shape::Test>,
        example: "\
            free orders are refused:\n  \
              given:\n    \
                orders:\n      \
                  - {at: \"2026-01-05T19:00:00Z\", customer: c7, amount: 80}\n      \
                  - {at: \"2026-01-05T19:00:01Z\", customer: c8, amount: 0}\n  \
              expect:\n    \
                clean: [{customer: c7, evening: true}]\n  \
              dead: [{step: clean/0/require, reason: \"*amount > 0*\"}]\n",
    }]
}

/// All kinds, each with a line.
pub fn overview(catalogue: &Catalogue) -> String {
    let entries = catalogue.entries();
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (what, heading) in SECTIONS {
        let _ = writeln!(out, "{heading}");
        for entry in entries.iter().filter(|entry| entry.what == what) {
            let _ = writeln!(out, "  {:width$}  {}", entry.name, entry.summary());
        }
        out.push('\n');
    }
    let _ = writeln!(out, "Besides these, a definition may hold");
    for section in sections() {
        let _ = writeln!(out, "  {:width$}  {}", section.name, section.summary());
    }
    out.push_str("\n`millstream list NAME` tells more of one.\n");
    out
}

/// Everything about the kinds called `name` (a source and a sink may share one), or what there is instead.
pub fn details(catalogue: &Catalogue, name: &str) -> Result<String, String> {
    let entries: Vec<Entry> = catalogue.entries().into_iter().chain(sections()).collect();
    let found: Vec<&Entry> = entries.iter().filter(|entry| entry.name == name).collect();
    if found.is_empty() {
        let names: Vec<String> = entries.iter().map(|entry| entry.name.to_owned()).collect();
        return Err(match crate::report::nearest(name, &names) {
            Some(nearest) => format!("there is no kind `{name}`: did you mean `{nearest}`?"),
            None => format!("there is no kind `{name}`: `millstream list` shows what there is"),
        });
    }
    Ok(found.into_iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn describe(entry: &Entry) -> String {
    let mut out = format!("{} ({})\n\n", entry.name, entry.what);
    for paragraph in entry.about.trim().split("\n\n") {
        out.push_str(&wrap(paragraph, 0));
        out.push('\n');
    }
    let schema = (entry.schema)().to_value();
    tables("Configuration", &schema, &schema, &mut out);
    let _ = write!(out, "Example\n{}", indent(entry.name, entry.example));
    out
}

/// The table of a configuration, and those of the configurations within it.
fn tables(heading: &str, schema: &Value, root: &Value, out: &mut String) {
    let schema = resolve(schema, root);
    let rows = rows(schema, root);
    if !rows.is_empty() {
        let _ = writeln!(out, "{heading}\n{}", table(&rows));
    } else if schema["additionalProperties"].is_object() {
        let _ = writeln!(
            out,
            "{heading}\n  any number of keys, each with {}\n",
            kind_of(&schema["additionalProperties"], root)
        );
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let property = resolve(property, root);
        match alternatives(property) {
            // The variants of an enum: `update: {ftrl: {…}}`.
            Some(alternatives) => {
                for (variant, config) in
                    alternatives.iter().filter_map(|choice| choice["properties"].as_object()).flatten()
                {
                    tables(&format!("{name}: {variant}"), config, root, out);
                }
            }
            None if property["properties"].is_object() => tables(name, property, root, out),
            None => {}
        }
    }
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())
}

/// One key of a configuration.
struct Row {
    name: String,
    kind: String,
    default: String,
    about: String,
}

fn rows(schema: &Value, root: &Value) -> Vec<Row> {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut rows: Vec<Row> = properties
        .map(|(name, property)| Row {
            name: name.clone(),
            kind: kind_of(property, root),
            default: match &property["default"] {
                _ if required.contains(&name.as_str()) => "required".to_owned(),
                Value::Null => "-".to_owned(),
                default => default.to_string(),
            },
            about: description(property, root),
        })
        .collect();
    // What must be given comes first.
    rows.sort_by_key(|row| row.default != "required");
    rows
}

fn table(rows: &[Row]) -> String {
    let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0).min(40);
    let (name, kind, default) = (width(|row| &row.name), width(|row| &row.kind), width(|row| &row.default));
    let mut out = String::new();
    for row in rows {
        let left = format!("  {:name$}  {:kind$}  {:default$}", row.name, row.kind, row.default);
        let about = wrap(&row.about, 6);
        // Short remarks stand beside, long ones below.
        if left.chars().count() + 2 + row.about.chars().count() <= WIDTH {
            let _ = writeln!(out, "{left}  {}", row.about);
        } else {
            let _ = write!(out, "{}\n{about}", left.trim_end());
        }
    }
    out
}

/// Breaks a text into lines, each behind `indent` blanks.
fn wrap(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column == 0 || column + 1 + width > WIDTH {
            if column > 0 {
                out.push('\n');
            }
            let _ = write!(out, "{:indent$}{word}", "");
            column = indent + width;
        } else {
            let _ = write!(out, " {word}");
            column += 1 + width;
        }
    }
    out.push('\n');
    out
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/")) {
        Some(name) => &root["$defs"][name],
        None => schema,
    }
}

fn description(schema: &Value, root: &Value) -> String {
    let own = schema["description"].as_str().or_else(|| resolve(schema, root)["description"].as_str());
    own.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A type in a few words: `list of text`, `ftrl | sgd`.
fn kind_of(schema: &Value, root: &Value) -> String {
    let schema = resolve(schema, root);
    let word = |kind: &str| match kind {
        "string" => "text".to_owned(),
        "integer" => "int".to_owned(),
        "number" => "float".to_owned(),
        "boolean" => "bool".to_owned(),
        "array" => format!("list of {}", kind_of(&schema["items"], root)),
        "object" => match &schema["properties"] {
            Value::Object(properties) => properties.keys().cloned().collect::<Vec<_>>().join(" + "),
            _ if schema["additionalProperties"].is_object() => {
                format!("map to {}", kind_of(&schema["additionalProperties"], root))
            }
            _ => "map".to_owned(),
        },
        other => other.to_owned(),
    };
    if let Some(constant) = schema["const"].as_str() {
        return constant.to_owned();
    }
    if let Some(choices) = schema["enum"].as_array() {
        return choices.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | ");
    }
    if let Some(choices) = alternatives(schema) {
        let kinds = choices.iter().filter(|choice| choice["type"] != "null").map(|choice| kind_of(choice, root));
        let kinds = kinds.collect::<Vec<_>>().join(" | ");
        let mut seen = BTreeSet::new();
        return kinds.split(" | ").filter(|kind| seen.insert(*kind)).collect::<Vec<_>>().join(" | ");
    }
    match &schema["type"] {
        Value::String(kind) => word(kind),
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").map(word);
            kinds.collect::<Vec<_>>().join(" | ")
        }
        _ => "any".to_owned(),
    }
}

/// An example under its kind's name, as it stands in a definition.
fn indent(name: &str, example: &str) -> String {
    let example = example.trim_matches('\n');
    let inline = example.starts_with(['{', '[']) || !example.contains(": ");
    if inline && !example.contains('\n') {
        return format!("  {name}: {}\n", if example.is_empty() { "{}" } else { example });
    }
    let mut out = format!(
        "  {name}:
"
    );
    for line in example.lines() {
        let _ = writeln!(out, "    {line}");
    }
    out
}
