//! `millstream replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::run::Options;
use millstream_pipelines::run::replay::{Replayed, Wanted, replay};

use super::{Place, failed, show};
use crate::Form;

/// Arguments of `replay`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// The revision: how many examples it had learned. By default the newest that was recorded.
    #[arg(long, value_name = "EXAMPLES")]
    revision: Option<u64>,
    /// The model, where several have such a revision.
    #[arg(long)]
    model: Option<String>,
    /// Start from the beginning of the log, not from a checkpoint.
    #[arg(long)]
    from_start: bool,
    /// Write the revision's files to this folder.
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// Worker threads, instead of the definition's `workers`.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (pipeline, state) = match arguments.place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let options = Options { workers: arguments.workers.map(usize::from), ..Options::new(state) };
    let wanted = Wanted {
        revision: arguments.revision,
        model: arguments.model.clone(),
        from_start: arguments.from_start,
        save: arguments.save.clone(),
    };
    match replay(&pipeline, &options, &wanted) {
        Ok(replayed) => {
            show(&replayed, arguments.format, Replayed::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
