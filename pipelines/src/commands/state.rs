//! `millstream state`.

use std::process::ExitCode;

use millstream_pipelines::run::open_broker;
use millstream_pipelines::stored::{Stored, stored};

use super::{Place, failed, show};
use crate::Form;

/// Arguments of `state`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (pipeline, state) = match arguments.place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match open_broker(&pipeline, &state).and_then(|broker| stored(&pipeline, &state, &*broker)) {
        Ok(found) => {
            show(&found, arguments.format, Stored::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
