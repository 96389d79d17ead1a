//! `millstream topic`: a person's view of a pipeline's topics.

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use millstream_connectors::broker::{Append, Broker, Fetched, Message};
use millstream_engine::raw::Payload;
use millstream_engine::source::Position;
use millstream_engine::time::{Clock, SystemClock};
use millstream_engine::{Fault, Result};
use millstream_pipelines::run::{open_broker, state};

use super::{failed, load, print};

/// Arguments of `topic`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition, which says what broker the topics are on.
    file: PathBuf,
    /// The pipeline's state, if it is not `.millstream/NAME`.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists all topics with their partitions and offsets.
    List,
    /// Creates a topic.
    Create {
        /// Its name.
        topic: String,
        /// How many partitions it gets.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        partitions: u32,
    },
    /// Appends a record for each line of standard input.
    Produce {
        /// The topic.
        topic: String,
        /// What separates a line's key from its value; without it, records have no keys.
        #[arg(long, value_name = "TEXT")]
        key_separator: Option<String>,
    },
    /// Prints a topic's records: the value alone, or with --verbose its partition, offset, time, key and headers before it.
    Consume {
        /// The topic.
        topic: String,
        /// Only this partition.
        #[arg(long)]
        partition: Option<u32>,
        /// The first offset of each partition, instead of its beginning; negative numbers count from the end.
        #[arg(long, allow_hyphen_values = true)]
        offset: Option<i64>,
        /// Stop after so many records.
        #[arg(long, short = 'n')]
        count: Option<usize>,
        /// Wait for more at the end.
        #[arg(long, short)]
        follow: bool,
        /// More than the value.
        #[arg(long, short)]
        verbose: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let state = arguments.state.clone().unwrap_or_else(|| state::default_path(&pipeline.name));
    let done = open_broker(&pipeline, &state).and_then(|broker| match &arguments.command {
        Command::List => list(&*broker),
        Command::Create { topic, partitions } => broker.create(topic, *partitions),
        Command::Produce { topic, key_separator } => produce(&*broker, topic, key_separator.as_deref()),
        Command::Consume { topic, partition, offset, count, follow, verbose } => {
            let from = positions(&*broker, topic, *partition, *offset)?;
            Consumer { topic, count: count.unwrap_or(usize::MAX), follow: *follow, verbose: *verbose }
                .run(&*broker, &from)
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => failed(&pipeline, &fault),
    }
}

fn list(broker: &dyn Broker) -> Result<()> {
    let mut text = format!("{:<40}{:>10}{:>14}{:>14}\n", "topic", "partition", "first", "end");
    for topic in broker.topics()? {
        for (partition, (first, end)) in topic.partitions.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<40}{partition:>10}{first:>14}{end:>14}", topic.name);
        }
    }
    print(&text);
    Ok(())
}

fn produce(broker: &dyn Broker, topic: &str, separator: Option<&str>) -> Result<()> {
    let mut producer = broker.producer(&format!("millstream-topic-{}", std::process::id()))?;
    let mut count = 0;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let mut messages = Vec::new();
        for line in lines.by_ref().take(1000) {
            let line = line.map_err(|error| Fault::world("standard input cannot be read").because(error))?;
            let (key, value) = match separator.and_then(|separator| line.split_once(separator)) {
                Some((key, value)) => (Some(key.as_bytes().to_vec()), value),
                None => (None, line.as_str()),
            };
            let value = Some(value.as_bytes().to_vec());
            messages.push(Message { key, value, timestamp_ms: SystemClock.now_ms(), ..Message::default() });
        }
        if messages.is_empty() {
            break;
        }
        count += messages.len();
        producer.append(&[Append { topic: topic.to_owned(), messages }])?;
    }
    eprintln!("{count} records appended to {topic}");
    Ok(())
}

fn positions(broker: &dyn Broker, topic: &str, only: Option<u32>, offset: Option<i64>) -> Result<Vec<Position>> {
    let found = broker.topic(topic)?;
    let found =
        found.ok_or_else(|| Fault::definition(format!("there is no topic `{topic}`; `topic FILE list` shows all")))?;
    let position = |(partition, (first, end)): (u32, &(u64, u64))| {
        let offset = match offset {
            None => *first,
            Some(back) if back < 0 => end.saturating_sub(back.unsigned_abs()).max(*first),
            Some(offset) => offset.unsigned_abs().clamp(*first, *end),
        };
        Position { partition, offset }
    };
    let all = (0..).zip(&found.partitions).map(position);
    Ok(all.filter(|position| only.is_none_or(|only| only == position.partition)).collect())
}

struct Consumer<'a> {
    topic: &'a str,
    count: usize,
    follow: bool,
    verbose: bool,
}

impl Consumer<'_> {
    fn run(&self, broker: &dyn Broker, from: &[Position]) -> Result<()> {
        let mut reader = broker.open(self.topic, from)?;
        let mut left = self.count;
        while left > 0 {
            match reader.read(1 << 20, Duration::from_millis(500))? {
                Some(fetched) => {
                    if !self.print(&fetched, &mut left)? {
                        break;
                    }
                }
                None if self.follow => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Prints records until `left` is used up; false once nobody reads.
    fn print(&self, fetched: &Fetched, left: &mut usize) -> Result<bool> {
        let Payload::Bytes(values) = &fetched.records.payload else { return Err(Fault::ours("topics hold bytes")) };
        let mut out = std::io::stdout().lock();
        for (row, value) in values.iter().enumerate().take(*left) {
            let head = if self.verbose { head(fetched, row) } else { String::new() };
            let line = [head.as_bytes(), value.unwrap_or_default(), b"\n"].concat();
            if out.write_all(&line).is_err() {
                return Ok(false);
            }
            *left -= 1;
        }
        Ok(out.flush().is_ok())
    }
}

fn head(fetched: &Fetched, row: usize) -> String {
    let records = &fetched.records;
    let key = records.key(row).map(String::from_utf8_lossy);
    let mut head = format!(
        "{}/{} {}",
        records.partition,
        records.offsets[row],
        millstream_pipelines::run::time(records.timestamps[row])
    );
    let _ = write!(head, " key={}", key.as_deref().unwrap_or("none"));
    for (name, value) in fetched.headers.get(row).into_iter().flatten() {
        let _ = write!(head, " {name}={}", String::from_utf8_lossy(value));
    }
    head.push('\t');
    head
}
