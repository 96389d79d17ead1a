//! A run that is killed, and the next one, and the one after: whether anything is lost, doubled or different.
//!
//! ```text
//! start ─✗ killed ─► start with other workers ─✗ killed ─► … ─► ends by itself ─► check ─► anew
//! ```
//! What is killed is a process, by a real `SIGKILL`: at a failpoint, or from outside at any moment. A child is the test's own
//! program once more, of which only [`child`] runs.

mod kill;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millstream_connectors::broker::{Broker, Message, TopicReader};
use millstream_connectors::store;
use millstream_engine::source::Position;
use millstream_engine::time::{Clock, SystemClock};
use millstream_engine::{checkpoint, failpoint};
use millstream_pipelines::registry;
use millstream_pipelines::run::assemble::Topics;
use millstream_pipelines::run::{Options, Summary, work};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

pub use kill::Kill;

use crate::small::{self, Random};
use crate::{DeadLetter, Record, Site, free_address, message, one_answer_each};

/// Tells a child process what it is to run.
const CHILD: &str = "MILLSTREAM_TEST_CHILD";
/// How a child ends that has met a fault.
const FAULT: i32 = 3;
/// How much happens in the input. It is fed so fast that a life lasts for some tens of kills.
const SECONDS: u64 = 240;
const SPEED: f64 = 60.0;
/// How many checkpoints are kept.
const KEEP: usize = 3;
/// Kills until a life is looked at; it may end earlier.
const KILLS_MAX: usize = 30;

/// What the feeds fill.
const FED: [&str; 3] = ["weather", "readings", "questions"];

/// Not a test of its own: what the children run. A test program that starts some has a test `child` that calls it.
pub fn child() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let start: Value = serde_json::from_str(&text).expect("a parent wrote it");
    let text = |name: &str| start[name].as_str().expect("a text").to_owned();
    let site = Site::at(PathBuf::from(text("folder")));
    if let Some(process) = start["process"].as_u64() {
        work::work(&site.pipeline, process as usize).expect("it works until it is killed");
        return;
    }
    let workers = start["workers"].as_u64().expect("a number") as usize;
    let options = Options { speed: Some(SPEED), ..options(&site, Path::new(&text("state")), workers) };
    if let Err(fault) = site.try_run(&options) {
        eprintln!("{fault}");
        std::process::exit(FAULT);
    }
}

/// Small epochs, so that there are many moments to be killed at; and a clock that goes on from run to run.
fn options(site: &Site, state: &Path, workers: usize) -> Options {
    Options {
        state: state.to_owned(),
        broker: Some(site.broker()),
        workers: Some(workers),
        max_records: Some(5),
        clock: Arc::new(SystemClock),
        ..site.options()
    }
}

/// A run in a process of its own.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(site: &Site, state: &Path, workers: usize, kill_at: Option<&str>) -> Self {
        let start = json!({"folder": site.folder(), "state": state, "workers": workers});
        Self::start_as(&start, state.with_extension("log"), kill_at)
    }

    /// One that works for those.
    fn member(site: &Site, process: usize) -> Self {
        let start = json!({"folder": site.folder(), "process": process});
        Self::start_as(&start, site.folder().join(format!("member-{process}.log")), None)
    }

    fn start_as(start: &Value, log: PathBuf, kill_at: Option<&str>) -> Self {
        let output = File::create(&log).expect("the folder can be written");
        let mut command = crate::again("crash::child");
        command.env(CHILD, start.to_string());
        command.env_remove(failpoint::VARIABLE).envs(kill_at.map(|text| (failpoint::VARIABLE, text)));
        let child = command.stdout(Stdio::null()).stderr(output).spawn().expect("the program starts again");
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is our child");
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it is our child")
    }

    /// Whether it was killed, rather than having come to its end; nothing else may happen to it.
    fn was_killed(&mut self) -> bool {
        let status = self.wait();
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        assert!(killed || status.success(), "a run failed ({status}): {}", self.told());
        killed
    }

    /// Waits until the journal has so many more records, or the run has ended. Whether it still runs.
    fn wait_for(&mut self, journal: &mut Journal, more: u64) -> bool {
        let goal = journal.end() + more;
        while journal.end() < goal {
            if self.child.try_wait().expect("it is our child").is_some() {
                return false;
            }
            journal.wait();
        }
        true
    }
}

impl Drop for Running {
    /// No test leaves a process behind.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::KILL);
            self.wait();
        }
    }
}

/// Looks how far a journal has come.
struct Journal {
    broker: Arc<dyn Broker>,
    topic: String,
    reader: Box<dyn TopicReader>,
}

impl Journal {
    fn open(site: &Site) -> Self {
        let (broker, topic) = (site.broker(), Topics::of(&site.pipeline.name).progress);
        let offset = end(&*broker, &topic);
        let reader = broker.open(&topic, &[Position { partition: 0, offset }]).expect("the topic opens");
        Self { broker, topic, reader }
    }

    fn end(&self) -> u64 {
        end(&*self.broker, &self.topic)
    }

    /// Returns with the next record, or soon.
    fn wait(&mut self) {
        self.reader.read(1, Duration::from_millis(5)).expect("the topic can be read");
    }
}

fn end(broker: &dyn Broker, topic: &str) -> u64 {
    broker.topic(topic).expect("topics can be listed").expect("it was created").partitions[0].1
}

/// A record's partition, key and value.
type Content = (u32, Option<String>, Vec<u8>);

/// What a pipeline gives, however often it was interrupted.
#[derive(Debug, PartialEq)]
struct Given {
    digests: BTreeMap<String, (u64, String)>,
    /// By topic: what the feeds made, in order.
    fed: Vec<Vec<Content>>,
    rows: Vec<Vec<u8>>,
    dead_letters: Vec<DeadLetter>,
}

/// Where runs are killed.
pub struct Field {
    /// The broker, as a definition names it.
    broker: String,
    /// Goes before the names of topics.
    prefix: fn() -> String,
    /// Where versions are, as a definition says it; each time somewhere else.
    registry: fn() -> String,
    /// Whether runs fill the topics themselves, with transactions beside those of the answers.
    feeds: bool,
    /// How many processes work for a run.
    members: usize,
    seed: u64,
    random: Random,
    /// What one run gives, on the embedded broker.
    expected: Given,
}

/// What was done to runs.
#[derive(Debug, Default)]
pub struct Report {
    /// How many starts there were that ended in a kill, by kill.
    pub fired: BTreeMap<Kill, u64>,
    /// Starts whose kill never came, since the input was used up.
    pub unfired: u64,
    /// How often everything was checked.
    pub lives: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cycles: u64 = self.fired.values().sum();
        write!(formatter, "{cycles} cycles in {} lives, {} did not fire:", self.lives, self.unfired)?;
        self.fired.iter().try_for_each(|(kill, count)| write!(formatter, " {kill} {count}"))
    }
}

impl Field {
    /// On a broker, with topics that have the prefixes given.
    pub fn new(broker: &str, prefix: fn() -> String, feeds: bool, seed: u64) -> Self {
        let site = site("embedded", "", true, seed, "");
        let summary = site.run_with(&options(&site, &site.state(), 2));
        let expected = given(&site, &summary);
        let learned = expected.digests.values().all(|(revision, _)| *revision > SECONDS / 4);
        assert!(learned && !expected.dead_letters.is_empty(), "the input has everything: {:?}", expected.digests);
        Self {
            broker: broker.to_owned(),
            prefix,
            registry: String::new,
            feeds,
            members: 0,
            seed,
            random: Random::new(seed),
            expected,
        }
    }

    /// The same, with versions elsewhere than in the state directory.
    #[must_use]
    pub fn with_registry(self, registry: fn() -> String) -> Self {
        Self { registry, ..self }
    }

    /// The same, with other processes that work for each run.
    #[must_use]
    pub fn with_members(self, members: usize) -> Self {
        Self { members, ..self }
    }

    fn site(&self) -> Site {
        let mut more = (self.registry)();
        if self.members > 0 {
            let addresses: Vec<String> = (0..=self.members).map(|_| format!("\"{}\"", free_address())).collect();
            let addresses = addresses.join(", ");
            more = format!(
                "{more}\nprocesses: {{addresses: [{addresses}], secret: \"${{file:secret}}\", patience_seconds: 4}}"
            );
        }
        let site = site(&self.broker, &(self.prefix)(), self.feeds, self.seed, &more);
        if !self.feeds {
            for (name, records) in FED.iter().zip(&self.expected.fed) {
                // Of now, so that no server's retention takes them for old.
                let copy = |(partition, key, value): &Content| Message {
                    partition: Some(*partition),
                    timestamp_ms: SystemClock.now_ms(),
                    ..message(key.as_deref(), value.as_slice())
                };
                site.append(&topic(&site, name), &records.iter().map(copy).collect::<Vec<_>>());
            }
        }
        site
    }

    /// Kills runs until each of `kills` has come in its turn and there were so many `cycles`; each run starts with what the one
    /// before left. Everything is checked, again and again.
    pub fn kill(&mut self, kills: &[Kill], cycles: u64) -> Report {
        let mut report = Report::default();
        let mut turns = VecDeque::new();
        let mut done = 0;
        while done < cycles {
            let site = self.site();
            let mut journal = Journal::open(&site);
            let mut members: Vec<Running> = (1..=self.members).map(|process| Running::member(&site, process)).collect();
            for _ in 0..KILLS_MAX {
                if turns.is_empty() {
                    turns = self.shuffled(kills);
                }
                let (kill, nth_max) = turns[0];
                let workers = [1, 2, 4][self.random.below(3) as usize];
                let nth = 1 + self.random.below(nth_max);
                println!("seed {}: {kill}:{nth} with {workers} workers", self.seed);
                let is_killed = match kill {
                    Kill::Member | Kill::Sleep => {
                        let one = self.random.below(self.members as u64) as usize;
                        let signal = if kill == Kill::Member { Signal::KILL } else { Signal::STOP };
                        let member = &mut members[one];
                        let is_killed = lose_member(&site, &mut journal, (member, one + 1, signal), nth, workers);
                        match kill {
                            Kill::Member if is_killed => members[one] = Running::member(&site, one + 1),
                            _ => member.signal(Signal::CONT),
                        }
                        is_killed
                    }
                    _ => start_and_kill(&site, &mut journal, kill, nth, workers),
                };
                if !is_killed {
                    report.unfired += 1;
                    assert!(report.unfired <= 8 + cycles / 4, "{kill} does not come: {report}");
                    turns[0].1 = 1;
                    break;
                }
                turns.pop_front();
                check_files(&site, false);
                *report.fired.entry(kill).or_default() += 1;
                done += 1;
                if done == cycles {
                    break;
                }
            }
            self.check(&site);
            for (process, member) in (1..).zip(&mut members) {
                let ended = member.child.try_wait().expect("it is our child");
                assert!(ended.is_none(), "member {process} has ended: {}", member.told());
            }
            report.lives += 1;
        }
        for kill in kills.iter().filter(|_| cycles >= kills.len() as u64) {
            assert!(report.fired.contains_key(kill), "{kill} never came: {report}");
        }
        report
    }

    fn shuffled(&mut self, kills: &[Kill]) -> VecDeque<(Kill, u64)> {
        let mut turns: Vec<_> = kills.iter().map(|kill| (*kill, kill.nth_max())).collect();
        for at in (1..turns.len()).rev() {
            turns.swap(at, self.random.below(at as u64 + 1) as usize);
        }
        turns.into()
    }

    /// Stops runs at any moment, lets another go on elsewhere, and wakes the first: so many times, and more where a life is over.
    /// Gives how many there were.
    pub fn wake_the_dead(&mut self, zombies: u64) -> u64 {
        let mut woken = 0;
        while woken < zombies {
            let site = self.site();
            let mut journal = Journal::open(&site);
            // Where a run that is stopped has locked its state, the next needs another.
            let places = ["state", "elsewhere"].map(|name| site.folder().join(name));
            let mut at = 0;
            let mut first = Running::start(&site, &places[at], 2, None);
            let mut alive = first.wait_for(&mut journal, 3 + self.random.below(12));
            while alive && woken < zombies {
                println!("seed {}: a zombie in {}", self.seed, places[at].display());
                if !stop(&mut first, &site) {
                    break;
                }
                at = 1 - at;
                let mut heir = Running::start(&site, &places[at], [1, 2, 4][self.random.below(3) as usize], None);
                // It starts, and commits something.
                alive = heir.wait_for(&mut journal, 3 + self.random.below(12));
                first.signal(Signal::CONT);
                let status = first.wait();
                let told = first.told();
                assert_eq!(status.code(), Some(FAULT), "a zombie ended as if nothing had happened: {told}");
                assert!(told.contains("another run has taken over"), "a zombie ended for another reason: {told}");
                woken += 1;
                first = heir;
            }
            drop(first);
            self.check(&site);
        }
        woken
    }

    /// Runs to the end, and looks at everything.
    fn check(&self, site: &Site) {
        let last = site.run_with(&options(site, &site.state(), 2));
        assert_eq!(given(site, &last), self.expected, "seed {}", self.seed);
        let answers = one_answer_each(&site.records(&topic(site, "questions")), &site.answers());
        let refused: Vec<_> = answers.iter().filter(|answer| answer.get("error").is_some()).collect();
        assert!(refused.is_empty(), "all can be answered: {refused:?}");
        check_journal(&site.records(&Topics::of(&site.pipeline.name).progress));
        check_files(site, last.epochs > 0);

        // All that was committed can be rebuilt from the log alone, by other workers; a replay says itself if it differs.
        let before = site.answers();
        let replayed = site.run_with(&options(site, &site.folder().join("replayed"), 1));
        assert_eq!((replayed.epochs, replayed.epochs_replayed), (0, site.progress().len() as u64));
        assert_eq!(given(site, &replayed), self.expected, "seed {}", self.seed);
        assert_eq!(site.answers(), before, "a replay answers nothing again");
    }
}

/// The small pipeline with all that a run makes durable, as often as can be.
fn site(broker: &str, topics: &str, feeds: bool, seed: u64, registry: &str) -> Site {
    let often = "promote: {every_examples: 10, only_if_better_than_baseline: false}";
    let definition = if feeds { small::fed(broker, topics) } else { small::definition(broker, topics) };
    let definition = definition.replace("promote: {every_examples: 50}", often)
        + &format!("checkpoints: {{every_bytes: 1, keep: {KEEP}}}\n{registry}\n");
    let files = small::files(seed, SECONDS);
    let files = files.iter().map(|(name, content)| (*name, content.as_slice()));
    let secret: (&str, &[u8]) = ("secret", b"a secret of these tests");
    let files: Vec<(&str, &[u8])> = files.chain([secret]).collect();
    Site::new(&definition, &files)
}

/// Starts a run that is killed. Whether it was: it may come to its end before.
fn start_and_kill(site: &Site, journal: &mut Journal, kill: Kill, nth: u64, workers: usize) -> bool {
    let kill_at = matches!(kill, Kill::At(..)).then(|| format!("{kill}:{nth}"));
    let mut run = Running::start(site, &site.state(), workers, kill_at.as_deref());
    if kill == Kill::Outside && run.wait_for(journal, nth) {
        run.signal(Signal::KILL);
    }
    run.was_killed()
}

/// Starts a run, of which a member is killed or sleeps; it has to say so. Whether it was: the run may come to its end before.
fn lose_member(
    site: &Site,
    journal: &mut Journal,
    (member, process, signal): (&mut Running, usize, Signal),
    nth: u64,
    workers: usize,
) -> bool {
    let mut run = Running::start(site, &site.state(), workers, None);
    // Its start is noted before its members are there.
    if !run.wait_for(journal, 1 + nth) {
        assert!(run.wait().success(), "a run failed: {}", run.told());
        return false;
    }
    member.signal(signal);
    if signal == Signal::KILL {
        member.wait();
    }
    let status = run.wait();
    if status.success() {
        // It has just come to its end; the member is gone all the same.
        return true;
    }
    let told = run.told();
    assert_eq!(status.code(), Some(FAULT), "a run without a member ended otherwise: {told}");
    assert!(told.contains(&format!("process {process}")), "a run does not say which member is gone: {told}");
    true
}

/// Stops a run at a moment at which another can go on: one that writes to the embedded broker keeps all others out. Whether it
/// was still running.
fn stop(run: &mut Running, site: &Site) -> bool {
    loop {
        run.signal(Signal::STOP);
        // Until all its threads are; and what has ended stays to be waited for.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&run.child)), options).expect("it is our child");
        if !status.is_some_and(|status| status.stopped()) {
            return false;
        }
        if !is_locked(site) {
            return true;
        }
        run.signal(Signal::CONT);
    }
}

/// Whether somebody is writing to the embedded broker.
fn is_locked(site: &Site) -> bool {
    let file = site.state().join("broker.sqlite");
    if !file.exists() {
        return false;
    }
    let connection = Connection::open(file).expect("it opens");
    connection.busy_timeout(Duration::ZERO).expect("a setting");
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err()
}

/// A topic's name, with the prefix of the site.
fn topic(site: &Site, name: &str) -> String {
    site.pipeline.name.replace("small", name)
}

fn given(site: &Site, summary: &Summary) -> Given {
    let models = summary.models.iter();
    let fed = FED.iter().map(|name| {
        let records = site.records(&topic(site, name)).into_iter();
        records.map(|record| (record.partition, record.key, record.value)).collect()
    });
    let records = |sink: &str| site.records(&topic(site, sink));
    let mut rows: Vec<Vec<u8>> =
        small::SINKS.iter().flat_map(|sink| records(sink)).map(|record| record.value).collect();
    rows.sort();
    // Where transactions leave marks, offsets differ.
    let mut dead_letters: Vec<_> =
        site.dead_letters().into_iter().map(|letter| DeadLetter { offset: 0, ..letter }).collect();
    dead_letters.sort();
    Given {
        digests: models.map(|(name, model)| (name.clone(), (model.revision, model.digest.clone()))).collect(),
        fed: fed.collect(),
        rows,
        dead_letters,
    }
}

/// Epochs follow one another, each takes what comes next, and nobody but the newest run has written any.
fn check_journal(records: &[Record]) {
    let (mut epochs, mut incarnation) = (0, None);
    let mut reached: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for record in records {
        let value = record.json();
        if value["kind"] == "start" {
            incarnation = Some(record.offset);
            continue;
        }
        assert_eq!(value["incarnation"].as_u64(), incarnation, "written by a run that was replaced: {value}");
        let binding = &value["binding"];
        assert_eq!(binding["epoch"].as_u64(), Some(epochs), "epochs follow one another");
        epochs += 1;
        for range in binding["ranges"].as_array().expect("a list") {
            let number = |name: &str| range[name].as_u64().expect("a number");
            let source = range["source"].as_str().expect("a name").to_owned();
            let end = reached.entry((source, number("partition"))).or_default();
            assert!(number("lo") >= *end && number("hi") > number("lo"), "taken twice: {value}");
            *end = number("hi");
        }
    }
}

/// What a registry and a state directory hold is sound at every moment; and tidy, once a run has made a checkpoint and ended.
fn check_files(site: &Site, tidy: bool) {
    let state = &site.state();
    let registry = registry::open(&site.pipeline, state).expect("it can be listed");
    for listed in registry.list().expect("it can be listed") {
        let version = listed.version.unwrap_or_else(|fault| panic!("a version was damaged: {fault}"));
        registry.artefacts(&version).unwrap_or_else(|fault| panic!("a version was damaged: {fault}"));
    }
    let numbers: Vec<_> = registry.entries().expect("it can be read").into_iter().map(|entry| entry.number).collect();
    let expected: Vec<_> = (1..=numbers.len() as u64).map(Some).collect();
    assert_eq!(numbers, expected, "each version has its number");
    let store = store::open("checkpoints", state).expect("a folder");
    let mut named = Vec::new();
    let listed = checkpoint::list(&*store).expect("it can be listed");
    let count = listed.len();
    for listed in listed {
        let manifest = listed.manifest.unwrap_or_else(|fault| panic!("{}: {fault}", listed.name));
        named.extend(manifest.objects().map(|object| object.name.clone()));
        checkpoint::open(&store, manifest).unwrap_or_else(|fault| panic!("{}: {fault}", listed.name));
    }
    if tidy {
        named.sort();
        named.dedup();
        let found: Vec<String> =
            store.list("parts/").expect("it can be listed").into_iter().map(|object| object.name).collect();
        assert_eq!(found, named, "no object is left that no checkpoint needs");
        assert!((1..=KEEP).contains(&count), "{count} checkpoints");
        for folder in ["parts", "manifests"] {
            let entries = fs::read_dir(state.join("checkpoints").join(folder)).expect("it can be listed");
            let files = entries.map(|entry| entry.expect("it can be listed").file_name());
            let temporary: Vec<_> = files.filter(|name| name.to_string_lossy().starts_with('.')).collect();
            assert!(temporary.is_empty(), "left over: {temporary:?}");
        }
    }
}

/// A number from the environment.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}
