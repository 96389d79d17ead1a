//! `millstream dead`: what could not be taken.

use std::process::ExitCode;

use clap::Subcommand;
use millstream_connectors::formats::timestamp;
use millstream_engine::Result;
use millstream_engine::time::{Clock, SystemClock};
use millstream_pipelines::dead::{self, Filter, Groups, Replay, Replayed};
use millstream_pipelines::run::open_broker;
use serde_json::Value;

use super::{Place, failed, print, show};
use crate::Form;

/// Arguments of `dead`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Groups the dead letters by source, partition, step and kind of reason, from which offset to which.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Prints whole letters: origin, step, reason, and the record's bytes, in hexadecimal where they are no text.
    Show {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// So many at most.
        #[arg(long, default_value_t = 10)]
        limit: usize,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Gives the records to the topics of their sources again, at their end, with their keys and timestamps.
    ///
    /// Mend first what refused them. Everything that reads the source reads them again. Each record is replayed once, also
    /// if the replay is broken off and asked for again. A header `replayed` names the record that it was. One that is older
    /// than its source's lateness allows becomes a dead letter again.
    Replay {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Also records that were replayed before.
        #[arg(long)]
        again: bool,
        /// Also requests that were refused: each gets another answer.
        #[arg(long)]
        requests: bool,
        /// Also records that a changed definition takes from the log by itself, where it makes state anew.
        #[arg(long)]
        rebuilt: bool,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
}

/// Which letters.
#[derive(clap::Args)]
#[group(skip)]
struct Which {
    /// Only of this step (`clean/0/require`; a source's name for what could not be read); `*` stands for anything.
    #[arg(long, value_name = "GLOB")]
    step: Option<String>,
    /// Only of this source, or these requests.
    #[arg(long, value_name = "GLOB")]
    source: Option<String>,
    /// Only for such a reason: `*amount*`.
    #[arg(long, value_name = "GLOB")]
    reason: Option<String>,
    /// Only since then: a time such as 2026-01-31T12:30:00Z, or how long ago: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
}

impl Which {
    fn filter(&self) -> Filter {
        let Self { step, source, reason, since } = self;
        Filter { step: step.clone(), source: source.clone(), reason: reason.clone(), since_ms: *since }
    }
}

/// Milliseconds since 1970.
fn since(text: &str) -> Result<i64, String> {
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit_ms = match unit {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let ago_ms = number.parse::<u32>().ok().map(i64::from)?.checked_mul(unit_ms)?;
        Some(SystemClock.now_ms() - ago_ms)
    };
    timestamp::parse(text.as_bytes())
        .or_else(ago)
        .ok_or_else(|| "a time is written 2026-01-31T12:30:00Z, or how long ago: 90s, 15m, 2h, 7d".to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (Command::List { place, .. } | Command::Show { place, .. } | Command::Replay { place, .. }) =
        &arguments.command;
    let (pipeline, state) = match place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let done = open_broker(&pipeline, &state).and_then(|broker| match &arguments.command {
        Command::List { which, format, .. } => {
            show(&Groups::read(&*broker, &pipeline.name, &which.filter())?, *format, Groups::text);
            Ok(())
        }
        Command::Show { which, limit, format, .. } => {
            let mut letters = Vec::new();
            dead::read(&*broker, &pipeline.name, &which.filter(), |letter| {
                letters.extend((letters.len() < *limit).then_some(letter));
                Ok(letters.len() < *limit)
            })?;
            match format {
                Form::Text => print(&letters.iter().map(dead::Letter::text).collect::<Vec<_>>().join("\n")),
                Form::Json => print(&format!("{:#}\n", letters.iter().map(dead::Letter::to_json).collect::<Value>())),
            }
            Ok(())
        }
        Command::Replay { which, again, requests, rebuilt, dry_run, format, .. } => {
            let (again, requests, rebuilt, dry_run) = (*again, *requests, *rebuilt, *dry_run);
            let wanted = Replay { filter: which.filter(), again, requests, rebuilt, dry_run };
            let done = dead::replay(&pipeline, &*broker, &wanted, SystemClock.now_ms())?;
            show(&done, *format, Replayed::text);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => failed(&pipeline, &fault),
    }
}
