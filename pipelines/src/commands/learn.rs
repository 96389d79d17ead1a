//! `millstream learn`.

use std::path::PathBuf;
use std::process::ExitCode;

use millstream_pipelines::learn::{Learned, Wanted, learn};

use super::{failed, load, show};
use crate::Form;

/// Arguments of `learn`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// A file to learn from: `.parquet`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.ndjson` (also with `.gz` or `.zst`); of several
    /// sources, `SOURCE=FILE` for each. CSV begins with a line of names.
    #[arg(long, value_name = "[SOURCE=]FILE", required = true, value_parser = from)]
    from: Vec<(Option<String>, PathBuf)>,
    /// Tell only of this model.
    #[arg(long)]
    model: Option<String>,
    /// Write what each model has become to this folder: its numbers, what they mean, and its explanation.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// How often the models get the files. What they are measured by is the last time; rows that are to judge and not to be learned
    /// have a `weight` of 0, and a column for `evaluate: {by: [...]}`.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    passes: u32,
    /// The pipeline's state, if it is not `.millstream/NAME`: where versions are that models begin with.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// A file, perhaps behind the name of a source. Where a file of the whole name is there, it is that.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn from(argument: &str) -> Result<(Option<String>, PathBuf), std::convert::Infallible> {
    let whole = PathBuf::from(argument);
    Ok(match argument.split_once('=') {
        Some((source, path)) if !source.contains('/') && !whole.exists() => (Some(source.to_owned()), path.into()),
        _ => (None, whole),
    })
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let Arguments { from, model, to, passes, state, .. } = arguments;
    let wanted = Wanted {
        files: from.clone(),
        model: model.clone(),
        to: to.clone(),
        passes: *passes,
        state: state.clone(),
        ..Wanted::default()
    };
    match learn(&pipeline, &wanted) {
        Ok(learned) => {
            show(&learned, arguments.format, Learned::text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_be_named() {
        for (argument, source, path) in [
            ("flights.csv", None, "flights.csv"),
            ("flights=data/x=1/flights.csv", Some("flights"), "data/x=1/flights.csv"),
            ("data/x=1/flights.csv", None, "data/x=1/flights.csv"),
        ] {
            assert_eq!(from(argument), Ok((source.map(str::to_owned), path.into())));
        }
    }
}
