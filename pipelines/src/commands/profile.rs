//! `millstream profile`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use millstream_engine::{Blame, Fault, Result};
use millstream_pipelines::profile::{self, Profiled};
use millstream_pipelines::run::{open_broker, state};

use super::{BAD_DEFINITION, failed, load, print, show};
use crate::Form;

/// Arguments of `profile`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A file: `.csv`, `.tsv`, `.json`, `.jsonl`, `.ndjson` (also with `.gz` or `.zst`) or `.parquet`; or a definition, `.yaml`.
    file: PathBuf,
    /// Of a definition: the source whose topic or files are looked at.
    source: Option<String>,
    /// For people or for machines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Writes the draft of a definition to this file, which must not be there; without it, the draft is shown.
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    propose: Option<PathBuf>,
    /// The pipeline's state, if it is not `.millstream/NAME`.
    #[arg(long, value_name = "FOLDER", requires = "source")]
    state: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some(source) = &arguments.source else {
        return match profile::file(&arguments.file).and_then(|profiled| tell(arguments, &profiled)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("millstream: {fault}");
                if fault.blame == Blame::Definition { ExitCode::from(BAD_DEFINITION) } else { ExitCode::FAILURE }
            }
        };
    };
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let state = arguments.state.clone().unwrap_or_else(|| state::default_path(&pipeline.name));
    let profiled = open_broker(&pipeline, &state).and_then(|broker| profile::source(&pipeline, source, broker));
    match profiled.and_then(|profiled| tell(arguments, &profiled)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => failed(&pipeline, &fault),
    }
}

fn tell(arguments: &Arguments, profiled: &Profiled) -> Result<()> {
    show(profiled, arguments.format, Profiled::text);
    let folder = arguments.propose.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let Some(draft) = profiled.draft(folder) else { return Ok(()) };
    match &arguments.propose {
        Some(path) => write(path, &draft),
        None if arguments.format == Form::Text => {
            print(&format!("\n{draft}"));
            Ok(())
        }
        None => Ok(()),
    }
}

fn write(path: &Path, draft: &str) -> Result<()> {
    let unwritable = |error| Fault::world(format!("{} cannot be written", path.display())).because(error);
    let mut file = std::fs::File::create_new(path).map_err(unwritable)?;
    std::io::Write::write_all(&mut file, draft.as_bytes()).map_err(unwritable)?;
    eprintln!("wrote {}; `millstream check` it, and change what you know better", path.display());
    Ok(())
}
