//! What each subcommand does, and the exit codes: 0 done, 1 the run failed, or a test did, or the audit found
//! something wrong, 2 a bad definition or command line, 3 the new definition would lose state.

pub(crate) mod audit;
pub(crate) mod ci;
pub(crate) mod dashboard;
pub(crate) mod dead;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod learn;
pub(crate) mod models;
pub(crate) mod profile;
pub(crate) mod profile_training;
pub(crate) mod replay;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod state;
pub(crate) mod sweep;
pub(crate) mod test;
pub(crate) mod topic;
pub(crate) mod work;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use millstream_engine::{Blame, Fault};
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::report::Report;
use millstream_pipelines::run::state as state_dir;
use millstream_pipelines::{graph, inspect, list, schema};
use serde::Serialize;

use crate::{Drawing, Form};

/// A bad definition or command line.
const BAD_DEFINITION: u8 = 2;

pub(crate) fn check(file: &Path, form: Form) -> ExitCode {
    let report = match inspect(file, &Catalogue::shipped()) {
        Ok((_, report)) | Err(report) => report,
    };
    match form {
        Form::Json => print(&format!("{:#}\n", report.to_json())),
        Form::Text if report.findings().is_empty() => print(&report.render(false)),
        Form::Text => complain(&report),
    }
    if report.has_errors() { ExitCode::from(BAD_DEFINITION) } else { ExitCode::SUCCESS }
}

pub(crate) fn schema() -> ExitCode {
    print(&format!("{:#}\n", schema::compose(&Catalogue::shipped())));
    ExitCode::SUCCESS
}

pub(crate) fn graph(file: &Path, drawing: Drawing) -> ExitCode {
    let (pipeline, report) = match inspect(file, &Catalogue::shipped()) {
        Ok(inspected) => inspected,
        Err(report) => (None, report),
    };
    if !report.findings().is_empty() {
        complain(&report);
    }
    let Some(pipeline) = pipeline else { return ExitCode::from(BAD_DEFINITION) };
    let picture = graph::Picture::of(&pipeline);
    print(&match drawing {
        Drawing::Mermaid => picture.mermaid(),
        Drawing::Dot => picture.dot(),
        Drawing::Svg => picture.svg(),
    });
    ExitCode::SUCCESS
}

pub(crate) fn list(kind: Option<&str>) -> ExitCode {
    let catalogue = Catalogue::shipped();
    match kind.map(|kind| list::details(&catalogue, kind)) {
        None => print(&list::overview(&catalogue)),
        Some(Ok(details)) => print(&details),
        Some(Err(message)) => {
            eprintln!("{message}");
            return ExitCode::from(BAD_DEFINITION);
        }
    }
    ExitCode::SUCCESS
}

/// Shows a report on standard error, in colour where that is a terminal.
pub(crate) fn complain(report: &Report) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    eprint!("{}", report.render(colour));
}

/// Prints to standard output. Whoever reads it may stop reading (`| head`), which is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Loads a definition for a run; what is wrong with it is shown.
fn load(file: &Path) -> Result<Pipeline, ExitCode> {
    match millstream_pipelines::load(file, &Catalogue::shipped()) {
        Ok((pipeline, report)) => {
            if !report.findings().is_empty() {
                complain(&report);
            }
            Ok(pipeline)
        }
        Err(report) => {
            complain(&report);
            Err(ExitCode::from(BAD_DEFINITION))
        }
    }
}

/// A pipeline and where its state is, for commands that look at what it has done.
#[derive(clap::Args)]
// It stands among the arguments of others.
#[group(skip)]
pub(crate) struct Place {
    /// The definition.
    file: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

impl Place {
    /// The pipeline, and its state directory.
    fn load(&self) -> Result<(Pipeline, PathBuf), ExitCode> {
        let pipeline = load(&self.file)?;
        let state = self.state.clone().unwrap_or_else(|| state_dir::default_path(&pipeline.name));
        Ok((pipeline, state))
    }
}

/// Prints what was found, for people or for machines.
fn show<T: Serialize>(found: &T, format: Form, text: impl FnOnce(&T) -> String) {
    match format {
        Form::Text => print(&text(found)),
        Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(found).expect("what is shown is JSON"))),
    }
}

/// Tells why a command failed, without the definition's secrets.
fn failed(pipeline: &Pipeline, fault: &Fault) -> ExitCode {
    eprintln!("millstream: {}", pipeline.secrets.redact(&fault.to_string()));
    if fault.blame == Blame::Definition { ExitCode::from(BAD_DEFINITION) } else { ExitCode::FAILURE }
}
