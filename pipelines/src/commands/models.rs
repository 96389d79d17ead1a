//! `millstream models`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use millstream_engine::Result;
use millstream_operators::registry::{Registry, Version};
use millstream_pipelines::run::state;

use super::{failed, load, print};

/// Arguments of `models`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists all versions, oldest first.
    List {
        /// The pipeline's definition.
        file: PathBuf,
        /// Its state, if it is not `.millstream/NAME`.
        #[arg(long, value_name = "FOLDER")]
        state: Option<PathBuf>,
    },
    /// Shows all that is known of a version, after checking its files.
    Show {
        /// The pipeline's definition.
        file: PathBuf,
        /// The version's id, or the beginning of it.
        version: String,
        /// Its state, if it is not `.millstream/NAME`.
        #[arg(long, value_name = "FOLDER")]
        state: Option<PathBuf>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (Command::List { file, state } | Command::Show { file, state, .. }) = &arguments.command;
    let pipeline = match load(file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let state = state.clone().unwrap_or_else(|| state::default_path(&pipeline.name));
    let shown = Registry::open(&state::models_path(&state)).and_then(|registry| match &arguments.command {
        Command::List { .. } => list(&registry),
        Command::Show { version, .. } => show(&registry, version),
    });
    match shown {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}

fn list(registry: &Registry) -> Result<String> {
    let mut text = format!("{:<18}{:<16}{:>12}  why\n", "version", "model", "revision");
    let listed = registry.list()?;
    if listed.is_empty() {
        return Ok("no versions yet\n".to_owned());
    }
    for listed in listed {
        let row = match listed.version {
            Ok(version) => format!("{:>12}  {}", version.metadata.revision, version.metadata.reason),
            Err(fault) => format!("{:>12}  {fault}", "damaged"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<18}{:<16}{row}", listed.id, listed.model);
    }
    Ok(text)
}

fn show(registry: &Registry, prefix: &str) -> Result<String> {
    let Version { id, digest, files, metadata, folder } = registry.show(prefix)?;
    let metadata = serde_json::to_string_pretty(&metadata).expect("metadata is JSON");
    Ok(format!(
        "version {id}\ndigest  {digest}\nfiles   {}\nfolder  {}\n{metadata}\n",
        files.join(" "),
        folder.display()
    ))
}
