//! `millstream diff`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use millstream_engine::Result;
use millstream_pipelines::audit;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::diff::{State, table, verdicts};
use millstream_pipelines::fingerprint::of_parts;
use millstream_pipelines::inspect;
use millstream_pipelines::origin::{self, Named, Origins};
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::assemble::Topics;
use millstream_pipelines::run::{open_broker, state};
use serde_json::json;

use super::{BAD_DEFINITION, complain, failed, load, print};
use crate::Form;

/// Something would be lost.
const LOSS: u8 = 3;

/// Arguments of `diff`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition that the pipeline has run with.
    old: PathBuf,
    /// The definition that it is to run with.
    new: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`; where there is none, the log is not looked at.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (old, new) = match (plan(&arguments.old), plan(&arguments.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let state = arguments.state.clone().unwrap_or_else(|| state::default_path(&new.name));
    let Past { log_is_whole, began, begins } = if state.exists() {
        match past(&arguments.new, &state) {
            Ok(Ok(past)) => past,
            Ok(Err(fault)) => return failed(&new, &fault),
            Err(code) => return code,
        }
    } else {
        Past::default()
    };
    let mut notes = Vec::new();
    if old.name != new.name {
        notes.push(format!(
            "the pipeline was called {} and is called {}: its state and its journal have the old name, so it starts anew",
            old.name, new.name
        ));
    }
    if old.registry != new.registry {
        notes.push(registry_moves(&old, &new));
    }
    if old.digest == new.digest {
        notes.push("nothing has changed that a result depends on".to_owned());
    }
    let verdicts = verdicts(&of_parts(old.parts_with(&began)), &new.parts_with(&begins), log_is_whole);
    match arguments.format {
        Form::Text => {
            print(&table(&verdicts));
            for note in notes {
                print(&format!("\n{note}\n"));
            }
        }
        Form::Json => {
            print(&format!("{:#}\n", json!({"parts": verdicts, "notes": notes, "log_is_whole": log_is_whole})));
        }
    }
    if verdicts.iter().any(|verdict| verdict.state == State::Lost) { ExitCode::from(LOSS) } else { ExitCode::SUCCESS }
}

/// The registry is elsewhere: what is there stays there.
fn registry_moves(old: &Pipeline, new: &Pipeline) -> String {
    let place = |pipeline: &Pipeline| {
        pipeline.registry.artefacts.clone().unwrap_or_else(|| "the folder models of the state directory".to_owned())
    };
    let (was, is) = (place(old), place(new));
    if was == is {
        return format!(
            "the registry at {is} has another database: the versions stay, but aliases, tags, descriptions and history are in the old one"
        );
    }
    format!(
        "the registry was {was} and is {is}: versions, aliases and history stay where they are, and new versions are promoted without a \
         parent; `millstream models export` and `import` carry versions over"
    )
}

/// A definition, without its secrets.
fn plan(file: &Path) -> Result<Pipeline, ExitCode> {
    let (pipeline, report) = inspect(file, &Catalogue::shipped()).unwrap_or_else(|report| (None, report));
    if !report.findings().is_empty() {
        complain(&report);
    }
    pipeline.ok_or(ExitCode::from(BAD_DEFINITION))
}

/// What a pipeline has done, as far as its broker can be asked.
#[derive(Default)]
struct Past {
    /// Whether the log still holds everything.
    log_is_whole: Option<bool>,
    /// What its models began with.
    began: Named,
    /// What they would begin with.
    begins: Named,
}

fn past(file: &Path, state: &Path) -> Result<Result<Past>, ExitCode> {
    let pipeline = load(file)?;
    let look = || {
        let broker = open_broker(&pipeline, state)?;
        let began = origin::recorded(&pipeline, &*broker, &Topics::of(&pipeline.name).progress, None)?;
        let begins = Origins::find(&pipeline, state, &began)?.named();
        Ok(Past { log_is_whole: audit::log_is_whole(&pipeline, &*broker)?, began, begins })
    };
    Ok(look())
}
