//! `millstream ci`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::ci;
use millstream_pipelines::learn::Wanted;

use super::learn::from;
use super::{failed, load, print};

/// Arguments of `ci`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// A file that stands for a source, as in `learn`. A source without one has what its feed reads.
    #[arg(long, value_name = "[SOURCE=]FILE", value_parser = from)]
    from: Vec<(Option<String>, PathBuf)>,
    /// Where the report and the models' files go.
    #[arg(long, value_name = "FOLDER", default_value = "ci-report")]
    to: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`: where versions are that models begin with.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// How often the models get the files.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    passes: u32,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let wanted = Wanted {
        files: arguments.from.clone(),
        passes: arguments.passes,
        state: arguments.state.clone(),
        ..Wanted::default()
    };
    match ci::run(&pipeline, &arguments.file, &wanted, &arguments.to) {
        Ok(report) => {
            print(&pipeline.secrets.redact(&report.text()));
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
