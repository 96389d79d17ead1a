//! Writes checkpoints: a part of a run that takes what operators hand over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::manifest::{self, PARTS};
use super::{Checkpoint, Checkpoints, Handed, Manifest, Note, Object, Piece, Store, Word};
use crate::binding::Epoch;
use crate::book::Book;
use crate::fault::{Fault, Result};
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::run::Turn;
use crate::time::Stopwatch;

/// An object is written when it has so many bytes.
const OBJECT_BYTES: usize = 4 << 20;

/// Writes checkpoints: a part of a run. See the module's documentation.
pub(crate) struct Writer {
    store: Arc<dyn Store>,
    keep: usize,
    note: Note,
    ahead: bool,
    graph: Arc<Graph>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    handed: Receiver<Handed>,
    /// The checkpoint that is being made.
    attempt: Option<Attempt>,
    cleaning: Option<Cleaning>,
    /// The epochs of the checkpoints that this run has written, or was restored from. What else the store has may be of a
    /// past that was undone.
    own: BTreeSet<Epoch>,
    /// Objects of those, which need not be written again.
    known: BTreeSet<String>,
    /// Whether it was told that checkpoints fail, since the last one that did not.
    told: bool,
}

/// A checkpoint that is being made.
struct Attempt {
    manifest: Manifest,
    /// What is to be written together, by section and worker.
    packs: BTreeMap<(Arc<str>, usize), Pack>,
    /// Objects that were written for it.
    written: BTreeSet<String>,
    /// How many operators have handed over everything.
    done: usize,
    watch: Stopwatch,
}

/// Pieces that become an object.
#[derive(Default)]
struct Pack {
    content: Vec<u8>,
    /// Their keys, with where they start and how long they are.
    pieces: Vec<(u32, u64, u64)>,
    /// Their bytes as they were counted in [`super::Cuts`].
    counted: usize,
}

/// What is to be deleted after a checkpoint: first manifests, so that none ever lists what is gone.
enum Cleaning {
    Look,
    Manifests { names: VecDeque<String>, listed: BTreeSet<String> },
    Objects(VecDeque<String>),
}

impl Writer {
    pub(crate) fn new(
        checkpoints: Checkpoints,
        from: Option<&Checkpoint>,
        graph: Arc<Graph>,
        book: Arc<Book>,
        metrics: Arc<Metrics>,
        handed: Receiver<Handed>,
    ) -> Self {
        let Checkpoints { store, keep, note, ahead, .. } = checkpoints;
        let objects = from.iter().flat_map(|from| from.manifest().objects());
        Self {
            store,
            keep: keep.max(1),
            note,
            ahead,
            graph,
            book,
            metrics,
            handed,
            attempt: None,
            cleaning: None,
            own: from.map(Checkpoint::epoch).into_iter().collect(),
            // They were read and checked when the run was restored.
            known: objects.map(|object| object.name.clone()).collect(),
            told: false,
        }
    }

    /// Takes one step: at most one call that changes the store.
    pub(crate) fn turn(&mut self) -> Turn {
        if self.book.is_aborted() {
            return Turn::Done;
        }
        self.act().unwrap_or_else(|fault| {
            self.fail(&fault);
            Turn::Worked
        })
    }

    fn act(&mut self) -> Result<Turn> {
        if let Some(cleaning) = self.cleaning.take() {
            self.cleaning = self.clean(cleaning)?;
            if self.cleaning.is_none() {
                self.rest();
            }
            return Ok(Turn::Worked);
        }
        match self.handed.try_recv() {
            Ok(Handed::End) | Err(TryRecvError::Disconnected) => return Ok(Turn::Done),
            Ok(handed) => {
                self.take(handed)?;
                return Ok(Turn::Worked);
            }
            Err(TryRecvError::Empty) => {}
        }
        let Some(attempt) = &mut self.attempt else { return Ok(Turn::Waits) };
        if attempt.done == self.book.cuts.operators() {
            if let Some((section, _)) = attempt.packs.keys().next().cloned() {
                self.write_pack(&section, |_| true)?;
                return Ok(Turn::Worked);
            }
            if self.ahead || self.book.published() >= attempt.manifest.epoch {
                self.finish()?;
                return Ok(Turn::Worked);
            }
        } else if !self.book.cuts.has_room()
            && let Some(fullest) = attempt.packs.iter().max_by_key(|(_, pack)| pack.counted).map(|(at, _)| at.clone())
        {
            // Nothing more comes before there is room.
            self.write_pack(&fullest.0, |worker| worker == fullest.1)?;
            return Ok(Turn::Worked);
        }
        Ok(Turn::Waits)
    }

    fn take(&mut self, handed: Handed) -> Result<()> {
        match handed {
            Handed::Cut { cut, offsets, idle } => self.begin(cut, offsets, idle),
            Handed::Piece { cut, section, worker, key, bytes, content } => {
                let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.manifest.epoch == cut) else {
                    // Of an abandoned one.
                    self.book.cuts.remove_bytes(bytes);
                    return Ok(());
                };
                let pack = attempt.packs.entry((section.clone(), worker)).or_default();
                pack.counted += bytes;
                let content = content()?;
                pack.pieces.push((key, pack.content.len() as u64, content.len() as u64));
                pack.content.extend_from_slice(&content);
                if pack.content.len() >= OBJECT_BYTES {
                    self.write_pack(&section, |of| of == worker)?;
                }
            }
            Handed::Word { cut, word } => {
                if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.manifest.epoch == cut) {
                    match word {
                        Word::Through(time_ms) => attempt.manifest.frontier.time_ms = time_ms,
                        Word::Revision(model, mark) => drop(attempt.manifest.revisions.insert(model, mark)),
                    }
                }
            }
            Handed::Done { cut, section, outcome } => {
                if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.manifest.epoch == cut) {
                    outcome?;
                    attempt.manifest.sections.entry(section.to_string()).or_default();
                    attempt.done += 1;
                }
            }
            // `act` has taken it.
            Handed::End => {}
        }
        Ok(())
    }

    fn begin(&mut self, cut: Epoch, offsets: BTreeMap<(u32, u32), u64>, idle: Vec<(u32, u32)>) {
        let mut manifest = Manifest::new(cut);
        manifest.sources = self.graph.sources.iter().map(|source| source.name.clone()).collect();
        let learned = offsets.iter().filter(|((source, _), _)| !self.graph.is_serving(*source as usize));
        let name = |source: u32, partition: u32| format!("{}/{partition}", self.graph.sources[source as usize].name);
        manifest.frontier.offsets =
            learned.map(|((source, partition), offset)| (name(*source, *partition), *offset)).collect();
        (manifest.offsets, manifest.idle) = (offsets, idle);
        let (packs, written) = (BTreeMap::new(), BTreeSet::new());
        self.attempt = Some(Attempt { manifest, packs, written, done: 0, watch: Stopwatch::start() });
    }

    /// Writes what one of some workers has handed over of a section.
    fn write_pack(&mut self, section: &Arc<str>, of: impl Fn(usize) -> bool) -> Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let Some(at) = attempt.packs.keys().find(|(found, worker)| found == section && of(*worker)).cloned() else {
            return Ok(());
        };
        let pack = attempt.packs.get(&at).expect("it was found there");
        let name = format!("{PARTS}{}", crate::digest::of(&pack.content));
        if !self.known.contains(&name) && !attempt.written.contains(&name) {
            self.store.put(&name, &pack.content)?;
            attempt.written.insert(name.clone());
        }
        let pack = attempt.packs.remove(&at).expect("it was found there");
        self.book.cuts.remove_bytes(pack.counted);
        let section = attempt.manifest.sections.entry(section.to_string()).or_default();
        let object = section.objects.len() as u32;
        section.objects.push(Object { name, bytes: pack.content.len() as u64 });
        section.pieces.extend(pack.pieces.iter().map(|&(key, at, bytes)| (key, Piece { object, at, bytes })));
        Ok(())
    }

    /// Everything is there, and every epoch before it is committed: now it counts.
    fn finish(&mut self) -> Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let manifest = &mut attempt.manifest;
        for (node, spread) in self.graph.nodes.iter().zip(self.graph.spread()) {
            if let Some(section) = manifest.sections.get_mut(&node.name) {
                section.spread = spread;
            }
        }
        manifest.note = (self.note)(manifest.epoch)?;
        let content = manifest.encode()?;
        self.store.put(&manifest.name(), &content)?;
        self.own.insert(manifest.epoch);
        self.known.append(&mut attempt.written);
        self.metrics.set_checkpoint(manifest.epoch, manifest.bytes(), attempt.watch.seconds());
        (self.told, self.attempt, self.cleaning) = (false, None, Some(Cleaning::Look));
        Ok(())
    }

    fn clean(&mut self, cleaning: Cleaning) -> Result<Option<Cleaning>> {
        match cleaning {
            Cleaning::Look => self.look().map(Some),
            Cleaning::Manifests { mut names, listed } => {
                if let Some(name) = names.pop_front() {
                    self.store.delete(&name)?;
                    return Ok(Some(Cleaning::Manifests { names, listed }));
                }
                let objects: BTreeSet<String> = self.store.list(PARTS)?.into_iter().map(|object| object.name).collect();
                self.known.retain(|name| objects.contains(name));
                Ok(Some(Cleaning::Objects(objects.into_iter().filter(|name| !listed.contains(name)).collect())))
            }
            Cleaning::Objects(mut names) => {
                let Some(name) = names.pop_front() else { return Ok(None) };
                self.store.delete(&name)?;
                Ok(Some(Cleaning::Objects(names)))
            }
        }
    }

    /// Which manifests go: those that cannot be used, and all but the newest, this run's own before others.
    fn look(&mut self) -> Result<Cleaning> {
        let mut usable = Vec::new();
        let mut names = VecDeque::new();
        for (epoch, name) in manifest::names(&*self.store)? {
            match manifest::read(&*self.store, epoch, &name)? {
                Ok(manifest) => usable.push(manifest),
                Err(_) => names.push_back(name),
            }
        }
        usable.sort_by_key(|manifest| std::cmp::Reverse((self.own.contains(&manifest.epoch), manifest.epoch)));
        // The oldest first.
        names.extend(usable.drain(self.keep.min(usable.len())..).map(|manifest| manifest.name()).rev());
        self.own.retain(|epoch| usable.iter().any(|manifest| manifest.epoch == *epoch));
        let objects = |manifest: &Manifest| manifest.objects().map(|object| object.name.clone()).collect::<Vec<_>>();
        let own = usable.iter().filter(|manifest| self.own.contains(&manifest.epoch));
        self.known = own.flat_map(objects).collect();
        Ok(Cleaning::Manifests { names, listed: usable.iter().flat_map(objects).collect() })
    }

    /// Gives up what is being done. The next checkpoint is tried in its time.
    fn fail(&mut self, fault: &Fault) {
        self.metrics.checkpoint_failures_total.inc();
        if !std::mem::replace(&mut self.told, true) {
            eprintln!("a checkpoint failed: {fault}; the run goes on, and tries again later");
        }
        if let Some(attempt) = self.attempt.take() {
            self.book.cuts.abandon(attempt.manifest.epoch);
            self.book.cuts.remove_bytes(attempt.packs.values().map(|pack| pack.counted).sum());
        }
        self.cleaning = None;
        self.rest();
    }

    /// The next checkpoint may begin.
    fn rest(&self) {
        self.book.cuts.set_idle();
        self.book.ring();
    }
}
