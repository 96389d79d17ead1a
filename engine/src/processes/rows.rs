//! The connections over which workers of different processes exchange rows.
//!
//! Timely's threads at the ends of a connection panic when it breaks. Here a broken one ends the run with a fault that says so, and
//! those threads end unheard once the workers are gone.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};

use crate::book::Book;
use crate::fault::{Fault, Result};

/// Timely's last word on a connection: a header of nothing but zeros.
const LAST_WORD_BYTES: usize = 48;

/// The connections of a process, by the other's number; none with itself.
pub(crate) struct Mesh {
    pub(super) process: usize,
    pub(super) streams: Vec<Option<TcpStream>>,
}

impl Mesh {
    /// What timely makes this process' workers of.
    pub(crate) fn builders(self, threads: usize, book: &Arc<Book>) -> Result<(Vec<AllocatorBuilder>, Connections)> {
        let failed = |error: io::Error| Fault::world("the connections between processes").because(error);
        let Self { process, streams } = self;
        let kept =
            streams.iter().flatten().map(TcpStream::try_clone).collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let over = Arc::new(Over::default());
        let rows = |(other, stream): (usize, Option<TcpStream>)| {
            stream.map(|stream| Rows { stream, other, zeros: 0, over: over.clone(), book: book.clone() })
        };
        let rows = streams.into_iter().enumerate().map(rows).collect();
        let hooks = Hooks::default();
        let own = ProcessBuilder::new_typed_vector(threads, hooks.refill.clone(), None);
        let (builders, guard) =
            initialize_networking_from_sockets(own, rows, process, threads, hooks).map_err(failed)?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok((builders, Connections { guard, streams: kept, over }))
    }
}

/// The connections of a run that goes on.
pub(crate) struct Connections {
    guard: CommsGuard,
    streams: Vec<TcpStream>,
    over: Arc<Over>,
}

impl Connections {
    /// To be called when all workers of this process are gone. What they have sent has arrived then, unless the run has failed.
    pub(crate) fn end(self, has_failed: bool) {
        self.over.set();
        if has_failed {
            for stream in &self.streams {
                drop(stream.shutdown(Shutdown::Both));
            }
            // Its threads end by themselves; waiting for them would panic where a connection broke.
            std::mem::forget(self.guard);
        } else {
            drop(self.guard);
        }
    }
}

/// Whether the workers of a process are gone.
#[derive(Default)]
struct Over {
    is_over: Mutex<bool>,
    told: Condvar,
}

impl Over {
    fn set(&self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    fn wait(&self) {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.told.wait_while(is_over, |is_over| !*is_over));
    }
}

/// A connection with another process.
struct Rows {
    stream: TcpStream,
    other: usize,
    /// How many zeros were read last.
    zeros: usize,
    over: Arc<Over>,
    book: Arc<Book>,
}

impl Rows {
    fn broken(&self, why: &dyn std::fmt::Display) {
        let fault = format!("the connection with process {} is broken: {why}", self.other);
        self.book.abort_broken(Fault::world(fault));
    }
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let why = match self.stream.read(buffer) {
            Ok(0) if self.zeros >= LAST_WORD_BYTES => return Ok(0),
            Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
            Ok(count) => {
                let zeros = buffer[..count].iter().rev().take_while(|byte| **byte == 0).count();
                self.zeros = if zeros == count { self.zeros + count } else { zeros };
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        self.broken(&why);
        // The workers would panic if this thread ended before them.
        self.over.wait();
        std::panic::resume_unwind(Box::new("a connection is broken"));
    }
}

impl Write for Rows {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.stream.write(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.broken(&error);
                // The run has failed, and nobody is there to read it.
                Ok(buffer.len())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Rows {
    fn try_clone(&self) -> io::Result<Self> {
        let (over, book) = (self.over.clone(), self.book.clone());
        Ok(Self { stream: self.stream.try_clone()?, other: self.other, zeros: self.zeros, over, book })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // A broken one is shut already.
        drop(self.stream.shutdown(how));
        Ok(())
    }
}
