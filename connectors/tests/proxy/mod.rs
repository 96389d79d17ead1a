//! Stands between Kafka clients and one server: goes away and comes back, is slow, loses a request or its answer.
//!
//! It knows of the protocol only that messages are framed, that answers come in the order of requests, where a request
//! names its kind, and what a server's address looks like: for the server tells clients where to go, and that must be
//! here.
#![allow(dead_code, reason = "those who use it use different parts")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is lost with the connection: the server never sees it.
    Request,
    /// Its answer is lost with the connection: the server has done what it says.
    Answer,
    /// The answer says this code instead of its own, which must be the last field: as in that of `EndTxn`.
    Code(i16),
}

/// The way to a server; it ends with the program.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_away: bool,
    is_listening: bool,
    delay: Duration,
    lose: Option<(i16, Lost)>,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// A proxy for the server at `server`.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            server: server.parse().unwrap(),
            address: listener.local_addr().unwrap(),
            state: Mutex::new(State { is_listening: true, ..State::default() }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(listener));
        Self { shared }
    }

    /// Where clients find it.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// Cuts all connections and refuses new ones.
    pub fn go_away(&self) {
        let mut state = self.shared.state();
        state.is_away = true;
        state.cut();
        drop(state);
        // Wakes the thread that accepts, so that it stops listening.
        drop(TcpStream::connect(self.shared.address));
        self.shared.wait(|state| !state.is_listening);
    }

    /// Takes connections again.
    pub fn come_back(&self) {
        self.shared.state().is_away = false;
        self.shared.changed.notify_all();
        self.shared.wait(|state| state.is_listening);
    }

    /// From now on, requests and answers take so long, together.
    pub fn round_trip(&self, delay: Duration) {
        self.shared.state().delay = delay / 2;
    }

    /// Loses the next request of the kind `api`, or its answer, or what that says.
    pub fn lose(&self, api: i16, lost: Lost) {
        self.shared.state().lose = Some((api, lost));
    }

    /// Whether what was to be lost was; from now on nothing is.
    pub fn has_lost(&self) -> bool {
        self.shared.state().lose.take().is_none()
    }
}

impl State {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        drop(self.changed.wait_while(self.state(), |state| !until(state)).unwrap());
    }

    fn listens(&self, is_listening: bool) {
        self.state().is_listening = is_listening;
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, mut listener: TcpListener) {
        loop {
            let client = listener.accept().map(|(client, _)| client);
            if self.state().is_away {
                drop((client, listener));
                self.listens(false);
                self.wait(|state| !state.is_away);
                listener = TcpListener::bind(self.address).unwrap();
                self.listens(true);
            } else if let Ok(client) = client {
                let _ = self.connect(client);
            }
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.state().open.push(stream.try_clone()?);
        }
        // For each request that was not answered yet, what becomes of its answer.
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let (shared, queue) = (Arc::clone(self), Arc::clone(&asked));
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            shared.pump(from, &to, |frame| {
                let api = i16::from_be_bytes([frame[4], frame[5]]);
                let lost = shared.state().lose.take_if(|(wanted, _)| *wanted == api).map(|(_, lost)| lost);
                queue.lock().unwrap().push_back(lost);
                lost != Some(Lost::Request)
            });
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            shared.pump(server, &client, |frame| {
                shared.readdress(frame);
                let lost = asked.lock().unwrap().pop_front().flatten();
                if let Some(Lost::Code(code)) = lost {
                    frame.splice(frame.len() - 2.., code.to_be_bytes());
                }
                lost != Some(Lost::Answer)
            });
        });
        Ok(())
    }

    /// Moves frames one way until a side ends, or `pass` cuts the connection.
    fn pump(&self, mut from: TcpStream, to: &TcpStream, mut pass: impl FnMut(&mut Vec<u8>) -> bool) {
        let (sender, receiver) = mpsc::channel();
        if let Ok(to) = to.try_clone() {
            thread::spawn(move || deliver(to, &receiver));
        }
        while let Ok(mut frame) = read_frame(&mut from) {
            let due = Instant::now() + self.state().delay;
            if !pass(&mut frame) || send(&sender, due, frame).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// Puts this address where the server says its own: a host's name or number, and its port in four bytes.
    fn readdress(&self, frame: &mut [u8]) {
        let port = |address: SocketAddr| u32::from(address.port()).to_be_bytes();
        for host in [b"127.0.0.1".as_slice(), b"localhost"] {
            let wanted = [host, &port(self.server)].concat();
            let places: Vec<usize> = (0..frame.len().saturating_sub(wanted.len() - 1))
                .filter(|at| frame[*at..].starts_with(&wanted))
                .collect();
            for at in places {
                frame[at + host.len()..at + wanted.len()].copy_from_slice(&port(self.address));
            }
        }
    }
}

fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn send(sender: &Sender<(Instant, Vec<u8>)>, due: Instant, frame: Vec<u8>) -> Result<(), ()> {
    sender.send((due, frame)).map_err(|_| ())
}

/// Frames wait for their time without holding up those behind them.
fn deliver(mut to: TcpStream, frames: &Receiver<(Instant, Vec<u8>)>) {
    for (due, frame) in frames {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&frame).is_err() {
            return;
        }
    }
}
