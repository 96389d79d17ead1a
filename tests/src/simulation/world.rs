//! What a simulated run touches, and what fails there: the broker, the clock, and calls that are a process's last.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_connectors::broker::simulated::{Call, Injected, Operation, Simulated};
use millstream_connectors::broker::{Broker, Fetched, Producer, Topic, TopicReader};
use millstream_connectors::store::simulated::{
    Call as DiskCall, Failure, Fate, Injected as DiskInjected, SimulatedDisk,
};
use millstream_engine::Result;
use millstream_engine::source::Position;
use millstream_engine::time::Clock;

use crate::small::Random;

/// The producer of the tests' own records: nothing happens to it.
pub const FEEDER: &str = "feeder";

/// The simulated broker, on which nobody waits: whoever waits for what is under way looks again instead, and every look is
/// an operation, so that it arrives.
#[derive(Clone, Default)]
pub struct Unwaiting(pub Simulated);

impl Broker for Unwaiting {
    fn topics(&self) -> Result<Vec<Topic>> {
        self.0.topics()
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>> {
        self.0.topic(name)
    }

    fn create(&self, name: &str, partitions: u32) -> Result<()> {
        self.0.create(name, partitions)
    }

    fn open(&self, topic: &str, from: &[Position]) -> Result<Box<dyn TopicReader>> {
        Ok(Box::new(UnwaitingReader(self.0.open(topic, from)?)))
    }

    fn producer(&self, id: &str) -> Result<Box<dyn Producer>> {
        self.0.producer(id)
    }
}

struct UnwaitingReader(Box<dyn TopicReader>);

impl TopicReader for UnwaitingReader {
    fn read(&mut self, max_bytes: usize, _: Duration) -> Result<Option<Fetched>> {
        self.0.read(max_bytes, Duration::ZERO)
    }

    fn ends(&mut self) -> Result<Vec<Position>> {
        self.0.ends()
    }
}

/// A clock that is set wrong now and then.
pub struct Jumping(AtomicI64);

impl Jumping {
    /// A clock that shows this time.
    pub fn new(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    /// Sets it up to an hour back or on.
    pub fn jump(&self, random: &mut Random) {
        self.0.fetch_add(random.below(7_200_001) as i64 - 3_600_000, Ordering::SeqCst);
    }
}

impl Clock for Jumping {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What happens to the calls of the process that has the turn.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    random: Option<Random>,
    /// One call in so many goes wrong, of reads fewer; 0 for none.
    rarity: u64,
    /// After so many calls, the process is dead.
    left: Option<u64>,
    dead: bool,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the broker asks here.
    pub fn rule(&self, broker: &Simulated) {
        let faults = self.clone();
        broker.inject(move |call| faults.lock().becomes_of(call));
    }

    /// From now on the disk asks here.
    pub fn rule_disk(&self, disk: &SimulatedDisk) {
        let faults = self.clone();
        disk.inject(move |call| faults.lock().becomes_of_disk(call));
    }

    /// Another process has the turn: one call in `rarity` goes wrong for it (none if that is 0), and after `left` calls it is
    /// dead.
    pub fn begin(&self, random: Random, rarity: u64, left: Option<u64>) {
        *self.lock() = State { random: Some(random), rarity, left, dead: false };
    }

    /// Whether the process is dead.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// What is over now happens to nobody.
    pub fn end(&self) {
        *self.lock() = State::default();
    }
}

impl State {
    fn becomes_of(&mut self, call: &Call<'_>) -> Injected {
        let Some(random) = self.random.as_mut().filter(|_| call.who != FEEDER) else { return Injected::Nothing };
        if self.dead {
            return Injected::Hang;
        }
        if let Some(left) = &mut self.left {
            if *left == 0 {
                self.dead = true;
                return last(call.operation, random);
            }
            *left -= 1;
        }
        // There are many more reads than anything else.
        let rarity = if call.operation == Operation::Read { self.rarity * 8 } else { self.rarity };
        if rarity > 0 && random.once_in(rarity) { fault(random) } else { Injected::Nothing }
    }
}

impl State {
    fn becomes_of_disk(&mut self, _: &DiskCall<'_>) -> DiskInjected {
        let Some(random) = self.random.as_mut() else { return DiskInjected::Nothing };
        if self.dead {
            return DiskInjected::Crash;
        }
        if let Some(left) = &mut self.left {
            if *left == 0 {
                self.dead = true;
                return if random.once_in(2) { DiskInjected::Crash } else { DiskInjected::CrashAfter };
            }
            *left -= 1;
        }
        if self.rarity == 0 || !random.once_in(self.rarity * 2) {
            return DiskInjected::Nothing;
        }
        let failure = if random.once_in(2) { Failure::Full } else { Failure::Broken };
        match random.below(3) {
            0 => DiskInjected::Fail(failure),
            1 => DiskInjected::FailAfter(failure),
            _ => DiskInjected::Short(random.below(200) as usize),
        }
    }
}

/// The machine is on again after its end: a process that was killed loses nothing that it wrote, a power cut may take
/// anything that was not synced.
pub fn restart(disk: &SimulatedDisk, random: &mut Random) {
    let power_cut = random.once_in(2);
    disk.restart(|_| match random.below(4) {
        _ if !power_cut => Fate::Kept,
        0 => Fate::Lost,
        1 => Fate::Prefix(random.below(2000) as usize),
        2 => Fate::Sectors(random.below(u64::MAX)),
        _ => Fate::Kept,
    });
}

fn fault(random: &mut Random) -> Injected {
    match random.below(5) {
        0 => Injected::FailBefore,
        1 => Injected::FailAfter,
        2 => Injected::Hang,
        3 => Injected::Late(random.below(40)),
        _ => Injected::Hide(random.below(40)),
    }
}

/// The last call of a process: nobody hears how it went.
fn last(operation: Operation, random: &mut Random) -> Injected {
    match (operation, random.below(4)) {
        (Operation::Commit, 2) => Injected::Late(random.below(60)),
        (Operation::Commit, 1) | (Operation::Start | Operation::Send, 1 | 2) => Injected::FailAfter,
        _ => Injected::Hang,
    }
}
