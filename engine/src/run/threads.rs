//! A thread for each part.

use std::sync::Mutex;
use std::time::Duration;

use timely::worker::Worker;

use crate::binder::LOOK;
use crate::book::Book;
use crate::fault::{Fault, Result};
use crate::intake::READ_WAIT;
use crate::publish::Publisher;
use crate::run::worker::{Mounted, Start, clear};
use crate::run::{Parts, Turn, guard};
use crate::trace;

/// A worker with nothing to do looks up this often, should a wake-up be lost.
const PARK: Duration = Duration::from_millis(20);

/// Runs until every part is done.
pub(super) fn run(parts: Parts) -> Result<()> {
    let Parts { book, readers, mut binder, starts, mut publisher, writer } = parts;
    let workers = starts.len();
    let starts = Mutex::new(starts.into_iter().map(Some).collect::<Vec<_>>());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let start = starts.lock().expect("no worker panics while it starts")[worker.index()].take();
        work(worker, start.expect("each worker starts once"));
    })
    .map_err(|error| Fault::ours(format!("the workers did not start: {error}")))?;
    std::thread::scope(|scope| {
        let book = &*book;
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
        for outcome in guards.join() {
            if let Err(panic) = outcome {
                book.abort(Fault::ours(format!("a worker failed: {panic}")));
            }
        }
        book.stop();
    });
    book.take_fault().map_or(Ok(()), Err)
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
