//! `millstream dashboard`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::dashboard::{alerts, dashboard};

use super::{load, print};

/// Arguments of `dashboard`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// Prints rules for Prometheus in its place: what somebody should be told.
    #[arg(long)]
    alerts: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    print(&if arguments.alerts { alerts(&pipeline) } else { format!("{:#}\n", dashboard(&pipeline)) });
    ExitCode::SUCCESS
}
