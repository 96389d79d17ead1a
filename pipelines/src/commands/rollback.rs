//! `millstream rollback`.

use std::process::ExitCode;

use millstream_pipelines::run::rollback::{Poison, rollback};

use super::{failed, load};
use crate::commands::run;

/// Arguments of `rollback`.
#[derive(clap::Args)]
// Those of `run` are a group of the same name.
#[group(skip)]
pub(crate) struct Arguments {
    /// The version to go back to: its id, `MODEL/ID`, or the beginning of either, or `MODEL@ALIAS`; `millstream models list`
    /// shows them.
    #[arg(long, value_name = "VERSION")]
    to: String,
    /// Records that are not to be learned again, the last offset not included; may be given several times.
    #[arg(long, value_name = "TOPIC/PARTITION:FROM-TO")]
    skip: Vec<Poison>,
    #[command(flatten)]
    run: run::Arguments,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(arguments.run.file()) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    match rollback(&pipeline, &arguments.run.options(&pipeline), &arguments.to, &arguments.skip) {
        Ok(done) => {
            eprintln!(
                "back to {} (revision {}, epoch {}): {} epochs are undone; going on from there",
                done.version, done.revision, done.to, done.undone
            );
            run::run(&arguments.run)
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
