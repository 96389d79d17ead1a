//! Hands an operator's state over to the checkpoint writer at the cut.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

use crate::binding::Epoch;
use crate::book::Book;
use crate::checkpoint::{Content, Cuts, Handed, Word};
use crate::fault::Result;
use crate::mount::Site;
use crate::state::KeyedInstance;

/// How much of a state by key is serialised at a time.
const STEP_BYTES: usize = 256 << 10;

/// The stateful operators of a worker. They are woken when there is a new cut, and as long as one has more to hand over: between
/// two steps the worker takes its orders, so that epochs go on.
#[derive(Default)]
pub(crate) struct Walks {
    activators: RefCell<Vec<Activator>>,
    /// How many of them have more to hand over.
    walking: Cell<usize>,
    /// The newest cut that they were woken for.
    seen: Cell<Epoch>,
}

impl Walks {
    pub(crate) fn wake(&self, cuts: &Cuts) {
        let cut = cuts.cut();
        let is_new = self.seen.replace(cut) < cut;
        if is_new || self.walking.get() > 0 && (cuts.has_room() || cuts.is_abandoned(cut)) {
            self.activators.borrow().iter().for_each(Activator::activate);
        }
    }
}

/// An operator's part in checkpoints.
pub(crate) struct Handover {
    book: Arc<Book>,
    section: Arc<str>,
    worker: usize,
    handed: Option<Sender<Handed>>,
    walks: Rc<Walks>,
    /// The newest cut that was seen to.
    seen: Epoch,
    /// The cut for which state is being walked.
    walking: Option<Epoch>,
}

impl Handover {
    /// For an operator that is woken by `activator`.
    pub(crate) fn new(section: &str, site: &Site, walks: &Rc<Walks>, activator: Activator) -> Self {
        site.book.cuts.add_operator();
        walks.activators.borrow_mut().push(activator);
        Self {
            book: site.book.clone(),
            section: section.into(),
            worker: site.worker,
            handed: site.handed.clone(),
            walks: walks.clone(),
            seen: 0,
            walking: None,
        }
    }

    /// The cut for which state is to be handed over now, when all epochs before `next` are complete and none from there on has
    /// begun. Each comes once.
    pub(crate) fn due(&mut self, next: Epoch) -> Option<Epoch> {
        let cut = self.book.cuts.cut();
        if cut <= self.seen || cut > next {
            return None;
        }
        self.seen = cut;
        (!self.book.cuts.is_abandoned(cut)).then_some(cut)
    }

    fn tell(&self, handed: Handed) {
        // Without a writer the run has ended already.
        self.handed.as_ref().inspect(|writer| drop(writer.send(handed)));
    }

    /// Hands over a piece that holds so many bytes of memory.
    pub(crate) fn piece(&self, cut: Epoch, key: u32, bytes: usize, content: Content) {
        self.book.cuts.add_bytes(bytes);
        self.tell(Handed::Piece { cut, section: self.section.clone(), worker: self.worker, key, bytes, content });
    }

    pub(crate) fn word(&self, cut: Epoch, word: Word) {
        self.tell(Handed::Word { cut, word });
    }

    /// Everything is handed over, or cannot be.
    pub(crate) fn done(&self, cut: Epoch, outcome: Result<()>) {
        self.tell(Handed::Done { cut, section: self.section.clone(), outcome });
        self.book.ring();
    }

    /// Before all else with state by key: begins a snapshot if it is time. See [`Handover::due`].
    pub(crate) fn begin(&mut self, next: Epoch, instance: &mut dyn KeyedInstance) {
        if let Some(cut) = self.due(next) {
            instance.begin();
            self.set_walking(Some(cut));
        }
    }

    /// Hands over some more of the state by key.
    pub(crate) fn walk(&mut self, instance: &mut dyn KeyedInstance) {
        let Some(cut) = self.walking else { return };
        if self.book.cuts.is_abandoned(cut) {
            instance.abandon();
            return self.set_walking(None);
        }
        if !self.book.cuts.has_room() {
            return;
        }
        let outcome = instance.walk(STEP_BYTES).map(|bins| {
            for (bin, entries) in bins {
                self.piece(cut, u32::from(bin), entries.len(), Box::new(move || entries.joined()));
            }
        });
        if outcome.is_err() || !instance.is_walking() {
            self.set_walking(None);
            self.done(cut, outcome);
        }
    }

    fn set_walking(&mut self, cut: Option<Epoch>) {
        let others = self.walks.walking.get() - usize::from(self.walking.is_some());
        self.walks.walking.set(others + usize::from(cut.is_some()));
        self.walking = cut;
    }
}

/// The first epoch that is not complete on all of an operator's inputs.
pub(crate) fn next<'a>(frontiers: impl IntoIterator<Item = &'a MutableAntichain<Epoch>>) -> Epoch {
    let first = |frontier: &'a MutableAntichain<Epoch>| frontier.frontier().first().copied();
    frontiers.into_iter().filter_map(first).min().unwrap_or(Epoch::MAX)
}
