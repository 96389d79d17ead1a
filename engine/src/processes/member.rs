//! A process that has workers, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, BufWriter, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use super::door::{Door, Missed, Purpose, dial};
use super::wire::{Begin, Signals, ToFirst, ToMember, read, read_bytes, write, write_bytes};
use super::{Aside, MESH_SECONDS, MakeHelper, Mesh, Processes, is_gone, named};
use crate::binder::{LOOK, Order, WorkerLine};
use crate::binding::{Epoch, Frontier};
use crate::book::{Book, Entry};
use crate::checkpoint::{Checkpoint, Handed, Manifest, Object, Store};
use crate::fault::{Fault, Result};
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::mount::Site;
use crate::publish::Event;
use crate::run::guard;
use crate::run::threads::start;
use crate::run::worker::{Start, starts};
use crate::source::MakeDecoder;
use crate::time::Stopwatch;
use crate::trace;

/// A member calls the first process this often until it is there.
const REDIAL: Duration = Duration::from_millis(300);
/// What people want to know is told this often.
const TELL_SECONDS: f64 = 0.5;

/// What a member needs of each run: its own, since what it counts begins anew.
pub struct Member {
    /// The same graph as that of the first process. Its sources are not read.
    pub graph: Graph,
    /// Counted here, and told to the first process.
    pub metrics: Arc<Metrics>,
    /// Told to it, too.
    pub aside: Arc<dyn Aside>,
    /// Makes what helps its folds.
    pub helper: MakeHelper,
}

/// Takes part in one run after the other as process number `process`, until `until` is asked to end. Whatever ends a run is told, and
/// the next one is waited for.
pub fn serve(
    processes: &Processes,
    door: &Door,
    process: usize,
    until: &Book,
    mut make: impl FnMut() -> Result<Member>,
) -> Result<()> {
    let mut told = String::new();
    while !until.is_stopping() {
        let line = match dial(processes, process, 0, Purpose::Line) {
            Ok(line) => line,
            Err(Missed::Absent(why) | Missed::Refused(why)) => {
                if why != told {
                    eprintln!("waiting for {why}");
                    told = why;
                }
                until.pause(REDIAL);
                continue;
            }
        };
        told.clear();
        eprintln!("process {process} waits for the run to begin");
        match take_part(make()?, processes, door, process, &line, until) {
            Ok(true) => eprintln!("the run has ended"),
            Ok(false) => {}
            Err(fault) => eprintln!("the run has ended: {fault}"),
        }
        drop(line.shutdown(Shutdown::Both));
    }
    Ok(())
}

/// Whether a run has begun.
fn take_part(
    member: Member,
    processes: &Processes,
    door: &Door,
    process: usize,
    line: &TcpStream,
    until: &Book,
) -> Result<bool> {
    let lost = |error| lost(&error);
    let mut from = BufReader::new(line.try_clone().map_err(lost)?);
    let mut quiet = Stopwatch::start();
    let begin = loop {
        // It looks up now and then, in case it is asked to end.
        line.set_read_timeout(Some(REDIAL)).map_err(lost)?;
        let is_there = line.peek(&mut [0]);
        line.set_read_timeout(None).map_err(lost)?;
        match is_there {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if until.is_stopping() || quiet.seconds() > processes.patience_seconds {
                    return Ok(false);
                }
                continue;
            }
            Err(_) => return Ok(false),
        }
        match read(&mut from).map_err(lost)? {
            ToMember::Begin(begin) => break begin,
            ToMember::Alive => quiet = Stopwatch::start(),
            _ => return Err(Fault::ours("the first process speaks of a run that has not begun")),
        }
    };
    line.set_read_timeout(Some(processes.patience())).map_err(lost)?;
    let mesh = connect(processes, door, process, begin.run, || until.is_stopping() || is_gone(line))?;
    Run::new(member, processes, process, begin, line)?.go(mesh, from, until).map(|()| true)
}

/// Connects with all others: calls those before, and is called by those after.
fn connect(processes: &Processes, door: &Door, process: usize, run: u64, has_ended: impl Fn() -> bool) -> Result<Mesh> {
    let (purpose, watch) = (Purpose::Rows { run }, Stopwatch::start());
    let mut streams: Vec<Option<TcpStream>> = processes.addresses.iter().map(|_| None).collect();
    let is_late = || watch.seconds() > MESH_SECONDS || has_ended();
    for (other, stream) in streams[..process].iter_mut().enumerate() {
        *stream = loop {
            match dial(processes, process, other, purpose) {
                Ok(stream) => break Some(stream),
                Err(Missed::Absent(why) | Missed::Refused(why)) if is_late() => return Err(Fault::world(why)),
                Err(_) => std::thread::sleep(LOOK),
            }
        };
    }
    while let Some(missing) = (process + 1..streams.len()).find(|other| streams[*other].is_none()) {
        let expects = |other: usize, wanted: Purpose| {
            if wanted == purpose && other > process { Ok(()) } else { Err("nobody waits for that".to_owned()) }
        };
        match door.next(processes, expects) {
            Some(Ok(guest)) => streams[guest.process] = Some(guest.stream),
            Some(Err(_)) => {}
            None if is_late() => return Err(Fault::world(format!("process {missing} has not connected"))),
            None => std::thread::sleep(LOOK),
        }
    }
    Ok(Mesh { process, streams })
}

/// The way to the first process, for all threads.
#[derive(Clone)]
struct Line(Arc<Mutex<BufWriter<TcpStream>>>);

impl Line {
    fn lock(&self) -> MutexGuard<'_, BufWriter<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without flushing: what follows an event does that.
    fn write(&self, told: &ToFirst) -> Result<()> {
        write(&mut *self.lock(), told).map_err(|error| lost(&error))
    }

    fn tell(&self, told: &ToFirst) -> Result<()> {
        let mut line = self.lock();
        write(&mut *line, told).and_then(|()| line.flush()).map_err(|error| lost(&error))
    }

    fn answer(&self, talk: u64, answer: &[u8]) -> Result<()> {
        let mut line = self.lock();
        let told = write(&mut *line, &ToFirst::Answer { talk }).and_then(|()| write_bytes(&mut *line, answer));
        told.and_then(|()| line.flush()).map_err(|error| lost(&error))
    }
}

fn lost(why: &std::io::Error) -> Fault {
    Fault::world(format!("the line to the first process is broken: {}", named(why)))
}

/// The first process' checkpoint store, of which a member reads only.
struct Remote {
    line: Line,
    objects: Mutex<Receiver<Option<Vec<u8>>>>,
}

impl Store for Remote {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        // One at a time, so that each gets what it has asked for.
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        self.line.tell(&ToFirst::Want(name.to_owned()))?;
        objects.recv().map_err(|_| Fault::world("the first process is gone"))
    }

    fn put(&self, _name: &str, _content: &[u8]) -> Result<()> {
        Err(Fault::ours("a member writes no checkpoint"))
    }

    fn list(&self, _prefix: &str) -> Result<Vec<Object>> {
        Err(Fault::ours("a member lists no checkpoints"))
    }

    fn delete(&self, _name: &str) -> Result<()> {
        Err(Fault::ours("a member deletes no checkpoint"))
    }
}

/// A member's part of a run.
struct Run {
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    threads: usize,
    aside: Arc<dyn Aside>,
    beat_seconds: f64,
    line: Line,
    starts: Vec<Start>,
    events: Receiver<Event>,
    handed: Receiver<Handed>,
    incoming: Incoming,
}

/// What the first process tells goes to those whom it concerns.
struct Incoming {
    book: Arc<Book>,
    workers: Vec<WorkerLine>,
    objects: Sender<Option<Vec<u8>>>,
    /// Epochs before this one are closed.
    closed: Epoch,
    helper: MakeHelper,
    /// To those who help, by the number of the talk.
    talks: HashMap<u64, Sender<Vec<u8>>>,
    line: Line,
}

impl Run {
    fn new(member: Member, processes: &Processes, process: usize, begin: Begin, line: &TcpStream) -> Result<Self> {
        let Begin { threads, partitions, headers, manifest, checkpoints, .. } = begin;
        let Member { mut graph, metrics, aside, helper } = member;
        name(&mut graph, headers);
        let writer = line.try_clone().map_err(|error| lost(&error))?;
        let line = Line(Arc::new(Mutex::new(BufWriter::with_capacity(1 << 16, writer))));
        let (objects, objects_in) = channel();
        let store = Arc::new(Remote { line: line.clone(), objects: Mutex::new(objects_in) });
        let manifest = manifest.map(|manifest| Manifest::decode(&manifest)).transpose()?;
        let (events, events_in) = channel();
        let (handed, handed_in) = channel();
        let count = processes.addresses.len();
        let first = process * threads;
        let site = Site {
            graph: Arc::new(graph),
            book: Arc::default(),
            metrics,
            events,
            partitions: Arc::new(partitions),
            handed: checkpoints.then_some(handed),
            from: manifest.map(|manifest| Arc::new(Checkpoint::of(store, manifest))),
            worker: first,
            workers: threads * count,
            threads,
            // Folds are not here.
            helpers: None,
        };
        site.book.resume(site.start(), Frontier::default(), count);
        let (workers, starts) = starts(&site, first..first + threads);
        let incoming = Incoming {
            book: site.book.clone(),
            workers,
            objects,
            closed: site.start(),
            helper,
            talks: HashMap::new(),
            line: line.clone(),
        };
        // The workers alone hold what ends with them: the ways on which they tell something.
        let Site { book, metrics, .. } = site;
        let beat_seconds = processes.beat_seconds();
        let (events, handed) = (events_in, handed_in);
        Ok(Self { book, metrics, threads, aside, beat_seconds, line, starts, events, handed, incoming })
    }

    /// Until all workers are done.
    fn go(self, mesh: Mesh, mut from: BufReader<TcpStream>, until: &Book) -> Result<()> {
        let Self { book, metrics, threads, aside, beat_seconds, line, starts, events, handed, mut incoming } = self;
        let (builders, connections) = mesh.builders(threads, &book)?;
        let workers = start(builders, starts)?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (book, line, is_over) = (&*book, &line, &is_over);
            let abort = |fault| book.abort_broken(fault);
            scope.spawn(move || {
                trace::name_thread("the line from the first process");
                guard(book, &"the line from the first process", || incoming.take_all(&mut from, scope));
            });
            let pieces = scope.spawn(move || {
                let pass_on = || pass_on_state(&handed, line, book).unwrap_or_else(abort);
                guard(book, &"what hands over state", pass_on);
            });
            scope.spawn(move || {
                keep_in_touch((threads, beat_seconds), line, book, is_over, until).unwrap_or_else(abort);
            });
            pass_on_events(&events, line, book, &metrics, &*aside).unwrap_or_else(abort);
            for outcome in workers.join() {
                if let Err(panic) = outcome {
                    book.abort(Fault::ours(format!("a worker failed: {panic}")));
                }
            }
            is_over.store(true, Ordering::SeqCst);
            drop(pieces.join());
            let has_failed = book.is_aborted();
            // The first process closes its end when all is told.
            let outcome = match book.take_fault() {
                Some(fault) => line.tell(&ToFirst::failed(&fault)).and(Err(fault)),
                None => line.tell(&ToFirst::Ended),
            };
            connections.end(has_failed);
            if outcome.is_err() {
                drop(line.lock().get_ref().shutdown(Shutdown::Both));
            }
            outcome
        })
    }
}

/// Has the decoders know how records of files name their values.
fn name(graph: &mut Graph, headers: Vec<(u32, u32, Vec<u8>)>) {
    let mut by_source: BTreeMap<u32, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
    for (source, partition, header) in headers {
        by_source.entry(source).or_default().push((partition, header));
    }
    for (source, headers) in by_source {
        let Some(node) = graph.sources.get_mut(source as usize) else { continue };
        let decoder: MakeDecoder = node.decoder.clone();
        node.decoder = Arc::new(move || {
            let mut decoder = decoder();
            headers.iter().for_each(|(partition, header)| decoder.name(*partition, header));
            decoder
        });
    }
}

/// Tells that this process is there, and once all its workers are ready that they are; and looks whether it is asked to end.
fn keep_in_touch(
    (threads, beat_seconds): (usize, f64),
    line: &Line,
    book: &Book,
    is_over: &AtomicBool,
    until: &Book,
) -> Result<()> {
    let (mut beat, mut is_ready) = (Stopwatch::start(), false);
    while !is_over.load(Ordering::SeqCst) {
        if until.is_stopping() {
            book.abort(Fault::world("it was asked to end"));
        }
        if !is_ready && book.mounted() >= threads {
            is_ready = true;
            line.tell(&ToFirst::Mounted { operators: book.cuts.operators(), held: book.held_rows() })?;
        }
        if beat.seconds() > beat_seconds {
            beat = Stopwatch::start();
            line.tell(&ToFirst::Alive)?;
        }
        book.wait(book.bell(), LOOK);
    }
    Ok(())
}

/// Passes on what workers tell, in the order in which they told it.
fn pass_on_events(
    events: &Receiver<Event>,
    line: &Line,
    book: &Book,
    metrics: &Metrics,
    aside: &dyn Aside,
) -> Result<()> {
    let mut watch = Stopwatch::start();
    let tell = || {
        line.write(&ToFirst::Counts(metrics.counts()))?;
        line.tell(&ToFirst::Aside(aside.tell()))
    };
    for event in events {
        let epoch = match event {
            Event::Passed(epoch) => epoch,
            Event::Answers { .. } | Event::Revised { .. } => return Err(Fault::ours("a member has a fold")),
            event => {
                line.write(&ToFirst::Event(event))?;
                continue;
            }
        };
        let heard = book.take_heard();
        if !heard.is_empty() {
            line.write(&ToFirst::Heard(heard))?;
        }
        line.tell(&ToFirst::Passed { epoch, held: book.held_rows() })?;
        if watch.seconds() >= TELL_SECONDS {
            tell()?;
            watch = Stopwatch::start();
        }
    }
    tell()
}

/// Passes on what operators hand over for checkpoints.
fn pass_on_state(handed: &Receiver<Handed>, line: &Line, book: &Book) -> Result<()> {
    for handed in handed {
        match handed {
            Handed::Piece { cut, section, worker, key, bytes, content } => {
                let section = section.to_string();
                let told = match content() {
                    Ok(content) => ToFirst::Piece { cut, section, worker, key, content },
                    Err(fault) => ToFirst::Done { cut, section, failed: Some(fault.to_string()) },
                };
                let outcome = line.tell(&told);
                book.cuts.remove_bytes(bytes);
                outcome?;
            }
            Handed::Done { cut, section, outcome } => {
                let failed = outcome.err().map(|fault| fault.to_string());
                line.tell(&ToFirst::Done { cut, section: section.to_string(), failed })?;
            }
            // The first process alone says where cuts are, and has what manifests say.
            Handed::Cut { .. } | Handed::Word { .. } | Handed::End => {
                return Err(Fault::ours("a member speaks of a manifest"));
            }
        }
    }
    Ok(())
}

/// Answers what the first process asks in a talk, until that has ended.
fn help(talk: u64, helper: &MakeHelper, asked: &Receiver<Vec<u8>>, line: &Line, book: &Book) {
    trace::name_thread("a helper");
    guard(book, &"a helper", || {
        let mut helper = helper();
        for asked in asked {
            match helper.help(&asked) {
                Ok(answer) => {
                    line.answer(talk, &answer).unwrap_or_else(|fault| book.abort_broken(fault));
                }
                Err(fault) => return book.abort(fault),
            }
        }
    });
}

impl Incoming {
    fn take_all<'scope>(&mut self, from: &mut BufReader<TcpStream>, scope: &'scope Scope<'scope, '_>) {
        loop {
            match read(from) {
                Ok(ToMember::Abort) => {
                    return self.book.abort(Fault::world("the first process has ended it at once"));
                }
                Ok(ToMember::Ask { talk }) => {
                    let Ok(asked) = read_bytes(from).map_err(|error| self.book.abort(lost(&error))) else { return };
                    let helper = self.talks.entry(talk).or_insert_with(|| {
                        let (helper, asked) = (self.helper.clone(), channel());
                        let (line, book) = (self.line.clone(), self.book.clone());
                        scope.spawn(move || help(talk, &helper, &asked.1, &line, &book));
                        asked.0
                    });
                    // One that has failed has ended the run.
                    drop(helper.send(asked));
                }
                Ok(ToMember::Leave { talk }) => drop(self.talks.remove(&talk)),
                Ok(told) => self.take(told),
                // After its workers are done, nothing more comes.
                Err(error) => return self.book.abort(lost(&error)),
            }
        }
    }

    fn take(&mut self, told: ToMember) {
        match told {
            ToMember::Bound(binding) => self.book.open(Entry {
                binding: Arc::new(binding),
                offsets: Arc::default(),
                requests: Vec::new(),
                bytes: 0,
                watermark: None,
            }),
            ToMember::Records { worker, epoch, records } => self.order(worker, Order::Epoch(epoch, records)),
            ToMember::End { worker } => self.order(worker, Order::End),
            // One that waits for none is gone.
            ToMember::Object(content) => drop(self.objects.send(content)),
            ToMember::Signals(Signals { cut, abandoned, published }) => {
                if cut > self.book.cuts.cut() {
                    self.book.cuts.announce(cut);
                }
                self.book.cuts.abandon(abandoned);
                while self.closed < published {
                    self.book.close(self.closed);
                    self.closed += 1;
                }
                self.workers.iter().for_each(WorkerLine::wake);
            }
            // The caller has taken the others.
            ToMember::Begin(_) | ToMember::Alive | ToMember::Ask { .. } | ToMember::Leave { .. } | ToMember::Abort => {}
        }
    }

    fn order(&self, worker: usize, order: Order) {
        // There is none but those of this process.
        if let Some(line) = self.workers.get(worker) {
            line.send(order);
        }
    }
}
