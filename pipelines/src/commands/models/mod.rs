//! `millstream models`.

mod change;
mod optimise;
mod serve;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use millstream_engine::Result;
use millstream_engine::time::{Clock, SystemClock};
use millstream_operators::registry::{Author, Recipe, Registry};
use millstream_pipelines::registry;
use millstream_pipelines::run::{time, user};

use super::{Place, failed, print};
use crate::Form;

/// Arguments of `models`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A version is meant by the beginning of its id, by `MODEL/` and that, or by `MODEL@ALIAS`: `late@champion`, `late@latest`
/// for the newest, `late@v3` for the third.
#[derive(Subcommand)]
enum Command {
    /// Lists versions, oldest first, with their aliases and what decides about them beside their best baseline.
    List {
        #[command(flatten)]
        place: Place,
        /// Only versions of this model.
        #[arg(long)]
        model: Option<String>,
        /// Only versions that meet this SQL condition: `log_loss < 0.5 and examples > 10000`, `"tag.stage" = 'live'`.
        ///
        /// There are, besides what `show` tells, the measures of the model (`log_loss`), of baselines (`majority_log_loss`) and
        /// of slices (`"log_loss carrier=AA"`), the best `baseline`, `"seconds.since_start"` and `"tag.NAME"`.
        #[arg(long = "where", value_name = "SQL")]
        condition: Option<String>,
        /// In this order instead: `log_loss`, `promoted desc`.
        #[arg(long, value_name = "SQL")]
        sort: Option<String>,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Shows all that is known of a version, after checking its files.
    Show {
        #[command(flatten)]
        place: Place,
        /// The version.
        version: String,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Shows two versions side by side: measures, what is known of them, parameters.
    Compare {
        #[command(flatten)]
        place: Place,
        /// The first version.
        a: String,
        /// The second version.
        b: String,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Makes a version the champion, unless it is worse than the present one.
    ///
    /// It is worse by the measure that decides (log loss, or root mean squared error): over all rows, or on a slice by more than
    /// the tolerance.
    Promote(change::Promote),
    /// Gives a name to a version, or takes it away; nothing is compared.
    #[command(subcommand)]
    Alias(change::Alias),
    /// Tags a version, and takes tags away.
    Tag(change::Tag),
    /// Says in words what a version is.
    Describe(change::Describe),
    /// Deletes a version that no alias names.
    Delete(change::Delete),
    /// Writes a version's files and their checksums to a new folder, or an archive.
    Export {
        #[command(flatten)]
        place: Place,
        /// The version.
        version: String,
        /// A folder that is not there yet, or a name that ends in `.tar`.
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
    },
    /// Takes a version that was exported, here or elsewhere, once everything about it has been checked.
    Import(change::Import),
    /// Makes a smaller version of a version: its weights in fewer bits, or pruned.
    ///
    /// Both are judged on the same rows, and their answers are timed: what that costs and gains is told, and is a part of the
    /// new version, which answers as any other (`from: {version: …}, learns: false`).
    Optimise(optimise::Optimise),
    /// Prints a version's model card: Markdown with a front matter, as model hubs read it.
    Card {
        #[command(flatten)]
        place: Place,
        /// The version.
        version: String,
    },
    /// Serves the registry to MLflow's clients: they search, alias, tag and download versions over HTTP.
    ///
    /// `MLFLOW_TRACKING_URI=http://127.0.0.1:5000`, then `mlflow.artifacts.download_artifacts("models:/late@champion")`. Versions
    /// are numbered in the order of their promotion; the tag `millstream.id` has the id. A run may be going on.
    Serve(serve::Arguments),
    /// Tells what happened to all models, to one, or to a version: when, what, by whom, and why.
    History {
        #[command(flatten)]
        place: Place,
        /// A model's name, or a version.
        of: Option<String>,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
}

/// Who changes something, and why.
#[derive(clap::Args)]
#[group(skip)]
struct Who {
    /// Who does it, by name; by default who is logged in.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

impl Who {
    fn author(&self) -> Author {
        author(self.by.as_deref(), &self.why)
    }
}

fn author(by: Option<&str>, why: &str) -> Author {
    Author { by: by.map_or_else(user, str::to_owned), why: why.to_owned(), at_ms: SystemClock.now_ms() }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.command {
        Command::List { place, model, condition, sort, format } => {
            let choice =
                show::Choice { model: model.as_deref(), condition: condition.as_deref(), sort: sort.as_deref() };
            within(place, |registry| show::list(&registry, &choice, *format))
        }
        Command::Show { place, version, format } => within(place, |registry| show::show(&registry, version, *format)),
        Command::Compare { place, a, b, format } => within(place, |registry| show::compare(&registry, [a, b], *format)),
        Command::Promote(arguments) => within(&arguments.place, |registry| arguments.run(&registry)),
        Command::Alias(alias) => within(alias.place(), |registry| alias.run(&registry)),
        Command::Tag(arguments) => within(&arguments.place, |registry| arguments.run(&registry)),
        Command::Describe(arguments) => within(&arguments.place, |registry| arguments.run(&registry)),
        Command::Delete(arguments) => within(&arguments.place, |registry| arguments.run(&registry)),
        Command::Export { place, version, to } => within(place, |registry| {
            let version = registry.find(version)?;
            registry.export(&version, to)?;
            Ok(format!("{}/{} is in {}\n", version.metadata.model, version.id, to.display()))
        }),
        Command::Import(arguments) => within(&arguments.place, |registry| arguments.run(&registry)),
        Command::Optimise(arguments) => arguments.run(),
        Command::Card { place, version } => within(place, |registry| {
            let recipe = Recipe { definition: &place.file.display().to_string(), time: &time };
            registry.card(&registry.find(version)?, &recipe)
        }),
        Command::Serve(arguments) => within(&arguments.place, |registry| arguments.run(registry)),
        Command::History { place, of, format } => {
            within(place, |registry| show::history(&registry, of.as_deref(), *format))
        }
    }
}

/// Does something with a pipeline's registry, and prints what it tells.
fn within(place: &Place, act: impl FnOnce(Registry) -> Result<String>) -> ExitCode {
    let (pipeline, state) = match place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match registry::open(&pipeline, &state).and_then(act) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
