//! `millstream run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run::{Options, run as run_pipeline, state};

use super::{failed, load, print};

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The definition.
    file: PathBuf,
    /// End when all feeds are used up and everything in the topics is learned and answered. Sources that receive (`http`,
    /// `mqtt`) do not: what their topics hold is worked through.
    #[arg(long)]
    until_idle: bool,
    /// Feed in step with the records' own time, so many of their seconds in a second; without it, at full speed.
    #[arg(long, value_name = "FACTOR", value_parser = speed)]
    speed: Option<f64>,
    /// Where the run keeps its state: topics, models. By default `.millstream/NAME`.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// After a change of the definition, go on although some state can be neither kept nor rebuilt from the log
    /// (`millstream diff` shows which).
    #[arg(long)]
    accept_loss: bool,
    /// Worker threads, instead of the definition's `workers`.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Where to serve Prometheus metrics, instead of the definition's `serve.metrics`; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    summary: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed > 0.0 && speed.is_finite() => Ok(speed),
        _ => Err("a factor is a number above 0, such as 3600 for an hour in a second".to_owned()),
    }
}

impl Arguments {
    /// The definition.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// How to run a pipeline as they say.
    pub(crate) fn options(&self, pipeline: &Pipeline) -> Options {
        let state = self.state.clone().unwrap_or_else(|| state::default_path(&pipeline.name));
        Options {
            until_idle: self.until_idle,
            speed: self.speed,
            workers: self.workers.map(usize::from),
            metrics: self.metrics,
            quiet: self.quiet,
            accept_loss: self.accept_loss,
            ..Options::new(state)
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let pipeline = match load(&arguments.file) {
        Ok(pipeline) => pipeline,
        Err(code) => return code,
    };
    let options = arguments.options(&pipeline);
    match run_pipeline(&pipeline, &options) {
        Ok(summary) => {
            match arguments.summary {
                Form::Text => print(&summary.text()),
                Form::Json => {
                    print(&format!("{}\n", serde_json::to_string_pretty(&summary).expect("a summary is JSON")));
                }
            }
            ExitCode::SUCCESS
        }
        Err(fault) => failed(&pipeline, &fault),
    }
}
