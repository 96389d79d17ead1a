//! `millstream profile-training`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_engine::trace;
use millstream_engine::{Fault, Result};
use millstream_pipelines::learn::{Timing, Wanted, learn};
use millstream_pipelines::plan::Pipeline;

use super::learn::from;
use super::{failed, load, show};
use crate::Form;

/// Arguments of `profile-training`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// A file to learn from, as `millstream learn` takes it.
    #[arg(long, value_name = "[SOURCE=]FILE", required = true, value_parser = from)]
    from: Vec<(Option<String>, PathBuf)>,
    /// How often the models get the files; the trace is of all of that.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    passes: u32,
    /// Where to write the trace, which Perfetto (<https://ui.perfetto.dev>) and Chromium's about:tracing open.
    #[arg(long, value_name = "FILE", default_value = "trace.json")]
    trace: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`: where versions are that models begin with.
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
    match profile(&pipeline, arguments) {
        Ok(timing) => {
            show(&timing, arguments.format, Timing::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}

fn profile(pipeline: &Pipeline, arguments: &Arguments) -> Result<Timing> {
    let Arguments { from, passes, trace: to, state, .. } = arguments;
    let wanted = Wanted { files: from.clone(), passes: *passes, state: state.clone(), ..Wanted::default() };
    let (learned, trace) = trace::look(|| learn(pipeline, &wanted));
    let timing = Timing::of(pipeline, &learned?, &trace);
    std::fs::write(to, trace.to_json().to_string())
        .map_err(|error| Fault::world(format!("cannot write {}", to.display())).because(error))?;
    Ok(timing)
}
