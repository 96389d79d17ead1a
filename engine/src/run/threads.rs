//! A thread for each part.

use std::sync::Mutex;
use std::time::Duration;

use timely::communication::{AllocatorBuilder, WorkerGuards};
use timely::worker::Worker;
use timely::{CommunicationConfig, WorkerConfig};

use crate::binder::LOOK;
use crate::book::Book;
use crate::fault::{Fault, Result};
use crate::intake::READ_WAIT;
use crate::processes::{Line, Ways};
use crate::publish::Publisher;
use crate::run::worker::{Mounted, Start, clear};
use crate::run::{Parts, Turn, guard};
use crate::trace;

/// A worker with nothing to do looks up this often, should a wake-up be lost.
const PARK: Duration = Duration::from_millis(20);

/// Runs until every part is done.
pub(super) fn run(parts: Parts) -> Result<()> {
    let Parts { book, readers, mut binder, starts, lines, mut publisher, writer } = parts;
    let (builders, lines, connections) = match lines {
        None => (CommunicationConfig::Process(starts.len()).try_build().map_err(not_started)?.0, Vec::new(), None),
        Some(lines) => match lines.gather()? {
            Some((lines, mesh)) => {
                let ways = lines.into_iter().map(Line::ways).collect::<Result<Vec<_>>>()?;
                let (builders, connections) = mesh.builders(starts.len(), &book)?;
                (builders, ways, Some(connections))
            }
            // It was asked to end before it began.
            None => return book.take_fault().map_or(Ok(()), Err),
        },
    };
    let workers = start(builders, starts)?;
    std::thread::scope(|scope| {
        let book = &*book;
        for Ways { there, back } in lines {
            scope.spawn(move || guard(book, &"a line to a member", there));
            scope.spawn(move || guard(book, &"a line from a member", back));
        }
        for mut reader in readers {
            scope.spawn(move || {
                let name = format!("the reader of source {}", reader.name());
                trace::name_thread(&name);
                guard(book, &name, || take_turns(book, READ_WAIT, || trace::span("read", || reader.turn())));
            });
        }
        scope.spawn(move || {
            trace::name_thread("the binder");
            guard(book, &"the binder", || take_turns(book, LOOK, || trace::span("bind", || binder.turn())));
        });
        if let Some(mut writer) = writer {
            scope.spawn(move || {
                trace::name_thread("the checkpoint writer");
                guard(book, &"the checkpoint writer", || {
                    take_turns(book, LOOK, || trace::span("write", || writer.turn()));
                });
            });
        }
        trace::name_thread("the publisher");
        guard(book, &"the publisher", || publish(book, &mut publisher));
        for outcome in workers.join() {
            if let Err(panic) = outcome {
                book.abort(Fault::ours(format!("a worker failed: {panic}")));
            }
        }
        if let Some(connections) = connections {
            connections.end(book.is_aborted());
        }
        book.stop();
    });
    book.take_fault().map_or(Ok(()), Err)
}

fn not_started(why: impl std::fmt::Display) -> Fault {
    Fault::ours(format!("the workers did not start: {why}"))
}

/// Starts this process' workers.
pub(crate) fn start(builders: Vec<AllocatorBuilder>, starts: Vec<Start>) -> Result<WorkerGuards<()>> {
    let first = starts.first().map_or(0, |start| start.site.worker);
    let starts = Mutex::new(starts.into_iter().map(Some).collect::<Vec<_>>());
    let run = move |worker: &mut Worker| {
        let start = starts.lock().expect("no worker panics while it starts")[worker.index() - first].take();
        work(worker, start.expect("each worker starts once"));
    };
    timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), run).map_err(not_started)
}

/// Takes turns until the part is done. One that waits looks again when another part rings, and this often.
fn take_turns(book: &Book, look: Duration, mut turn: impl FnMut() -> Turn) {
    loop {
        let heard = book.bell();
        match turn() {
            Turn::Worked => {}
            Turn::Waits => book.wait(heard, look),
            Turn::Pauses(pause) => book.pause(pause),
            Turn::Done => return,
        }
    }
}

/// The publisher waits for what the workers tell, not for the bell.
fn publish(book: &Book, publisher: &mut Publisher) {
    loop {
        match trace::span("publish", || publisher.turn()) {
            Turn::Worked => {}
            Turn::Waits => publisher.wait(),
            Turn::Pauses(pause) => book.pause(pause),
            Turn::Done => return,
        }
    }
}

fn work(worker: &mut Worker, start: Start) {
    let book = start.site.book.clone();
    trace::name_thread(&format!("worker {}", worker.index()));
    let mounted = guard(&book, &"a worker", || Mounted::new(worker, start));
    match mounted {
        Some(Ok(mut mounted)) => {
            guard(&book, &"a worker", || while mounted.turn(worker, PARK) != Turn::Done {});
        }
        Some(Err(fault)) => book.abort(fault),
        None => {}
    }
    clear(worker);
}
