//! A version's model card: Markdown for people, with a front matter for the hubs that models are shared on.

use std::fmt::Write;

use millstream_engine::Result;
use serde_json::{Value, json};

use super::changes::Entry;
use super::store::Registry;
use super::version::{DESCRIPTION, Drift, EXPLANATION, Metadata, Version, checksum};

/// Slices and parts of the model that are shown at most.
const SHOWN: usize = 40;
/// What was noticed of errors: so many, the last first.
const DRIFTS_SHOWN: usize = 10;

/// How to learn the same version again: the definition's name, as the reader knows it.
pub struct Recipe<'a> {
    /// The definition's file.
    pub definition: &'a str,
    /// Milliseconds since 1970 as people read them.
    pub time: &'a dyn Fn(i64) -> String,
}

impl Registry {
    /// The card of a version, whose files are checked.
    pub fn card(&self, version: &Version, recipe: &Recipe<'_>) -> Result<String> {
        let files = self.artefacts(version)?;
        let json = |name: &str| {
            let file = files.iter().find(|(known, _)| known == name);
            file.and_then(|(_, content)| serde_json::from_slice::<Value>(content).ok()).unwrap_or_default()
        };
        let entries = self.entries()?;
        let entry = entries.iter().find(|entry| entry.model == version.metadata.model && entry.id == version.id);
        let card = Card {
            version,
            metadata: &version.metadata,
            entry,
            description: json(DESCRIPTION),
            explanation: json(EXPLANATION),
            recipe,
        };
        let mut text = card.front_matter();
        for part in [card.about(), card.measures(), card.training(), card.model(), card.reproduce(), card.limits()] {
            text.push('\n');
            text.push_str(&part);
        }
        let sums: String = files.iter().map(|(name, content)| checksum(name, content)).collect();
        let _ = write!(text, "\n## Files\n\nBLAKE3, as `b3sum --check` reads it:\n\n```text\n{sums}```\n");
        Ok(text)
    }
}

struct Card<'a> {
    version: &'a Version,
    metadata: &'a Metadata,
    entry: Option<&'a Entry>,
    description: Value,
    explanation: Value,
    recipe: &'a Recipe<'a>,
}

// Writing to a string cannot fail, here and below.
impl Card<'_> {
    fn task(&self) -> &'static str {
        if self.description["task"] == "regression" { "tabular-regression" } else { "tabular-classification" }
    }

    /// YAML, in which every text is written as JSON writes it: that is YAML, too, and nothing in it can end it.
    fn front_matter(&self) -> String {
        let Metadata { model, pipeline, .. } = self.metadata;
        let learner = self.description["model"].as_str();
        let tags = ["millstream", "online-learning"].into_iter().chain(learner);
        let mut text = "---\nlibrary_name: millstream\n".to_owned();
        let _ = writeln!(text, "pipeline_tag: {}\ntags:", self.task());
        for tag in tags {
            let _ = writeln!(text, "  - {}", json!(tag));
        }
        let (task, name) = (self.task(), json!(model));
        let _ = writeln!(text, "model-index:\n  - name: {name}\n    results:\n      - task:\n          type: {task}");
        let _ = writeln!(text, "        dataset:\n          name: {}\n          type: {0}", json!(pipeline));
        let mut measures = self
            .metadata
            .measures
            .iter()
            .filter(|score| score.who == "model" && score.over == "all" && score.value.is_finite())
            .peekable();
        if measures.peek().is_none() {
            text.push_str("        metrics: []\n");
        } else {
            text.push_str("        metrics:\n");
        }
        for score in measures {
            let name = json!(format!("{} of all rows, each predicted before it was learned", score.name));
            let _ = writeln!(text, "          - type: {}\n            value: {}", json!(score.name), score.value);
            let _ = writeln!(text, "            name: {name}");
        }
        text + "---\n"
    }

    fn about(&self) -> String {
        let Metadata { model, pipeline, examples, .. } = self.metadata;
        let mut text = format!("# {model}, version {}\n\n", self.version.id);
        let about = self.entry.map_or("", |entry| entry.description.as_str()).trim();
        if !about.is_empty() {
            let _ = write!(text, "{about}\n\n");
        }
        let learner = self.description["model"].as_str().unwrap_or("a model");
        let says = self.description["label"].as_str().map_or_else(String::new, |label| format!(" It says `{label}`."));
        let _ = writeln!(
            text,
            "A `{learner}` that the pipeline `{pipeline}` of Millstream taught with {examples} examples, one after the other, in \
             the order of their time.{says}"
        );
        if let Some(entry) = self.entry {
            let number = entry.number.map_or_else(String::new, |number| format!("version {number} of `{model}`"));
            let names: Vec<String> = entry.aliases.iter().map(|alias| format!("`{model}@{alias}`")).collect();
            let tags: Vec<String> = entry.tags.iter().map(|(key, value)| format!("`{key}={value}`")).collect();
            let parts = [number, names.join(" "), tags.join(" ")];
            let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let _ = writeln!(text, "\nIn its registry: {}.", parts.join(", "));
        }
        text
    }

    /// The model beside its baselines, and by slices.
    fn measures(&self) -> String {
        let all = &self.metadata.measures;
        let (mut names, mut whos): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for score in all.iter().filter(|score| score.over == "all") {
            if !names.contains(&score.name.as_str()) {
                names.push(&score.name);
            }
            if !whos.contains(&score.who.as_str()) {
                whos.push(&score.who);
            }
        }
        let mut text = "## Measures\n\nEach example was predicted before it was learned; what the predictions were worth is measured \
             over all of them. Baselines look at no column.\n\n"
            .to_owned();
        let value = |name: &str, who: &str, over: &str| {
            let found = all.iter().find(|score| score.name == name && score.who == who && score.over == over);
            found.map_or_else(String::new, |score| format!("{:.4}", score.value))
        };
        row(&mut text, std::iter::once("").chain(whos.iter().copied()));
        row(&mut text, std::iter::once("---").chain(whos.iter().map(|_| "---:")));
        for name in names {
            let values: Vec<String> = whos.iter().map(|who| value(name, who, "all")).collect();
            row(&mut text, std::iter::once(name).chain(values.iter().map(String::as_str)));
        }
        let Some((decisive, whole)) = self.metadata.decisive() else { return text };
        let slices = all.iter().filter(|score| score.name == decisive && score.who == "model" && score.over != "all");
        let slices: Vec<_> = slices.collect();
        if !slices.is_empty() {
            let _ = writeln!(text, "\nBy slices ({decisive} over all rows is {whole:.4}):\n");
            row(&mut text, ["rows", decisive].into_iter());
            row(&mut text, ["---", "---:"].into_iter());
            for score in slices.iter().take(SHOWN) {
                row(&mut text, [score.over.as_str(), &format!("{:.4}", score.value)].into_iter());
            }
            if slices.len() > SHOWN {
                let _ = writeln!(text, "\nand {} more slices", slices.len() - SHOWN);
            }
        }
        text
    }

    fn training(&self) -> String {
        let Metadata { frontier, since, .. } = self.metadata;
        let time = |ms: Option<i64>| ms.map_or_else(|| "no time yet".to_owned(), self.recipe.time);
        let mut text = "## Training data\n\nAll records of the pipeline's topics below these offsets".to_owned();
        let _ = write!(text, ", through event time {}.\n\n", time(frontier.time_ms));
        row(&mut text, ["source/partition", "offsets", "new since the parent"].into_iter());
        row(&mut text, ["---", "---:", "---:"].into_iter());
        for (name, end) in &frontier.offsets {
            let before = since.as_ref().map_or(0, |since| since.offsets.get(name).copied().unwrap_or(0));
            let new = end.saturating_sub(before);
            row(&mut text, [name.as_str(), &format!("0 to {end}"), &new.to_string()].into_iter());
        }
        if let Some(since) = since {
            let _ = writeln!(text, "\nThe parent had learned through {}.", time(since.time_ms));
        }
        text
    }

    fn model(&self) -> String {
        let mut text = "## Model\n\n".to_owned();
        let description = &self.description;
        if let Some(features) = description["features"].as_array() {
            let names: Vec<String> = features
                .iter()
                .filter_map(|feature| feature["name"].as_str())
                .map(|name| format!("`{name}`"))
                .collect();
            let _ = writeln!(text, "{} features: {}.\n", names.len(), names.join(", "));
        }
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
        for (what, value) in [("Classes", &description["classes"]), ("Parameters", &description["parameters"])] {
            if !value.is_null() {
                let _ = writeln!(text, "{what}:\n\n```json\n{}\n```\n", pretty(value));
            }
        }
        let importances = self.explanation["importances"].as_array().map_or(&[][..], Vec::as_slice);
        if !importances.is_empty() {
            text.push_str("What matters most to it:\n\n");
            row(&mut text, ["input", "importance"].into_iter());
            row(&mut text, ["---", "---:"].into_iter());
            for pair in importances.iter().take(SHOWN / 2) {
                let name = pair[0].as_str().unwrap_or_default();
                row(&mut text, [name, &format!("{:.4}", pair[1].as_f64().unwrap_or(f64::NAN))].into_iter());
            }
        }
        text
    }

    fn reproduce(&self) -> String {
        let Metadata { model, revision, .. } = self.metadata;
        let Metadata { definition_digest, seed, device, reason, promoted_by, parent, began_with, .. } = self.metadata;
        let mut text = format!(
            "## How to reproduce\n\nThe log and the definition give the same bits again:\n\n```sh\nmillstream replay {} --model {model} \
             --revision {revision} --save FOLDER\n```\n\n",
            self.recipe.definition
        );
        row(&mut text, ["", ""].into_iter());
        row(&mut text, ["---", "---"].into_iter());
        let seconds = |(what, seconds): (&String, &f64)| format!("{what} {seconds:.1} s");
        let durations: Vec<String> = self.metadata.durations_seconds.iter().map(seconds).collect();
        let facts = [
            ("version", self.version.digest.clone()),
            ("definition", definition_digest.clone()),
            ("revision", format!("{revision}, complete after epoch {}", self.metadata.epoch)),
            ("seed", seed.map_or_else(String::new, |seed| seed.to_string())),
            ("device", device.clone().unwrap_or_default()),
            ("promoted", (self.recipe.time)(self.metadata.promoted_ms)),
            ("by", promoted_by.clone().unwrap_or_default()),
            ("because of", reason.clone()),
            ("parent", parent.clone().unwrap_or_default()),
            ("began with", began_with.clone().unwrap_or_default()),
            ("took", durations.join(", ")),
        ];
        for (what, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
            row(&mut text, [*what, fact.as_str()].into_iter());
        }
        text
    }

    fn limits(&self) -> String {
        let mut text = "## Limits\n\n\
             - It has seen one stream, in one order, up to the time above: what came later it does not know.\n\
             - The measures are an average over its whole life, early mistakes included; they promise nothing about other data.\n\
             - What it says is learned from what happened together, not from what causes what.\n"
            .to_owned();
        if let Some((name, value)) = self.metadata.decisive()
            && let Some(baseline) = self.metadata.best_baseline(name)
        {
            let is_better = value < baseline.value;
            let verdict = if is_better { "better" } else { "**no better**" };
            let _ = writeln!(
                text,
                "- By {name} it is {verdict} than the best baseline, `{}`: {value:.4} beside {:.4}.",
                baseline.who, baseline.value
            );
        }
        if let Some(changes) = self.metadata.drift_changes() {
            let _ = writeln!(text, "- Its errors drifted {changes} times while it learned.");
        }
        for Drift { time_ms, event, about } in self.metadata.drifts.iter().rev().take(DRIFTS_SHOWN) {
            let _ = writeln!(text, "  - {} {event} `{about}`", (self.recipe.time)(*time_ms));
        }
        text
    }
}

/// A row of a table; what would end a cell is escaped.
fn row<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    text.push('|');
    for cell in cells {
        let cell = cell.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}
