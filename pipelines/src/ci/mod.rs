//! A definition is tested and judged like software: its form, its tests, its models on a fixed set of records, and their gates.
//!
//! ```text
//! check ─► tests ─► learn (files, or what the feeds read) ─► gates ─► report.html, junit.xml, the models' files
//! ```
//! The records are the same each time, so the result is, too: the models' digests are in the report.

mod html;
mod junit;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use millstream_engine::time::Stopwatch;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::Judged;
use serde::Serialize;

use crate::learn::{self, Learned, ModelLearned, learn};
use crate::plan::{Pipeline, Test};
use crate::testing::{self, Tested};

/// The files that are written, besides those of models.
const REPORT: &str = "report.html";
const JUNIT: &str = "junit.xml";

/// What became of a definition.
pub struct Report {
    /// Its pipeline's name.
    pub name: String,
    /// Its digest.
    pub definition: String,
    /// Its tests.
    pub tests: testing::Report,
    /// What its models have learned; none where it has no models.
    pub learned: Option<Learned>,
    /// What became of their gates.
    pub gates: Vec<ModelGates>,
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// How long it took.
    pub seconds: f64,
    /// The pipeline as SVG.
    picture: String,
}

/// The gates of a model.
#[derive(Debug, Serialize)]
pub struct ModelGates {
    /// The model.
    pub model: String,
    /// Its gates, in the order of the definition.
    pub gates: Vec<Judged>,
}

/// Tests and judges a definition, whose `file` is told in the report; what is found is written below `folder`. The files of
/// `wanted` stand for its sources.
pub fn run(pipeline: &Pipeline, file: &Path, wanted: &learn::Wanted, folder: &Path) -> Result<Report> {
    let watch = Stopwatch::start();
    let origins = wanted.origins(pipeline)?;
    let test = |test: &Test| Tested { name: test.name.clone(), outcome: testing::run(pipeline, &origins, test) };
    let tests = pipeline.tests.iter().map(test).collect();
    let tests = testing::Report { file: file.display().to_string(), tests, seconds: watch.seconds() };
    let learned = if pipeline.models.is_empty() {
        None
    } else {
        let wanted = learn::Wanted { to: Some(folder.join("models")), feeds: true, curves: true, ..wanted.clone() };
        Some(learn(pipeline, &wanted)?)
    };
    let mut gates = Vec::new();
    for model in &pipeline.models {
        let found = learned.iter().flat_map(|learned| &learned.models).find(|found| found.model == model.name);
        let Some(found) = found.filter(|_| !model.gates.is_empty()) else { continue };
        let judged =
            model.gates.iter().map(|gate| gate.judge(found.examples, &found.measures)).collect::<Result<_>>()?;
        gates.push(ModelGates { model: model.name.clone(), gates: judged });
    }
    let picture = crate::graph::Picture::of(pipeline).svg();
    let (name, definition) = (pipeline.name.clone(), pipeline.digest.clone());
    let mut report =
        Report { name, definition, tests, learned, gates, files: Vec::new(), seconds: watch.seconds(), picture };
    report.write(folder, pipeline)?;
    Ok(report)
}

impl Report {
    /// Whether all tests are good, all gates hold, and all models have learned something.
    pub fn is_good(&self) -> bool {
        self.tests.is_good()
            && self.models().all(|model| model.examples > 0)
            && self.gates().all(|(_, gate)| gate.holds)
    }

    fn models(&self) -> impl Iterator<Item = &ModelLearned> {
        self.learned.iter().flat_map(|learned| &learned.models)
    }

    fn gates(&self) -> impl Iterator<Item = (&str, &Judged)> {
        self.gates.iter().flat_map(|of| of.gates.iter().map(|gate| (of.model.as_str(), gate)))
    }

    fn write(&mut self, folder: &Path, pipeline: &Pipeline) -> Result<()> {
        let files = [(REPORT, html::page(self)), (JUNIT, junit::suites(self))];
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, pipeline.secrets.redact(&text).as_bytes()).map_err(failed(&path))?;
            self.files.push(path);
        }
        Ok(())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = self.tests.text();
        // Writing to a string cannot fail, here and below.
        for model in self.models() {
            let best = model.decisive().map_or_else(String::new, |(own, best)| {
                let beside = best.map_or_else(String::new, |best| format!(", {} {:.4}", best.who, best.value));
                format!(", {} {:.4}{beside}", own.name, own.value)
            });
            let _ = writeln!(text, "{}: {} examples{best}", model.model, model.examples);
            for (_, Judged { gate, holds, because }) in self.gates().filter(|(of, _)| *of == model.model) {
                let _ = writeln!(text, "{} {gate} ({because})", if *holds { "ok  " } else { "FAIL" });
            }
        }
        for (step, count) in self.learned.iter().flat_map(|learned| &learned.dead_letters) {
            let _ = writeln!(text, "{count} records could not be taken: {step}");
        }
        for file in &self.files {
            let _ = writeln!(text, "wrote {}", file.display());
        }
        let became = if self.is_good() { "passed" } else { "failed" };
        let _ = writeln!(text, "{became} in {:.1} s", self.seconds);
        text
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Fault + '_ {
    move |error| Fault::world(format!("cannot write {}", path.display())).because(error)
}

/// Text within XML and HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other way to say these.
            '\t' | '\n' | '\r' => out.push(character),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}
