//! Runs a planned pipeline.
//!
//! ```text
//! lock state ─► open broker ─► fence ─► read journal ─► choose where to start ─► replay ─► live
//!      feeds, receivers ─► topics ─────────────────────────────────────────────────────┘
//! ```

pub mod assemble;
pub mod change;
mod commit;
pub mod feed;
pub mod journal;
mod lineage;
mod profiles;
mod promote;
pub mod receive;
pub mod recover;
pub mod replay;
pub(crate) mod reply;
pub mod rollback;
#[doc(hidden)]
pub mod sabotage;
mod served;
mod server;
mod show;
pub mod start;
pub mod state;
pub mod tenure;
pub mod work;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use millstream_connectors::broker::Broker;
use millstream_connectors::broker::config::BrokerConfig;
use millstream_engine::binder::Limits;
use millstream_engine::book::Book;
use millstream_engine::checkpoint::{Checkpoint, Checkpoints, Store};
use millstream_engine::graph::Graph;
use millstream_engine::metrics::Metrics;
use millstream_engine::publish::Commit;
use millstream_engine::run::Settings;
use millstream_engine::time::{Clock, Stopwatch, SystemClock};
use millstream_engine::{Fault, Result};
use millstream_operators::registry::Registry;

use crate::front::{self, Around, Hub};
use crate::origin::{self, Origin, Origins};
use crate::plan::{Delivery, OnRequest, Pipeline};
use crate::registry;
use assemble::Topics;
use change::Change;
pub(crate) use commit::Answers;
use commit::{BrokerCommit, Reached, Used};
use feed::Feeds;
use journal::{Definition, History, Writer};
use lineage::Lineage;
pub use promote::user;
use promote::{Candidate, Promoter};
use recover::{Decision, Ledger};
pub use reply::time;
use sabotage::Sabotage;
use show::{ModelShown, Observer};
pub use show::{ModelSummary, Summary};
use start::Start;
use state::StateDir;
use tenure::Tenure;

/// Where checkpoints are kept.
#[derive(Clone, Default)]
pub enum Checkpointing {
    /// Where the definition says.
    #[default]
    Defined,
    /// Here.
    At(Arc<dyn Store>),
    /// Nowhere: every start replays everything.
    Off,
}

/// How to run a pipeline.
pub struct Options {
    /// The state directory.
    pub state: PathBuf,
    /// The broker to use instead of the definition's.
    pub broker: Option<Arc<dyn Broker>>,
    /// End when all input is used up. Receivers do not start then: theirs never is.
    pub until_idle: bool,
    /// How many seconds of the feeds' own time pass in a second; without it they go at full speed.
    pub speed: Option<f64>,
    /// Worker threads, instead of the definition's.
    pub workers: Option<usize>,
    /// What a crash may do to what leaves, instead of what the definition says.
    pub delivery: Option<Delivery>,
    /// Where checkpoints are kept.
    pub checkpoints: Checkpointing,
    /// Whether state that can be neither kept nor rebuilt after a change of the definition may be lost.
    pub accept_loss: bool,
    /// Records in an epoch at most, instead of the definition's.
    pub max_records: Option<usize>,
    /// Where to serve metrics, instead of the definition's address.
    pub metrics: Option<SocketAddr>,
    /// Told the name and the address of each source that listens, once it does.
    pub listening: Option<mpsc::Sender<(String, SocketAddr)>>,
    /// Show no progress.
    pub quiet: bool,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Asks the run to stop.
    pub book: Arc<Book>,
    /// A bug on purpose, for the simulator.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// As a user runs it, with the given state directory.
    pub fn new(state: PathBuf) -> Self {
        Self {
            state,
            broker: None,
            until_idle: false,
            speed: None,
            workers: None,
            delivery: None,
            checkpoints: Checkpointing::default(),
            accept_loss: false,
            max_records: None,
            metrics: None,
            listening: None,
            quiet: false,
            clock: Arc::new(SystemClock),
            book: Arc::new(Book::default()),
            sabotage: None,
        }
    }
}

/// Runs a pipeline until it is stopped, or, with [`Options::until_idle`], until its input is used up.
pub fn run(pipeline: &Pipeline, options: &Options) -> Result<Summary> {
    let state = StateDir::lock(&options.state)?;
    let broker = match &options.broker {
        Some(broker) => broker.clone(),
        None => pipeline.broker.open(state.path())?,
    };
    let watch = Stopwatch::start();
    let Prepared { graph, settings, commit, feeds, fed, hub, lineage } = prepare(pipeline, options, broker.clone())?;
    let metrics = settings.metrics.clone();
    let (_server, bound) = server::start(options.metrics.or(pipeline.metrics), metrics.clone(), options.book.clone())?;
    if let Some(bound) = bound.filter(|_| !options.quiet) {
        eprintln!("metrics at http://{bound}/metrics");
    }
    let is_ours: Arc<dyn Fn() -> Result<()> + Send + Sync> = Arc::new(feeds.watch());
    let _receivers = receive::start(pipeline, &broker, options, &is_ours)?;
    let around = hub.as_ref().map(|hub| Around { broker: &broker, options, hub, metrics: &metrics, is_ours: &is_ours });
    let front = around.map_or(Ok(None), |around| front::start(pipeline, &around))?;
    front::tell(front.as_ref(), options);
    let observer = Observer {
        metrics,
        book: options.book.clone(),
        steps: steps(pipeline),
        models: pipeline.models.iter().map(|model| ModelShown { name: model.name.clone(), fold: model.node }).collect(),
        watch,
    };
    let start = (settings.from.as_ref().map(Checkpoint::epoch), settings.recorded.len() as u64);
    lineage.iter().for_each(|lineage| lineage.start());
    let outcome = drive(options, feeds, &fed, &observer, || millstream_engine::run::run(graph, settings, commit));
    hub.iter().for_each(|hub| hub.close());
    drop(front);
    lineage.iter().for_each(|lineage| lineage.end(!options.until_idle, outcome.as_ref().err()));
    outcome?;
    let versions = versions(pipeline, state.path()).unwrap_or_else(|fault| {
        eprintln!("the versions cannot be listed: {}", pipeline.secrets.redact(&fault.to_string()));
        BTreeMap::new()
    });
    Ok(observer.summary(&pipeline.name, start, &versions))
}

/// The names under which sources, steps and models count, in the order in which rows meet them.
fn steps(pipeline: &Pipeline) -> Vec<String> {
    let sources = pipeline.sources.iter().map(|source| source.name.clone());
    let requests = pipeline.requests.iter().map(|request| request.name.clone());
    sources.chain(requests).chain(pipeline.nodes.iter().map(|node| node.label.clone())).collect()
}

/// A run of which everything is open and nothing has started.
pub struct Prepared {
    /// What is run.
    pub graph: Graph,
    /// How.
    pub settings: Settings,
    /// Makes its epochs durable.
    pub commit: Box<dyn Commit>,
    /// Fill its topics.
    pub feeds: Feeds,
    /// To be set once the feeds are done, for a run [until idle](Options::until_idle).
    pub fed: Arc<AtomicBool>,
    /// Who waits for answers, if they can be asked for over HTTP.
    pub hub: Option<Arc<Hub>>,
    /// Tells where data comes from and goes to, if that is wanted.
    pub lineage: Option<Arc<Lineage>>,
}

/// Takes over the pipeline's topics from any older run, and opens all that a run needs. The state directory is locked by
/// who calls this, where it is not one's own.
pub fn prepare(pipeline: &Pipeline, options: &Options, broker: Arc<dyn Broker>) -> Result<Prepared> {
    assemble::create_topics(pipeline, &*broker)?;
    let topics = Topics::of(&pipeline.name);
    let world = assemble::world(pipeline, broker.clone());
    let mut graph = assemble::graph(pipeline, &world)?;
    let metrics = Arc::new(Metrics::new(&pipeline.name));
    let help = "The definition that runs, by its fingerprint, and the program's version.";
    metrics
        .gauges("running", help, &["definition", "version"])
        .set(&[&pipeline.digest, env!("CARGO_PKG_VERSION")], 1.0);
    let (observers, skews) = profiles::observers(pipeline, &metrics);
    graph.observers = observers;
    let processes = work::first(pipeline, Arc::new(skews.clone()))?;
    let store = start::store(pipeline, options)?;
    let named = origin::recorded(pipeline, &*broker, &topics.progress, store.as_ref())?;
    let origins = Origins::find(pipeline, &options.state, &named)?;
    origins.begin(pipeline, &mut graph)?;
    // Before the journal says so.
    origins.keep(&options.state)?;
    let definition = Definition::of(pipeline, &graph, &origins)?;
    let now_ms = options.clock.now_ms();
    let early = (options.sabotage == Some(Sabotage::ProgressReadBeforeFencing))
        .then(|| tenure::range(&*broker, &topics.progress).map(|(_, end)| end))
        .transpose()?;
    // Fences an older run first: what is read after this is final.
    let mut tenure = Tenure::take(broker.clone(), &topics.progress, definition.says()?, now_ms)?;
    let first = tenure.first()?;
    let requests = pipeline.requests.iter().map(|request| request.name.clone()).collect();
    let start = Start {
        topic: tenure.topic(),
        definition: &definition,
        accept_loss: options.accept_loss,
        until: None,
        store: store.as_ref(),
        read: &mut |from| {
            let mut history = History::read(&tenure, from.unwrap_or(first).max(first), &requests)?;
            history.epochs.retain(|past| early.is_none_or(|end| past.offset < end));
            Ok(history)
        },
    };
    let mut decision = start.decide(pipeline, &*broker)?;
    let reached = match options.sabotage {
        Some(sabotage) => sabotage.harm(&mut tenure, &mut decision, store.as_ref())?,
        None => Reached::default(),
    };
    tell(&decision);
    let lineage = Lineage::of(pipeline, &broker, options, tenure.incarnation()).map(Arc::new);
    let feeds = Feeds::open(pipeline, &world, broker, options.book.clone(), now_ms)?;
    let registry = registry::open(pipeline, &options.state)?;
    let ledger = Arc::new(Ledger::new(definition.clone(), &decision));
    let asked = (pipeline.sources.len() as u32..).take(pipeline.requests.len());
    let takes = pipeline.front.is_some() && !options.until_idle;
    let hub = takes.then(|| Arc::new(Hub::new(front::nonce(now_ms), asked)));
    let commit = BrokerCommit {
        served: served::Served::new(skews, hub.clone()),
        lineage: lineage.clone(),
        hub: hub.clone(),
        tenure,
        delivery: options.delivery.unwrap_or(pipeline.delivery),
        sources: definition.sources.clone(),
        answers: answers(pipeline),
        sinks: commit::open_sinks(pipeline)?,
        promoter: promoter(pipeline, registry, (&decision, &origins), now_ms, metrics.clone())?,
        topics,
        journal: Writer::new(definition.clone()),
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        reached,
    };
    let ahead = options.sabotage == Some(Sabotage::CheckpointAheadOfCommit);
    let fed = Arc::new(AtomicBool::new(false));
    let settings = Settings {
        processes,
        finish: options.until_idle.then(|| fed.clone()),
        checkpoints: store.map(|store| Checkpoints {
            store,
            every_seconds: pipeline.checkpoints.every_seconds,
            every_bytes: pipeline.checkpoints.every_bytes,
            keep: pipeline.checkpoints.keep,
            note: if ahead { Box::new(|_| Ok(serde_json::Value::Null)) } else { ledger.notes() },
            ahead,
        }),
        ..settings(pipeline, options, metrics, decision, &definition)
    };
    Ok(Prepared { graph, settings, commit: Box::new(commit), feeds, fed, hub, lineage })
}

/// Says what is out of the ordinary about a start.
fn tell(decision: &Decision<Checkpoint>) {
    for why in &decision.passed_over {
        eprintln!("passed over: {why}");
    }
    if !decision.passed_over.is_empty() && decision.checkpoint.is_none() {
        eprintln!("no checkpoint can be used: everything is rebuilt from the log");
    }
    let Change { changed, new, .. } = &decision.change;
    let names: Vec<&str> = changed.keys().chain(new).map(String::as_str).collect();
    if !names.is_empty() {
        let what = if decision.checkpoint.is_some() { "starts anew from here on" } else { "is rebuilt from the log" };
        eprintln!("the definition has changed: {} {what}", names.join(", "));
    }
}

/// Runs the engine, the feeds and the display side by side.
fn drive(
    options: &Options,
    feeds: Feeds,
    fed: &AtomicBool,
    observer: &Observer,
    engine: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(fault) = feeds.run(options.speed) {
                options.book.abort(fault);
            }
            fed.store(true, Ordering::SeqCst);
            options.book.ring();
        });
        let shown = scope.spawn(|| observer.watch(options.quiet, &|| done.load(Ordering::SeqCst)));
        let outcome = engine();
        options.book.stop();
        done.store(true, Ordering::SeqCst);
        shown.thread().unpark();
        outcome
    })
}

/// How a pipeline's epochs are cut.
pub(crate) fn limits(pipeline: &Pipeline) -> Limits {
    let epochs = &pipeline.epochs;
    Limits {
        max_records: epochs.max_records as usize,
        max_bytes: epochs.max_bytes as usize,
        in_flight_bytes: epochs.in_flight_bytes as usize,
        ..Limits::default()
    }
}

/// A run from where was decided, without checkpoints of its own, that goes on until it is stopped.
fn settings(
    pipeline: &Pipeline,
    options: &Options,
    metrics: Arc<Metrics>,
    decision: Decision<Checkpoint>,
    definition: &Definition,
) -> Settings {
    let limits = limits(pipeline);
    Settings {
        workers: options.workers.unwrap_or(pipeline.workers),
        processes: None,
        limits: Limits { max_records: options.max_records.unwrap_or(limits.max_records), ..limits },
        seed: seed(pipeline),
        clock: options.clock.clone(),
        metrics,
        book: options.book.clone(),
        finish: None,
        checkpoints: None,
        from: decision.checkpoint,
        recorded: decision.replay,
        skip: definition.skips(&decision.skips),
        live: true,
    }
}

/// Where the answers to each request source go.
pub(crate) fn answers(pipeline: &Pipeline) -> BTreeMap<u32, Answers> {
    let first = pipeline.sources.len() as u32;
    (first..).zip(pipeline.requests.iter().map(|request| answers_to(pipeline, request))).collect()
}

/// Where the answers to some requests go.
pub(crate) fn answers_to(pipeline: &Pipeline, request: &crate::plan::Request) -> Answers {
    Answers {
        asked: request.source.source.topic.as_ref().map_or_else(String::new, |(topic, _)| topic.clone()),
        topic: request.answers.clone(),
        partitions: request.partitions,
        others: request.others.clone(),
        headers: request.headers.clone(),
        reply_to: request.reply_to.clone(),
        features: request.may_ask(OnRequest::Features).then(|| features(pipeline, request)),
    }
}

/// The columns that the models read who answer these requests.
fn features(pipeline: &Pipeline, request: &crate::plan::Request) -> BTreeMap<String, Used> {
    let used = |model: &usize| {
        let model = &pipeline.models[*model];
        let schema = pipeline.schema(pipeline.nodes[model.node].inputs[0]);
        (model.name.clone(), model.columns().iter().filter_map(|name| schema.index_of(name).ok()).collect())
    };
    request.models.iter().map(used).collect()
}

fn promoter(
    pipeline: &Pipeline,
    registry: Registry,
    (decision, origins): (&Decision<Checkpoint>, &Origins),
    now_ms: i64,
    metrics: Arc<Metrics>,
) -> Result<Promoter> {
    // What was rebuilt with another definition may be promoted at once.
    let start = || decision.checkpoint.as_ref().map(|checkpoint| &checkpoint.manifest().revisions);
    let reached = decision.replay.last().map(|recorded| &recorded.revisions).or_else(start);
    let mut candidates = BTreeMap::new();
    for model in &pipeline.models {
        let Some(rule) = model.promote else { continue };
        let reached = reached.and_then(|revisions| revisions.get(&model.name));
        let origin = origins.of(model);
        let candidate = Candidate {
            model: model.name.clone(),
            rule,
            gates: model.gates.clone(),
            examples: reached.map_or_else(|| origin.map_or(0, |origin| origin.examples), |mark| mark.revision),
            began_with: origin.map(Origin::name),
            parent: registry.newest(&model.name)?,
            drifts: VecDeque::new(),
        };
        candidates.insert(model.node, candidate);
    }
    Ok(Promoter {
        registry,
        candidates,
        pipeline: pipeline.name.clone(),
        definition: pipeline.digest.clone(),
        seed: seed(pipeline),
        user: user(),
        started_ms: now_ms,
        since_start: Stopwatch::start(),
        metrics,
        failing: None,
        unnoted: false,
        to_note_ms: None,
        heard: 0,
        promoted: Vec::new(),
    })
}

/// The digest is the only seed: the same definition makes the same choices.
pub(crate) fn seed(pipeline: &Pipeline) -> u64 {
    millstream_engine::state::hash(pipeline.digest.as_bytes())
}

/// The ids of all versions of the pipeline's models, in the order of their promotion.
fn versions(pipeline: &Pipeline, state: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let registry = registry::open(pipeline, state)?;
    let of = |name: &String| {
        let listed = registry.versions_of(name)?;
        Ok((name.clone(), listed.into_iter().map(|listed| listed.id).collect()))
    };
    pipeline.models.iter().map(|model| of(&model.name)).collect()
}

/// Opens the broker that a pipeline's topics are on, for commands that look at them.
pub fn open_broker(pipeline: &Pipeline, state: &std::path::Path) -> Result<Arc<dyn Broker>> {
    if !state.exists() && matches!(pipeline.broker, BrokerConfig::Embedded(_)) {
        return Err(Fault::definition(format!(
            "{} has no state yet: run the pipeline first, or create a topic",
            state.display()
        )));
    }
    pipeline.broker.open(state)
}
