//! `millstream audit`.

use std::process::ExitCode;

use millstream_pipelines::audit::{Report, audit};
use millstream_pipelines::run::{assemble, open_broker};

use super::{Place, failed, show};
use crate::Form;

/// Arguments of `audit`.
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
    let report =
        open_broker(&pipeline, &state).and_then(|broker| audit(&pipeline, &assemble::world(&pipeline, broker)));
    match report {
        Ok(report) => {
            show(&report, arguments.format, Report::text);
            if report.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
