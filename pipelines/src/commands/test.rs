//! `millstream test`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_engine::time::Stopwatch;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::origin::{Named, Origins};
use millstream_pipelines::plan::{Pipeline, Test};
use millstream_pipelines::run::state;
use millstream_pipelines::testing::{self, Report, Tested};
use millstream_pipelines::{inspect, pattern};

use super::{BAD_DEFINITION, complain, failed, print};
use crate::Form;

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// Only the tests with this name, in which `*` stands for anything.
    name: Option<String>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some(pipeline) = plan(arguments) else { return ExitCode::from(BAD_DEFINITION) };
    let file = arguments.file.display();
    let is_wanted = |test: &&Test| arguments.name.as_ref().is_none_or(|name| pattern::matches(name, &test.name));
    let tests: Vec<&Test> = pipeline.tests.iter().filter(is_wanted).collect();
    if let Some(name) = arguments.name.as_ref().filter(|_| tests.is_empty()) {
        let names: Vec<String> = pipeline.tests.iter().map(|test| format!("\n  {}", test.name)).collect();
        eprintln!("{file} has no test `{name}`; its tests are:{}", names.concat());
        return ExitCode::from(BAD_DEFINITION);
    }
    let watch = Stopwatch::start();
    let origins = match Origins::find(&pipeline, &state::default_path(&pipeline.name), &Named::new()) {
        Ok(origins) => origins,
        Err(fault) => return failed(&pipeline, &fault),
    };
    let run = |test: &&Test| Tested { name: test.name.clone(), outcome: testing::run(&pipeline, &origins, test) };
    let tests = tests.iter().map(run).collect();
    let report = Report { file: file.to_string(), tests, seconds: watch.seconds() };
    match arguments.format {
        Form::Text => print(&pipeline.secrets.redact(&report.text())),
        Form::Json => print(&pipeline.secrets.redact(&format!("{:#}\n", report.to_json()))),
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// With its secrets, if they are here; most tests do without.
fn plan(arguments: &Arguments) -> Option<Pipeline> {
    let catalogue = Catalogue::shipped();
    let (pipeline, report) = match millstream_pipelines::load(&arguments.file, &catalogue) {
        Ok((pipeline, report)) => (Some(pipeline), report),
        Err(report) => match inspect(&arguments.file, &catalogue) {
            Ok((Some(pipeline), found)) if !found.has_errors() => {
                eprintln!("{}: not all secrets are known here; the tests run without them", arguments.file.display());
                (Some(pipeline), found)
            }
            _ => (None, report),
        },
    };
    if !report.findings().is_empty() {
        complain(&report);
    }
    pipeline
}
