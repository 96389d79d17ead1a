//! A first draft of a definition, each step with what was seen.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use millstream_operators::profile::ColumnReport;
use serde_json::{Value, json};

use super::decide::{Coerce, Decided};
use super::read::{absolute, pattern_of};
use super::{Draft, Profiled};

/// Of so many categories, each gets a column of its own.
const ONE_HOT_MAX: usize = 8;
/// Beyond this share of different values, a text says which row it is, and no more.
const UNIQUE_SHARE: f64 = 0.5;
/// A number that is more often different than so is one that counts rows, or names something.
const COUNTING_SHARE: f64 = 0.95;
/// Numbers that lie further from the quartiles than so many times the distance between those are taken for impossible.
const FAR: f64 = 20.0;

/// The draft, to lie in `folder`.
pub(super) fn definition(found: &Profiled, draft: &Draft, folder: &Path) -> String {
    let path = absolute(&draft.path).unwrap_or_else(|_| draft.path.clone());
    let folder = absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let from = pattern_of(path.strip_prefix(&folder).unwrap_or(&path));
    let stem: String = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.split('.').next().unwrap_or_default();
    let simple = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = stem.chars().map(simple).collect();
    let name = name.trim_matches('-');
    let name =
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name.to_owned() } else { format!("data-{name}") };
    let mut writer = Writer { found, draft, text: String::new(), steps: Vec::new() };
    writer.head(name.trim_end_matches('-'), &from);
    writer.steps();
    writer.finish()
}

struct Writer<'a> {
    found: &'a Profiled,
    draft: &'a Draft,
    text: String,
    /// What was seen, and the step.
    steps: Vec<(String, Value)>,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn head(&mut self, name: &str, from: &str) {
        let rows = self.found.report.rows;
        self.line(&format!(
            "# A first draft, from a look at {rows} rows. Each step says what was seen; what it means, you know better."
        ));
        self.line("millstream: 1");
        self.line(&format!("name: {name}"));
        self.line("");
        self.line("sources:");
        self.line("  rows:");
        let config = json!({"path": from, "type": self.draft.content.file_type()});
        self.line(&format!("    from: {}", flow(&json!({"file": config}))));
        if let Some(format) = self.draft.content.format(&self.draft.columns) {
            self.line(&format!("    format: {}", flow(&format)));
        }
        if let Some(why) = &self.found.unread_because {
            let unread = self.found.unread;
            self.line(&format!(
                "    # {unread} records cannot be read and become dead letters; the first {}",
                one_line(why)
            ));
        }
        self.line("    columns:");
        for column in &self.draft.columns {
            let seen = column.seen.as_ref().map_or_else(String::new, |seen| format!("   # {}", one_line(seen)));
            self.line(&format!("      {}: {}{seen}", word(&column.name), column.kind));
        }
        self.event_time();
        self.line("");
    }

    /// The timestamp that is always there, and goes back the least.
    fn event_time(&mut self) {
        let missing = |name: &str| self.report(name).map_or(1.0, |column| column.missing_share);
        let mut candidates: Vec<(f64, f64, &String)> =
            self.found.lateness_seconds.iter().map(|(name, late)| (missing(name), *late, name)).collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((missing, late, name)) = candidates.first() else {
            return self.line("    # No column is known to say when a row happened: then all happened at once.");
        };
        let (missing, late, name) = (*missing, *late, (*name).clone());
        if missing > 0.0 {
            let share = 100.0 * missing;
            self.line(&format!("    # {share:.2} % of the rows have none, and become dead letters."));
        }
        self.line(&format!("    # It goes back by {late} seconds at most."));
        self.line(&format!("    event_time: {}", flow(&json!({"column": name, "lateness_seconds": late.ceil()}))));
    }

    fn report(&self, name: &str) -> Option<&ColumnReport> {
        self.found.report.columns.iter().find(|column| column.name == name)
    }

    /// Each column with its report.
    fn columns(&self) -> Vec<(&Decided, &ColumnReport)> {
        self.draft.columns.iter().zip(&self.found.report.columns).collect()
    }

    fn step(&mut self, seen: impl Into<String>, step: Value) {
        self.steps.push((seen.into(), step));
    }

    fn steps(&mut self) {
        self.clean_text();
        self.coerce();
        self.sentinels();
        self.outliers();
        self.deduplicate();
        self.impute();
        self.categories();
        self.standardise();
    }

    fn clean_text(&mut self) {
        let (mut padded, mut alike, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for (column, report) in self.columns() {
            let Some(text) = report.text.as_ref().filter(|_| column.final_kind() == "text") else { continue };
            if let Some([one, other]) = text.alike.as_ref().filter(|_| column.coerce.is_none()) {
                alike.push(column.name.clone());
                seen.push(format!("`{}`: {one:?} and {other:?}", column.name));
            } else if text.looks.padded > 0 {
                padded.push(column.name.clone());
            }
        }
        if !padded.is_empty() {
            self.step("blanks around texts", json!({"clean_text": {"columns": padded}}));
        }
        if !alike.is_empty() {
            let step = json!({"clean_text": {"columns": alike, "case": "lower"}});
            self.step(format!("the same but for the case of letters: {}", seen.join(", ")), step);
        }
    }

    fn coerce(&mut self) {
        let mut groups: BTreeMap<Coerce, Vec<&Decided>> = BTreeMap::new();
        for column in &self.draft.columns {
            // Columns of different types that are read alike go together.
            if let Some(coerce) = &column.coerce {
                groups.entry(Coerce { to: "", ..coerce.clone() }).or_default().push(column);
            }
        }
        let mut steps = Vec::new();
        for (how, columns) in groups {
            let types: serde_json::Map<String, Value> =
                columns.iter().map(|column| (column.name.clone(), json!(column.final_kind()))).collect();
            let mut config = json!({"columns": types, "otherwise": "null"});
            let settings = [
                ("decimal", how.decimal.map(|c| json!(c))),
                ("thousands", how.thousands.map(|c| json!(c))),
                ("format", how.format.map(|format| json!(format))),
                ("missing", (!how.missing.is_empty()).then(|| json!(how.missing))),
            ];
            for (key, value) in settings {
                if let Some(value) = value {
                    config[key] = value;
                }
            }
            let seen =
                columns.iter().filter_map(|column| Some(format!("`{}`: {}", column.name, column.seen.as_ref()?)));
            steps.push((seen.collect::<Vec<_>>().join("; "), json!({"coerce": config})));
        }
        self.steps.extend(steps);
    }

    /// Numbers that stand for a missing one.
    fn sentinels(&mut self) {
        /// The numbers, and the columns that have them, with what was seen.
        type Group<'a> = (Vec<f64>, Vec<(&'a Decided, String)>);
        let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
        for (column, report) in self.columns() {
            if !["int", "float"].contains(&column.final_kind()) || report.suspects.is_empty() {
                continue;
            }
            let values: Vec<f64> = report.suspects.iter().map(|suspect| suspect.value).collect();
            let times: Vec<String> =
                report.suspects.iter().map(|suspect| format!("{} {} times", suspect.value, suspect.count)).collect();
            let group = groups.entry(format!("{values:?}")).or_insert_with(|| (values, Vec::new()));
            group.1.push((column, format!("`{}`: {}", column.name, times.join(", "))));
        }
        let mut steps = Vec::new();
        for (values, columns) in groups.into_values() {
            let types: serde_json::Map<String, Value> =
                columns.iter().map(|(column, _)| (column.name.clone(), json!(column.final_kind()))).collect();
            let missing: Vec<Value> = values.iter().map(|value| json!(*value as i64)).collect();
            let seen = columns.into_iter().map(|(_, seen)| seen).collect::<Vec<_>>().join("; ");
            let step = json!({"coerce": {"columns": types, "missing": missing}});
            steps.push((format!("far from all others, so perhaps a missing value: {seen}"), step));
        }
        self.steps.extend(steps);
    }

    /// Numbers that are impossible, if the middle half of them tells what is possible.
    fn outliers(&mut self) {
        let mut steps = Vec::new();
        for (column, report) in self.columns() {
            let numbers = ["int", "float"].contains(&column.final_kind());
            let (Some(low), Some(high)) = (report.quantile(0.25), report.quantile(0.75)) else { continue };
            let (Some(min), Some(max)) = (report.min, report.max) else { continue };
            let is_suspect = |value: f64| report.suspects.iter().any(|suspect| suspect.value.total_cmp(&value).is_eq());
            let far = FAR * (high - low);
            let below = min < low - far && !is_suspect(min);
            let above = max > high + far && !is_suspect(max);
            if !numbers || far <= 0.0 || !(below || above) {
                continue;
            }
            let (mut range, mut seen) = (json!({}), Vec::new());
            if below {
                range["min"] = json!(rounded(low - far));
                seen.push(format!("the least is {min}"));
            }
            if above {
                range["max"] = json!(rounded(high + far));
                seen.push(format!("the greatest is {max}"));
            }
            let seen = format!(
                "`{}`: half of it lies between {} and {}, {}",
                column.name,
                rounded(low),
                rounded(high),
                seen.join(", ")
            );
            steps.push((seen, json!({"outliers": {"columns": [column.name], "method": {"range": range}}})));
        }
        self.steps.extend(steps);
    }

    fn deduplicate(&mut self) {
        let share = self.found.repeated_share;
        if share <= 0.0 {
            return;
        }
        let mut seen = format!("{:.2} % of the rows repeat an earlier one", share * 100.0);
        let mut by = self.found.key.clone();
        if by.is_empty() {
            let is_key = |column: &&Decided| column.final_kind() != "float";
            by = self.draft.columns.iter().filter(is_key).map(|column| column.name.clone()).collect();
            seen += "; no two columns are a key";
        }
        if by.is_empty() {
            by = self.draft.columns.iter().map(|column| column.name.clone()).collect();
        }
        self.step(seen, json!({"deduplicate": {"by": by, "within_seconds": 86400}}));
    }

    fn impute(&mut self) {
        let is_missing = |report: &ColumnReport| {
            let missing = report.text.as_ref().map_or(0, |text| text.looks.blank + text.looks.words);
            report.missing_share > 0.0 || missing > 0 || !report.suspects.is_empty()
        };
        let columns: Vec<(String, &str, f64)> = self
            .columns()
            .into_iter()
            .filter(|(_, report)| is_missing(report))
            .map(|(column, report)| (column.name.clone(), column.final_kind(), report.missing_share))
            .collect();
        for (kinds, with) in [
            (&["int", "float"][..], json!("median")),
            (&["text"], json!({"constant": "unknown"})),
            (&["bool"], json!("last")),
        ] {
            let some: Vec<&(String, &str, f64)> = columns.iter().filter(|(_, kind, _)| kinds.contains(kind)).collect();
            let names: Vec<&String> = some.iter().map(|(name, ..)| name).collect();
            let seen: Vec<String> =
                some.iter().map(|(name, _, share)| format!("`{name}` {:.2} %", share * 100.0)).collect();
            if !names.is_empty() {
                self.step(format!("missing: {}", seen.join(", ")), json!({"impute": {"columns": names, "with": with}}));
            }
        }
    }

    fn categories(&mut self) {
        let rows = self.found.report.rows as f64;
        let mut steps = Vec::new();
        let (mut hashed, mut seen, mut most) = (Vec::new(), Vec::new(), 0);
        for (column, report) in self.columns() {
            let Some(text) = report.text.as_ref().filter(|_| column.final_kind() == "text" && column.coerce.is_none())
            else {
                continue;
            };
            if report.distinct as f64 > UNIQUE_SHARE * rows || report.distinct < 2 {
                continue;
            }
            let clean = text.looks.padded + text.looks.blank + text.looks.words == 0
                && report.missing_share == 0.0
                && text.alike.is_none();
            if text.top_is_all && text.top.len() <= ONE_HOT_MAX && clean {
                let mut categories: Vec<&String> = text.top.iter().map(|(text, _)| text).collect();
                categories.sort();
                let step = json!({"one_hot": {"column": column.name, "categories": categories}});
                steps.push((format!("`{}`: {} different values", column.name, report.distinct), step));
                continue;
            }
            hashed.push(&column.name);
            seen.push(format!("`{}`: {} different values", column.name, report.distinct));
            most = most.max(report.distinct);
        }
        if !hashed.is_empty() {
            let buckets = (4 * most).next_power_of_two().clamp(16, 1 << 16);
            steps.push((seen.join(", "), json!({"hash_category": {"columns": hashed, "buckets": buckets}})));
        }
        self.steps.extend(steps);
    }

    fn standardise(&mut self) {
        let rows = self.found.report.rows as f64;
        let is_amount = |column: &(&Decided, &ColumnReport)| {
            let (column, report) = column;
            let counts = column.final_kind() == "int" && report.distinct as f64 > COUNTING_SHARE * rows;
            ["int", "float"].contains(&column.final_kind())
                && !counts
                && report.distinct > 2
                && !self.found.key.contains(&column.name)
        };
        let columns: Vec<String> =
            self.columns().into_iter().filter(is_amount).map(|(column, _)| column.name.clone()).collect();
        if !columns.is_empty() {
            self.step("for models: numbers of one size", json!({"standardise": {"columns": columns}}));
        }
    }

    fn finish(mut self) -> String {
        self.line("streams:");
        self.line("  clean:");
        self.line("    input: rows");
        self.line(if self.steps.is_empty() { "    steps: []" } else { "    steps:" });
        for (seen, step) in std::mem::take(&mut self.steps) {
            self.line(&format!("      # {}", one_line(&seen)));
            for (kind, config) in step.as_object().into_iter().flatten() {
                self.line(&format!("      - {kind}: {}", flow(config)));
            }
        }
        self.line("");
        self.line("sinks:");
        self.line("  clean: {from: clean, to: {file: {path: out/clean.jsonl}}}");
        self.text
    }
}

/// Three digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text as YAML takes it: with quotes, unless it plainly needs none.
fn word(text: &str) -> String {
    const SPECIAL: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let is_simple = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !SPECIAL.iter().any(|special| text.eq_ignore_ascii_case(special));
    if is_simple { text.to_owned() } else { json!(text).to_string() }
}

/// A value on one line. JSON's quoted texts are YAML's, too.
fn flow(value: &Value) -> String {
    let mut text = String::new();
    write_flow(value, &mut text);
    text
}

fn write_flow(value: &Value, text: &mut String) {
    match value {
        Value::Object(entries) => {
            text.push('{');
            for (place, (key, value)) in entries.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = write!(text, "{}{}: ", if place > 0 { ", " } else { "" }, word(key));
                write_flow(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (place, item) in items.iter().enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                write_flow(item, text);
            }
            text.push(']');
        }
        Value::String(value) => text.push_str(&word(value)),
        other => text.push_str(&other.to_string()),
    }
}
