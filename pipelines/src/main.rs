//! The `millstream` program.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use commands::{
    audit, ci, dashboard, dead, diff, explain, learn, models, profile, profile_training, replay, rollback, run, state,
    sweep, test, topic, work,
};

use clap::{Parser, Subcommand, ValueEnum};

/// Streams become models that never stop learning, and answer.
///
/// A definition file describes a pipeline: topics and files flow through cleansing steps into online models, which
/// answer queued requests.
#[derive(Parser)]
#[command(name = "millstream", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds everything that is wrong with a definition, without touching network or disk.
    ///
    /// Exit code 0: it can run. 2: it cannot; every problem is shown with its place and its mend.
    Check {
        /// The definition.
        file: PathBuf,
        /// For people or for machines.
        #[arg(long, value_enum, default_value_t = Form::Text)]
        format: Form,
    },
    /// Runs the tests that a definition holds, in memory: what must come of the records that they give.
    ///
    /// Exit code 0: all is as expected. 1: some is not; it is shown beside what was expected. 2: the definition is bad.
    Test(test::Arguments),
    /// Tests and judges a definition like software: its tests, its models on the same records each time, and their gates.
    ///
    /// Writes a report, `JUnit` XML for build servers, and the models' files. Exit code 0: all is good. 1: a test failed, a model has
    /// learned nothing, or a gate does not hold. 2: the definition is bad.
    Ci(ci::Arguments),
    /// Prints the JSON Schema of definition files, for editors.
    ///
    /// In VS Code, for example: `# yaml-language-server: $schema=millstream.schema.json` in the first line.
    Schema,
    /// Draws a pipeline.
    Graph {
        /// The definition.
        file: PathBuf,
        /// What to draw with.
        #[arg(long, value_enum, default_value_t = Drawing::Mermaid)]
        format: Drawing,
    },
    /// Prints a dashboard for Grafana, or alerts for Prometheus, that show what the definition has.
    ///
    /// In Grafana: Dashboards, New, Import. Prometheus has to read `/metrics` of the run.
    Dashboard(dashboard::Arguments),
    /// Lists every source, format, step, learner, policy and sink, or tells all about one.
    List {
        /// A kind's name: `join_as_of`.
        kind: Option<String>,
    },
    /// Runs a pipeline: learns from its topics and answers its requests until it is stopped.
    ///
    /// SIGINT and SIGTERM stop it after its open epochs. Started again, it goes on where it was: with the same models,
    /// and no answer lost or sent twice.
    Run(run::Arguments),
    /// Works for `millstream run` in another process, here or on another machine: holds a share of the state, and decodes and
    /// cleanses a share of the rows.
    ///
    /// The definition's `processes` says where all are. It keeps nothing, waits for the first process, and for the next run when one
    /// has ended. SIGINT and SIGTERM stop it, and with it the run.
    Work(work::Arguments),
    /// Shows what a pipeline has stored: checkpoints, files, topics, versions, journal, and whether a run is on.
    State(state::Arguments),
    /// Tells what becomes of the state of each part when a definition is replaced by another.
    ///
    /// Exit code 0: all is kept, or can be made again from the log. 3: some is lost, since the log no longer holds what it
    /// was made of. 2: a definition is bad.
    Diff(diff::Arguments),
    /// Proves from the topics alone that nothing is lost, doubled or different; runs nothing and writes nothing.
    ///
    /// Each request answered once, each record bound once and still the same, each epoch's answers those that it gave.
    /// Exit code 0: sound. 1: something is wrong; each place is named.
    Audit(audit::Arguments),
    /// Rebuilds a revision from the log, and compares its digest with the one that was recorded.
    ///
    /// Writes nothing to topics or state; a run may be going on. Exit code 0: every digest on the way was reached. 1: one
    /// differs; its epoch and model are named.
    Replay(replay::Arguments),
    /// Goes back to a promoted version, with its state and offsets, and goes on from there.
    ///
    /// What was learned after it is undone, and learned again from the log; records that are to be skipped are left out.
    /// What was answered stays answered.
    Rollback(rollback::Arguments),
    /// Looks at a pipeline's topics, or adds to them.
    Topic(topic::Arguments),
    /// Shows what could not be taken, since where and why, and gives it to its source again once that is mended.
    Dead(dead::Arguments),
    /// Tells what is in a file or a source, and proposes a definition for a file.
    ///
    /// The definition is a first draft: sources with the types that were found, and cleansing steps, each with what was seen.
    Profile(profile::Arguments),
    /// Shows, compares, names, tags, moves and serves the promoted versions of a pipeline's models.
    ///
    /// What never changes is in a version's folder; names, tags and history are noted beside it. Exit code 2: what was asked for
    /// is refused, and why.
    Models(models::Arguments),
    /// Shows what a model has learned: what matters to it most, and the model itself as text.
    ///
    /// Its weights, its tree, its members; of the newest promoted version, or another one.
    Explain(explain::Arguments),
    /// Tries settings of a model, side by side on one stream that is cleansed once, and ranks them.
    ///
    /// Reads and writes no topic and no state.
    Sweep(sweep::Arguments),
    /// Learns from files, offline: the definition's streams and models, on files in place of what its sources read.
    ///
    /// Reads and writes no topic and no state. Shows what each model reached on rows that it predicted before it learned them.
    Learn(learn::Arguments),
    /// Learns from files as `learn` does, and tells where the time goes: waiting for rows, and the parts of mini-batches.
    ///
    /// Writes a trace of all threads, too.
    ProfileTraining(profile_training::Arguments),
}

/// How findings are shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Blocks with an excerpt of the text.
    Text,
    /// One JSON object.
    Json,
}

/// What a pipeline is drawn with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// Mermaid, for Markdown.
    Mermaid,
    /// Graphviz.
    Dot,
    /// A picture.
    Svg,
}

fn main() -> ExitCode {
    // A bad command line ends here, with exit code 2.
    match Arguments::parse().command {
        Command::Check { file, format } => commands::check(&file, format),
        Command::Test(arguments) => test::run(&arguments),
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Schema => commands::schema(),
        Command::Graph { file, format } => commands::graph(&file, format),
        Command::Dashboard(arguments) => dashboard::run(&arguments),
        Command::List { kind } => commands::list(kind.as_deref()),
        Command::Run(arguments) => run::run(&arguments),
        Command::Work(arguments) => work::run(&arguments),
        Command::State(arguments) => state::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Rollback(arguments) => rollback::run(&arguments),
        Command::Topic(arguments) => topic::run(&arguments),
        Command::Dead(arguments) => dead::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Learn(arguments) => learn::run(&arguments),
        Command::ProfileTraining(arguments) => profile_training::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_line_can_be_read() {
        super::Arguments::command().debug_assert();
    }
}
