//! `millstream state`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::run::{open_broker, state};
use millstream_pipelines::stored::stored;

use super::{failed, load, print};
use crate::Form;

/// Arguments of `state`.
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
    match open_broker(&pipeline, &state).and_then(|broker| stored(&pipeline, &state, &*broker)) {
        Ok(found) => {
            match arguments.format {
                Form::Text => print(&found.text()),
                Form::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found).expect("it is JSON"))),
            }
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
