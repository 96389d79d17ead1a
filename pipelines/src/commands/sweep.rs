//! `millstream sweep`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_engine::time::{Clock, SystemClock};
use millstream_pipelines::learn::Wanted;
use millstream_pipelines::registry;
use millstream_pipelines::run::state::{self as state_dir, StateDir};
use millstream_pipelines::sweep::{self, Report};

use super::learn::from;
use super::{BAD_DEFINITION, failed, load, show};
use crate::Form;

/// Arguments of `sweep`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// The sweep, if there are several.
    name: Option<String>,
    /// A file that stands for a source, as in `learn`. A source without one has what its feed reads.
    #[arg(long, value_name = "[SOURCE=]FILE", value_parser = from)]
    from: Vec<(Option<String>, PathBuf)>,
    /// Write what the best model has become to this folder.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Make what the best model has become a version of it, with what was set as its tags.
    #[arg(long)]
    promote: bool,
    /// The pipeline's state, if it is not `.millstream/NAME`: where versions are that models begin with, and what a sweep that is
    /// broken off goes on from.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let is_wanted = |name: &str| arguments.name.as_ref().is_none_or(|wanted| wanted == name);
    let mut found = pipeline.sweeps.iter().filter(|sweep| is_wanted(&sweep.name));
    let (Some(sweep), None) = (found.next(), found.next()) else {
        let names: Vec<&str> = pipeline.sweeps.iter().map(|sweep| sweep.name.as_str()).collect();
        eprintln!(
            "name one of the definition's sweeps; there are: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
        return ExitCode::from(BAD_DEFINITION);
    };
    let wanted = Wanted {
        files: arguments.from.clone(),
        to: arguments.to.clone(),
        state: arguments.state.clone(),
        ..Wanted::default()
    };
    let state = arguments.state.clone().unwrap_or_else(|| state_dir::default_path(&pipeline.name));
    // Of one sweep there is one run at a time.
    let folder = state.join("sweeps").join(&sweep.name);
    let run = || {
        let _lock = StateDir::lock(&folder)?;
        let mut report = sweep::run(&pipeline, sweep, &wanted, Some(&folder.join("checkpoints")))?;
        if arguments.promote {
            sweep::promote(&mut report, &registry::open(&pipeline, &state)?, SystemClock.now_ms())?;
        }
        Ok(report)
    };
    match run() {
        Ok(report) => {
            show(&report, arguments.format, Report::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
