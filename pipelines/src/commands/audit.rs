//! `millstream audit`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::audit::audit;
use millstream_pipelines::run::{assemble, open_broker, state};

use super::{failed, load, print};
use crate::Form;

/// Arguments of `audit`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`.
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
    let state = arguments.state.clone().unwrap_or_else(|| state::default_path(&pipeline.name));
    let report =
        open_broker(&pipeline, &state).and_then(|broker| audit(&pipeline, &assemble::world(&pipeline, broker)));
    match report {
        Ok(report) => {
            match arguments.format {
                Form::Text => print(&report.text()),
                Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report).expect("a report is JSON"))),
            }
            if report.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
