//! The first process' ends of the lines to members.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::door::{Guest, Purpose, draw};
use super::wire::{Begin, Signals, ToFirst, ToMember, read, read_bytes, write, write_bytes};
use super::{Aside, First, MESH_SECONDS, Mesh, is_gone, named};
use crate::binder::{LOOK, Order};
use crate::binding::Epoch;
use crate::book::Book;
use crate::checkpoint::Handed;
use crate::fault::{Blame, Fault, Result};
use crate::metrics::Counts;
use crate::mount::Site;
use crate::publish::Event;
use crate::time::Stopwatch;

/// Who is waited for is told after so long.
const TELL_SECONDS: f64 = 1.0;

/// What a member's line carries there.
pub(crate) enum Outgoing {
    /// For one of its workers.
    Order(usize, Order),
    /// An object that it has asked for.
    Object(Option<Vec<u8>>),
    /// In a talk: it wants an answer.
    Ask { talk: u64, asked: Arc<Vec<u8>> },
    /// A talk has ended.
    Leave { talk: u64 },
    /// There is a new cut, or whatever else is to be looked at.
    Look,
}

/// All that the lines need of a run that has not started.
pub(crate) struct Lines {
    pub(crate) first: First,
    /// Of the first process' first worker.
    pub(crate) site: Site,
    /// By member, from process 1 on.
    pub(crate) outgoing: Vec<(Sender<Outgoing>, Receiver<Outgoing>)>,
}

/// The streams to all processes, by number; none to the first itself.
type Streams = Vec<Option<TcpStream>>;

impl Lines {
    /// Waits for all members, and begins the run with them. `None` if the run was asked to end meanwhile.
    pub(crate) fn gather(mut self) -> Result<Option<(Vec<Line>, Mesh)>> {
        let Some(streams) = self.wait_for(Purpose::Line, f64::INFINITY)? else { return Ok(None) };
        let drawn = draw();
        let run = u64::from_le_bytes(std::array::from_fn(|at| drawn[at]));
        let mut lines = Vec::new();
        for (process, (asked, outgoing)) in (1..).zip(std::mem::take(&mut self.outgoing)) {
            let stream = streams[process].as_ref().and_then(|stream| stream.try_clone().ok());
            let mut stream = stream.ok_or_else(|| Fault::world("a line cannot be used"))?;
            let (name, processes) = (self.first.processes.name(process), &self.first.processes);
            let begun = write(&mut stream, &ToMember::Begin(self.begin(run)?));
            begun.map_err(|error| gone(&name, &error))?;
            let (patience, beat_seconds) = (processes.patience(), processes.beat_seconds());
            let incoming = Incoming {
                process,
                asked,
                site: self.site.clone(),
                aside: self.first.aside.clone(),
                operators: 0,
                held: 0,
                counts: Counts::new(),
            };
            lines.push(Line { name, patience, beat_seconds, stream, outgoing, incoming });
        }
        let Some(streams) = self.wait_for(Purpose::Rows { run }, MESH_SECONDS)? else { return Ok(None) };
        Ok(Some((lines, Mesh { process: 0, streams })))
    }

    /// Waits until all members have come for this, and none has gone again.
    fn wait_for(&self, purpose: Purpose, seconds: f64) -> Result<Option<Streams>> {
        let First { processes, door, .. } = &self.first;
        let mut streams: Streams = processes.addresses.iter().map(|_| None).collect();
        let watch = Stopwatch::start();
        let (mut told, mut refused, mut beat) = (false, String::new(), Stopwatch::start());
        loop {
            let is_due = purpose == Purpose::Line && beat.seconds() > processes.beat_seconds();
            if is_due {
                beat = Stopwatch::start();
            }
            for stream in &mut streams {
                // One that cannot be written to is seen to be gone the next time.
                let tell = |stream: &mut TcpStream| is_due && write(stream, &ToMember::Alive).is_err();
                drop(stream.take_if(|stream| is_gone(stream) || tell(stream)));
            }
            let missing: Vec<usize> = (1..streams.len()).filter(|process| streams[*process].is_none()).collect();
            if missing.is_empty() {
                return Ok(Some(streams));
            }
            if self.site.book.is_stopping() {
                return Ok(None);
            }
            let names = || missing.iter().map(|missing| processes.name(*missing)).collect::<Vec<_>>().join(", ");
            if watch.seconds() > seconds {
                return Err(Fault::world(format!("not connected after {seconds} s: {}", names())));
            }
            if !told && watch.seconds() > TELL_SECONDS {
                eprintln!("waiting for {}", names());
                told = true;
            }
            let expects = |process: usize, wanted: Purpose| {
                if wanted == purpose && process > 0 { Ok(()) } else { Err("nobody waits for that".to_owned()) }
            };
            match door.next(processes, expects) {
                Some(Ok(Guest { process, stream })) => streams[process] = Some(stream),
                Some(Err(Some(why))) if why != refused => {
                    eprintln!("{why}");
                    refused = why;
                }
                Some(Err(_)) => {}
                None => self.site.book.wait(self.site.book.bell(), LOOK),
            }
        }
    }

    fn begin(&self, run: u64) -> Result<Begin> {
        let mut headers = Vec::new();
        for (at, source) in (0..).zip(&self.site.graph.sources) {
            for partition in source.source.partitions()? {
                headers.extend(source.source.header(partition)?.map(|header| (at, partition, header)));
            }
        }
        Ok(Begin {
            run,
            threads: self.site.threads,
            partitions: (*self.site.partitions).clone(),
            headers,
            manifest: self.site.from.as_ref().map(|from| from.manifest().encode()).transpose()?,
            checkpoints: self.site.handed.is_some(),
        })
    }
}

fn gone(name: &str, why: &dyn std::fmt::Display) -> Fault {
    Fault::world(format!("{name} is gone: {why}"))
}

/// A member's line.
pub(crate) struct Line {
    /// Whose it is.
    name: String,
    patience: Duration,
    beat_seconds: f64,
    stream: TcpStream,
    outgoing: Receiver<Outgoing>,
    incoming: Incoming,
}

/// What takes what a member tells.
struct Incoming {
    process: usize,
    asked: Sender<Outgoing>,
    site: Site,
    aside: Arc<dyn Aside>,
    /// How many of its operators hand over state, how many rows it holds, and what it has counted, as it told last.
    operators: usize,
    held: usize,
    counts: Counts,
}

/// A line's two directions, each to be run on a thread of its own.
pub(crate) struct Ways {
    pub(crate) there: Box<dyn FnOnce() + Send>,
    pub(crate) back: Box<dyn FnOnce() + Send>,
}

impl Line {
    pub(crate) fn ways(self) -> Result<Ways> {
        let Self { name, patience, beat_seconds, stream, outgoing, mut incoming } = self;
        let limited = stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience)));
        let from = limited.and_then(|()| stream.try_clone()).map_err(|error| gone(&name, &error))?;
        let (book, told) = (incoming.site.book.clone(), name.clone());
        let there = move || {
            if let Err(error) = send(&stream, &outgoing, &book, beat_seconds) {
                book.abort_broken(gone(&told, &named(&error)));
            }
        };
        let back = move || {
            let outcome = incoming.take_all(&mut BufReader::new(from), &name);
            incoming.site.helpers.as_ref().inspect(|helpers| helpers.end());
            outcome.unwrap_or_else(|fault| incoming.site.book.abort(fault));
        };
        Ok(Ways { there: Box::new(there), back: Box::new(back) })
    }
}

/// Sends what there is to send, until the member has told everything, or the run has failed.
fn send(stream: &TcpStream, outgoing: &Receiver<Outgoing>, book: &Book, beat_seconds: f64) -> std::io::Result<()> {
    let mut to = BufWriter::with_capacity(1 << 16, stream);
    let mut beat = Stopwatch::start();
    let mut signals = Signals::default();
    let mut bound: Option<Epoch> = None;
    loop {
        let next = outgoing.recv_timeout(LOOK);
        if book.is_aborted() {
            // It may be gone itself.
            drop(write(&mut to, &ToMember::Abort).and_then(|()| to.flush()));
            return stream.shutdown(Shutdown::Both).or(Ok(()));
        }
        // A cut is known before its epoch comes.
        let now = Signals { cut: book.cuts.cut(), abandoned: book.cuts.abandoned(), published: book.published() };
        if now != signals {
            signals = now;
            write(&mut to, &ToMember::Signals(now))?;
        }
        if beat.seconds() > beat_seconds {
            beat = Stopwatch::start();
            write(&mut to, &ToMember::Alive)?;
        }
        match next {
            Ok(Outgoing::Order(worker, Order::Epoch(epoch, records))) => {
                if bound.replace(epoch) != Some(epoch)
                    && let Some(binding) = book.binding(epoch)
                {
                    write(&mut to, &ToMember::Bound((*binding).clone()))?;
                }
                write(&mut to, &ToMember::Records { worker, epoch, records })?;
            }
            Ok(Outgoing::Order(worker, Order::End)) => write(&mut to, &ToMember::End { worker })?,
            Ok(Outgoing::Object(content)) => write(&mut to, &ToMember::Object(content))?,
            Ok(Outgoing::Ask { talk, asked }) => {
                write(&mut to, &ToMember::Ask { talk })?;
                write_bytes(&mut to, &asked)?;
            }
            Ok(Outgoing::Leave { talk }) => write(&mut to, &ToMember::Leave { talk })?,
            Ok(Outgoing::Look) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return to.flush(),
        }
        to.flush()?;
    }
}

impl Incoming {
    fn take_all(&mut self, from: &mut impl Read, name: &str) -> Result<()> {
        let gone = |error| gone(name, &named(&error));
        loop {
            match read(from).map_err(gone)? {
                ToFirst::Ended => return Ok(()),
                ToFirst::Answer { talk } => {
                    let answer = read_bytes(from).map_err(gone)?;
                    self.site.helpers.as_ref().inspect(|helpers| helpers.answer(talk, answer));
                }
                told => self.take(told)?,
            }
        }
    }

    fn take(&mut self, told: ToFirst) -> Result<()> {
        match told {
            ToFirst::Mounted { operators, held } => {
                (self.operators..operators).for_each(|_| self.site.book.cuts.add_operator());
                self.operators = operators;
                self.hold(held);
                (0..self.site.threads).for_each(|_| self.site.book.add_mounted());
            }
            ToFirst::Want(name) => {
                let content = match &self.site.from {
                    Some(from) => from.store().get(&name)?,
                    None => None,
                };
                self.ask(Outgoing::Object(content));
            }
            ToFirst::Event(event) => self.tell(event),
            ToFirst::Passed { epoch, held } => {
                self.hold(held);
                self.site.book.set_passed(self.process, epoch.min(self.site.book.minted()));
                self.tell(Event::Passed(epoch));
            }
            ToFirst::Heard(partitions) => {
                partitions.into_iter().for_each(|(source, partition)| self.site.book.hear(source, partition));
            }
            ToFirst::Piece { cut, section, worker, key, content } => {
                // The line waits meanwhile, and the member then makes no more.
                while !self.site.book.cuts.has_room()
                    && !self.site.book.cuts.is_abandoned(cut)
                    && !self.site.book.is_aborted()
                {
                    self.site.book.wait(self.site.book.bell(), LOOK);
                }
                let bytes = content.len();
                self.site.book.cuts.add_bytes(bytes);
                let content = Box::new(move || Ok(content));
                self.hand(Handed::Piece { cut, section: section.into(), worker, key, bytes, content });
            }
            ToFirst::Done { cut, section, failed } => {
                let outcome = failed.map_or(Ok(()), |why| Err(Fault::world(why)));
                self.hand(Handed::Done { cut, section: section.into(), outcome });
            }
            ToFirst::Counts(counts) => {
                self.site.metrics.add(&self.counts, &counts);
                self.counts = counts;
            }
            ToFirst::Aside(told) => self.aside.hear(self.process, &told)?,
            ToFirst::Failed { is_ours, message } => {
                let blame = if is_ours { Blame::Ours } else { Blame::World };
                return Err(Fault { blame, ..Fault::world(format!("process {}: {message}", self.process)) });
            }
            // The caller has taken the others.
            ToFirst::Alive | ToFirst::Answer { .. } | ToFirst::Ended => {}
        }
        Ok(())
    }

    fn hold(&mut self, held: usize) {
        self.site.book.hold(held, self.held);
        self.held = held;
        self.site.metrics.set_held_rows(self.site.book.held_rows());
    }

    fn ask(&self, outgoing: Outgoing) {
        // Without the other direction the run has failed already.
        drop(self.asked.send(outgoing));
    }

    fn tell(&self, event: Event) {
        // Without a publisher the run has ended already.
        drop(self.site.events.send(event));
    }

    fn hand(&self, handed: Handed) {
        // Without a writer likewise.
        self.site.handed.as_ref().inspect(|writer| drop(writer.send(handed)));
        self.site.book.ring();
    }
}
