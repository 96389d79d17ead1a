//! The real pipeline and the real engine under one schedule, on a broker that fails: everything that happens is decided by
//! a seed, and what became visible in the end is compared with a plain loop over the records.
//!
//! ```text
//! seed ─► input, workers, epochs, who has the turn, which calls fail, when a process dies or freezes, what its heir has
//!            │
//!            ▼
//! run ─✗ run ─✗ run (and a zombie) ─✗ … ─► run without faults until idle ─► check against the oracle
//! ```

pub mod check;
mod input;
mod oracle;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_connectors::broker::{Append, Broker, Message, Producer};
use millstream_connectors::store::Folder;
use millstream_connectors::store::simulated::SimulatedDisk;
use millstream_engine::Fault;
use millstream_engine::book::Book;
use millstream_engine::run::{Actor, Simulation, Turn};
use millstream_pipelines::plan::{Delivery, Pipeline};
use millstream_pipelines::run::sabotage::Sabotage;
use millstream_pipelines::run::{Checkpointing, Options, Prepared, prepare};

use crate::small::Random;
use crate::{NOW_MS, Site, records};
use check::Checked;
use world::{FEEDER, Faults, Jumping, Unwaiting};

/// A run that takes so many turns hangs: these take some thousand.
const TURNS_MAX: usize = 100_000;
/// A run that is to be killed gets so many turns, at most.
const TURNS_BEFORE_KILL: u64 = 500;
/// As many operations of the broker, and what was late or hidden is there.
const SETTLING_OPERATIONS: usize = 100;

/// What all seeds share.
pub struct Lab {
    site: Site,
}

/// What came of a seed.
pub struct Ran {
    /// Each turn, in order.
    pub trace: Vec<Turned>,
    /// What is wrong, if anything is.
    pub outcome: Checked<()>,
}

/// A turn: of which run, whose, what came of it; then the epochs minted, passed and published, and the broker's operations.
pub type Turned = (usize, Actor, Turn, [u64; 4]);

/// What becomes of a run.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is killed between two turns.
    Killed,
    /// One of its calls is its last.
    Dies,
    /// It is asked to end.
    Stopped,
    /// It gets no turn until its heir has started.
    Frozen,
}

/// A run and how it is scheduled.
struct Run {
    number: usize,
    simulation: Simulation,
    weights: BTreeMap<Actor, u64>,
}

struct World<'a> {
    pipeline: &'a Pipeline,
    options: &'a dyn Fn() -> Options,
    random: Random,
    broker: Unwaiting,
    faults: Faults,
    /// One call in so many fails; none if 0.
    rarity: u64,
    clock: Arc<Jumping>,
    /// Of the machine that runs are started on.
    disk: SimulatedDisk,
    delivery: Delivery,
    sabotage: Option<Sabotage>,
    feeder: Box<dyn Producer>,
    input: VecDeque<(&'static str, Message)>,
    starts: usize,
    trace: Vec<Turned>,
}

impl Lab {
    /// Plans the definition.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self { site: Site::new(input::DEFINITION, &[]) }
    }

    /// Whatever this seed decides.
    pub fn run(&self, seed: u64) -> Ran {
        self.run_with(seed, None)
    }

    /// The same with a bug.
    pub fn run_with(&self, seed: u64, sabotage: Option<Sabotage>) -> Ran {
        let mut random = Random::new(seed);
        let broker = Unwaiting::default();
        let faults = Faults::default();
        faults.rule(&broker.0);
        let disk = SimulatedDisk::new();
        faults.rule_disk(&disk);
        if sabotage == Some(Sabotage::RetryInSameProducerEpoch) {
            broker.0.allow_careless();
        }
        let created = ["readings", "questions"].into_iter().zip([input::PARTITIONS, input::ASKING]);
        for (topic, partitions) in created {
            broker.create(topic, partitions).expect("a new topic");
        }
        let input = input::input(&mut random).into();
        let delivery = if random.once_in(5) { Delivery::AtLeastOnce } else { Delivery::ExactlyOnce };
        let mut world = World {
            pipeline: &self.site.pipeline,
            options: &|| self.site.options(),
            rarity: [0, 0, 60, 20, 8][random.below(5) as usize],
            feeder: broker.producer(FEEDER).expect("nothing fails for it"),
            clock: Arc::new(Jumping::new(NOW_MS)),
            disk: disk.clone(),
            random,
            broker,
            faults,
            delivery,
            sabotage,
            input,
            starts: 0,
            trace: Vec::new(),
        };
        let outcome = world.survive().and_then(|()| {
            (0..SETTLING_OPERATIONS).for_each(|_| drop(records(&world.broker, "readings")));
            check::check(world.pipeline, &world.broker, delivery)
        });
        Ran { trace: world.trace, outcome }
    }
}

impl World<'_> {
    /// Runs and restarts until everything is done.
    fn survive(&mut self) -> Checked<()> {
        let first = self.random.below(self.input.len() as u64 + 1);
        self.feed(first);
        let mut frozen = None;
        for _ in 0..self.random.below(6) {
            frozen = self.live(frozen)?;
        }
        self.faults.end();
        self.feed(u64::MAX);
        world::restart(&self.disk, &mut self.random);
        // Twice: what was committed is also what a replay reaches.
        for _ in 0..=self.random.below(2) {
            let mut run = self.start(true, frozen.is_some())?.ok_or("the last run does not start")?;
            if self.drive(&mut run, &mut frozen, TURNS_MAX)? {
                run.simulation.outcome().map_err(|fault| format!("the last run failed: {fault}"))?;
            } else {
                return Err(format!("the last run hangs: {:?}", self.trace.last_chunk::<40>()));
            }
        }
        Ok(())
    }

    /// A run up to its end, next to a zombie perhaps; gives it if it is frozen.
    fn live(&mut self, mut zombie: Option<Run>) -> Checked<Option<Run>> {
        let fate = [Fate::Killed, Fate::Killed, Fate::Dies, Fate::Dies, Fate::Stopped, Fate::Frozen];
        let fate = fate[self.random.below(6) as usize];
        if self.random.once_in(3) {
            self.clock.jump(&mut self.random);
        }
        // Who dies may take long to come to its last call.
        let dies = (fate == Fate::Dies).then(|| self.random.below(150));
        let faults = Random::new(self.random.below(u64::MAX));
        self.faults.begin(faults, self.rarity, dies);
        let finish = self.random.once_in(6);
        if finish {
            self.feed(u64::MAX);
        }
        if zombie.is_some() {
            // Its machine is out of reach, and so are its checkpoints.
            self.disk = SimulatedDisk::new();
            self.faults.rule_disk(&self.disk);
        } else {
            world::restart(&self.disk, &mut self.random);
        }
        let Some(mut run) = self.start(finish, zombie.is_some())? else { return Ok(zombie) };
        let had_zombie = zombie.is_some();
        let turns = self.random.below(TURNS_BEFORE_KILL) as usize;
        let mut done = self.drive(&mut run, &mut zombie, turns)?;
        if fate == Fate::Stopped && !self.faults.is_dead() && !done {
            run.simulation.book().stop();
            done = self.drive(&mut run, &mut None, TURNS_MAX)?;
            if !done && !self.faults.is_dead() {
                return Err(format!("a run that was stopped hangs: {:?}", self.trace.last_chunk::<40>()));
            }
        }
        if done {
            let dead = self.faults.is_dead();
            match run.simulation.outcome() {
                Err(fault) if !dead => self.excuse(&fault, had_zombie)?,
                _ => {}
            }
            return Ok(zombie);
        }
        Ok(if fate == Fate::Frozen { Some(run) } else { zombie })
    }

    /// Whether a run may end so.
    fn excuse(&self, fault: &Fault, has_rival: bool) -> Checked<()> {
        let taken_over = has_rival && fault.to_string().contains("another run has taken over");
        let text = fault.to_string();
        // A start may halt on a disk that cannot be read; one that cannot be written stops nobody.
        let unread = text.contains("simulated: ") && (text.contains("cannot read /") || text.contains("cannot list /"));
        let is_excused = taken_over || self.rarity > 0 && (fault.retry || unread);
        if is_excused { Ok(()) } else { Err(format!("run {} failed: {fault}", self.starts)) }
    }

    /// Starts a run; there is none if the world does not let it.
    fn start(&mut self, finish: bool, has_rival: bool) -> Checked<Option<Run>> {
        self.starts += 1;
        let options = Options {
            until_idle: finish,
            workers: Some(1 + self.random.below(4) as usize),
            delivery: Some(self.delivery),
            checkpoints: self.checkpoints(),
            max_records: Some(1 + self.random.below(20) as usize),
            clock: self.clock.clone(),
            book: Arc::new(Book::default()),
            sabotage: self.sabotage,
            ..(self.options)()
        };
        let started = prepare(self.pipeline, &options, Arc::new(self.broker.clone())).and_then(|prepared| {
            let Prepared { graph, settings, commit, feeds: _, fed, hub: _, lineage: _ } = prepared;
            fed.store(true, Ordering::SeqCst);
            Simulation::new(graph, settings, commit)
        });
        match started {
            _ if self.faults.is_dead() => Ok(None),
            Ok(simulation) => Ok(Some(Run { number: self.starts, simulation, weights: BTreeMap::new() })),
            Err(fault) => self.excuse(&fault, has_rival).map(|()| None),
        }
    }

    /// On the machine's disk, or nowhere.
    fn checkpoints(&mut self) -> Checkpointing {
        if self.random.once_in(8) {
            return Checkpointing::Off;
        }
        Checkpointing::At(Arc::new(Folder::on(self.disk.clone(), "/checkpoints")))
    }

    /// Gives turns until the run is done, its process dies, or there were enough; whether it is done.
    fn drive(&mut self, run: &mut Run, zombie: &mut Option<Run>, turns: usize) -> Checked<bool> {
        for _ in 0..turns {
            if run.simulation.is_done() {
                return Ok(true);
            }
            if self.faults.is_dead() {
                return Ok(false);
            }
            if self.random.once_in(16) {
                let some = self.random.below(6);
                self.feed(some);
            }
            if self.random.once_in(256) {
                self.clock.jump(&mut self.random);
            }
            match zombie {
                Some(rival) if self.random.once_in(4) => {
                    self.step(rival);
                    if let Some(ended) = zombie.take_if(|rival| rival.simulation.is_done()) {
                        ended.simulation.outcome().or_else(|fault| self.excuse(&fault, true))?;
                    }
                }
                _ => self.step(run),
            }
        }
        Ok(run.simulation.is_done())
    }

    /// Gives a turn to a part; some get more turns than others.
    fn step(&mut self, run: &mut Run) {
        let random = &mut self.random;
        let actors: Vec<Actor> = run.simulation.actors().collect();
        let mut weight = |actor| *run.weights.entry(actor).or_insert_with(|| [1, 6, 40][random.below(3) as usize]);
        let weights: Vec<(Actor, u64)> = actors.into_iter().map(|actor| (actor, weight(actor))).collect();
        let mut at = self.random.below(weights.iter().map(|(_, weight)| weight).sum());
        let picked = weights.into_iter().find(|(_, weight)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        let (actor, _) = picked.expect("below the sum of the weights");
        let turn = run.simulation.step(actor);
        let book = run.simulation.book();
        let counts = [book.minted(), book.passed(), book.published(), self.broker.0.operations()];
        self.trace.push((run.number, actor, turn, counts));
    }

    /// Appends the next records and questions, in one transaction.
    fn feed(&mut self, count: u64) {
        let count = (self.input.len() as u64).min(count) as usize;
        let mut topics: BTreeMap<&str, Vec<Message>> = BTreeMap::new();
        for (topic, message) in self.input.drain(..count) {
            topics.entry(topic).or_default().push(message);
        }
        let appends: Vec<Append> =
            topics.into_iter().map(|(topic, messages)| Append { topic: topic.to_owned(), messages }).collect();
        if !appends.is_empty() {
            self.feeder.append(&appends).expect("nothing fails for the feeder");
        }
    }
}
