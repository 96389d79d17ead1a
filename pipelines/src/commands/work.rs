//! `millstream work`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::run::work::work;

use super::{failed, load};

/// Arguments of `work`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition: the same as that of `millstream run`.
    file: PathBuf,
    /// Which of the definition's `processes` this is, from 1: that of the second address.
    #[arg(long, value_name = "NUMBER")]
    process: usize,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    match work(&pipeline, arguments.process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => failed(&pipeline, &fault),
    }
}
