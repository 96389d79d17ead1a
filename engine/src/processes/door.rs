//! How processes find each other, and know each other.
//!
//! Who connects says which process it is, what for, and what it runs; each proves to the other that it knows the secret, by a keyed
//! hash (BLAKE3) of numbers that both have drawn and of all that was said. So a stranger learns nothing and can do nothing but wait
//! its turn; who can read or change what goes over the network can do both: it has to be one's own.

use std::io::Write;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Processes;
use super::wire::{read_at_most, write};
use crate::fault::{Fault, Result};

/// What is said before both know each other is at most so long.
const GREETING_BYTES_MAX: u64 = 4096;
/// How long the other may take for a word of it.
const GREETING_WAIT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// A member's line to the first process.
    Line,
    /// Rows of a run.
    Rows { run: u64 },
}

/// The first word.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    process: usize,
    processes: usize,
    purpose: Purpose,
    identity: String,
    drawn: [u8; 32],
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    drawn: [u8; 32],
    proof: [u8; 32],
}

/// The last word.
type Verdict = std::result::Result<(), String>;

/// Where a process takes connections of others.
pub struct Door(TcpListener);

/// Someone who was let in.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) process: usize,
    pub(super) stream: TcpStream,
}

impl Door {
    /// Opens that of process number `process`. An address that all the world can reach is refused: what goes through is not encrypted.
    pub fn open(processes: &Processes, process: usize) -> Result<Self> {
        let address = &processes.addresses[process];
        let unusable = |why: &dyn std::fmt::Display| {
            Fault::world(format!("process {process} cannot take connections at {address}: {why}"))
        };
        let all: Vec<_> = address.to_socket_addrs().map_err(|error| unusable(&error))?.collect();
        if let Some(public) = all.iter().find(|address| !is_private(address.ip())) {
            return Err(unusable(&format!("{} is reached by all the world, or by any network", public.ip())));
        }
        let listener = TcpListener::bind(all.as_slice()).map_err(|error| unusable(&error))?;
        Self::of(listener)
    }

    /// Where a listener takes them already; who can reach it is not looked at.
    pub fn of(listener: TcpListener) -> Result<Self> {
        let unusable = |error: std::io::Error| Fault::world("a process cannot take connections").because(error);
        listener.set_nonblocking(true).map_err(unusable)?;
        Ok(Self(listener))
    }

    /// Who comes next, if someone is there. Who is not let in is told why, and so is the caller; of who says nothing, or goes away,
    /// nothing is said.
    pub(super) fn next(
        &self,
        processes: &Processes,
        expects: impl FnOnce(usize, Purpose) -> Verdict,
    ) -> Option<Result<Guest, Option<String>>> {
        let (stream, from) = match self.0.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(Err(None)),
        };
        let told = |why| format!("{from} was not let in: {why}");
        Some(match greet(stream, processes, expects) {
            Ok(Ok(guest)) => Ok(guest),
            Ok(Err(why)) => Err(Some(told(why))),
            Err(_) => Err(None),
        })
    }
}

/// Whether an address can be reached from a network of one's own only.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

fn key(processes: &Processes) -> [u8; 32] {
    blake3::derive_key("millstream 2026 processes of a run", processes.secret.as_bytes())
}

fn proof(processes: &Processes, who: u8, hello: &Hello, welcomes: &[u8; 32]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&key(processes));
    hasher.update(&[who]).update(welcomes);
    hasher.update(&postcard::to_stdvec(hello).expect("plain data can be written"));
    hasher.finalize()
}

/// Numbers that nobody can foretell.
pub(super) fn draw() -> [u8; 32] {
    let mut drawn = [0; 32];
    // Keyed by the system's randomness.
    for bytes in drawn.chunks_exact_mut(8) {
        use std::hash::{BuildHasher, Hasher};
        bytes.copy_from_slice(&std::hash::RandomState::new().build_hasher().finish().to_le_bytes());
    }
    drawn
}

fn settings(stream: &TcpStream, wait: Option<Duration>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(wait)?;
    stream.set_write_timeout(wait)
}

fn greet(
    mut stream: TcpStream,
    processes: &Processes,
    expects: impl FnOnce(usize, Purpose) -> Verdict,
) -> std::io::Result<Result<Guest, String>> {
    settings(&stream, Some(GREETING_WAIT))?;
    let hello: Hello = read_at_most(&mut stream, GREETING_BYTES_MAX)?;
    let drawn = draw();
    let welcome = Welcome { drawn, proof: *proof(processes, 0, &hello, &drawn).as_bytes() };
    write(&mut stream, &welcome)?;
    let proved: [u8; 32] = read_at_most(&mut stream, GREETING_BYTES_MAX)?;
    // Compared in constant time.
    let verdict = if proof(processes, 1, &hello, &drawn) != blake3::Hash::from_bytes(proved) {
        Err("it does not know the secret".to_owned())
    } else if hello.identity != processes.identity {
        Err(format!("it runs {}, and here is {}", hello.identity, processes.identity))
    } else if hello.processes != processes.addresses.len() || hello.process >= hello.processes {
        Err(format!(
            "it is process {} of {}, and here are {}",
            hello.process,
            hello.processes,
            processes.addresses.len()
        ))
    } else {
        expects(hello.process, hello.purpose)
    };
    write(&mut stream, &verdict)?;
    settings(&stream, None)?;
    Ok(verdict.map(|()| Guest { process: hello.process, stream }))
}

/// Why one is not connected.
pub(super) enum Missed {
    /// Nobody is there yet, or it went away.
    Absent(String),
    /// It was refused, or is someone else: trying again changes nothing.
    Refused(String),
}

/// Connects process number `from` with number `to`.
pub(super) fn dial(processes: &Processes, from: usize, to: usize, purpose: Purpose) -> Result<TcpStream, Missed> {
    let address = &processes.addresses[to];
    let name = processes.name(to);
    let absent = |error: std::io::Error| Missed::Absent(format!("{name}: {error}"));
    let all: Vec<_> = address.to_socket_addrs().map_err(absent)?.collect();
    if all.iter().any(|address| !is_private(address.ip())) {
        return Err(Missed::Refused(format!("{name} is in no network of one's own")));
    }
    let mut stream = TcpStream::connect(all.as_slice()).map_err(absent)?;
    settings(&stream, Some(GREETING_WAIT)).map_err(absent)?;
    let hello = Hello {
        process: from,
        processes: processes.addresses.len(),
        purpose,
        identity: processes.identity.clone(),
        drawn: draw(),
    };
    write(&mut stream, &hello).map_err(absent)?;
    let welcome: Welcome = read_at_most(&mut stream, GREETING_BYTES_MAX).map_err(absent)?;
    if proof(processes, 0, &hello, &welcome.drawn) != blake3::Hash::from_bytes(welcome.proof) {
        drop(stream.shutdown(Shutdown::Both));
        return Err(Missed::Refused(format!("{name} does not know the secret")));
    }
    write(&mut stream, proof(processes, 1, &hello, &welcome.drawn).as_bytes()).map_err(absent)?;
    stream.flush().map_err(absent)?;
    let verdict: Verdict = read_at_most(&mut stream, GREETING_BYTES_MAX).map_err(absent)?;
    verdict.map_err(|why| Missed::Refused(format!("{name} refuses: {why}")))?;
    settings(&stream, None).map_err(absent)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(address: String, secret: &str, identity: &str) -> Processes {
        Processes {
            addresses: vec![address.clone(), address],
            secret: secret.to_owned(),
            identity: identity.to_owned(),
            patience_seconds: 20.0,
        }
    }

    /// A door, and where it is.
    fn door() -> (Door, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        (Door::of(listener).expect("it listens"), address)
    }

    /// What the door says of who comes next.
    fn comes(door: &Door, processes: &Processes) -> Result<Guest, Option<String>> {
        loop {
            let expects = |_, purpose| if purpose == Purpose::Line { Ok(()) } else { Err("not now".to_owned()) };
            if let Some(outcome) = door.next(processes, expects) {
                return outcome;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_who_knows_the_secret_and_runs_the_same_is_let_in() {
        let cases = [
            ("a secret", "a", Purpose::Line, None, None),
            ("another", "a", Purpose::Line, Some("does not know the secret"), Some("does not know the secret")),
            ("a secret", "b", Purpose::Line, Some("it runs b, and here is a"), Some("it runs b, and here is a")),
            ("a secret", "a", Purpose::Rows { run: 7 }, Some("not now"), Some("not now")),
        ];
        for (secret, identity, purpose, at_door, at_guest) in cases {
            let (door, address) = door();
            let guest = processes(address.clone(), secret, identity);
            let guest = std::thread::spawn(move || dial(&guest, 1, 0, purpose));
            let seen = comes(&door, &processes(address, "a secret", "a")).map(|guest| guest.process);
            let found = guest.join().expect("it does not panic");
            match at_door {
                None => assert_eq!(seen, Ok(1)),
                // Who finds a stranger at the door goes, and says nothing more.
                Some(_) if secret == "another" => assert!(seen.is_err()),
                Some(why) => assert!(seen.clone().is_err_and(|told| told.is_some_and(|told| told.contains(why)))),
            }
            match (at_guest, found) {
                (None, Ok(_)) => {}
                (Some(why), Err(Missed::Refused(told))) => assert!(told.contains(why), "{told}"),
                (_, Err(Missed::Absent(told) | Missed::Refused(told))) => panic!("{told}"),
                (_, Ok(_)) => panic!("it was let in"),
            }
        }
    }

    #[test]
    fn a_stranger_who_knows_the_words_but_not_the_secret_is_not_let_in() {
        let (door, address) = door();
        let own = processes(address.clone(), "a secret", "a");
        let stranger = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(&address).expect("it listens");
            let (identity, drawn) = ("a".to_owned(), [0; 32]);
            let hello = Hello { process: 1, processes: 2, purpose: Purpose::Line, identity, drawn };
            write(&mut stream, &hello).expect("it listens");
            let welcome: Welcome = read_at_most(&mut stream, GREETING_BYTES_MAX).expect("it answers");
            // What it has heard is no proof of its own.
            write(&mut stream, &welcome.proof).expect("it listens");
            read_at_most::<Verdict>(&mut stream, GREETING_BYTES_MAX).expect("a verdict")
        });
        let why = comes(&door, &own).expect_err("not let in").expect("and told why");
        assert!(why.contains("does not know the secret"), "{why}");
        assert!(stranger.join().expect("it does not panic").is_err());
    }

    #[test]
    fn what_is_no_greeting_is_not_let_in() {
        for said in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0xff; 64], &[], &[3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]] {
            let (door, address) = door();
            let own = processes(address.clone(), "a secret", "a");
            let mut stream = TcpStream::connect(&address).expect("it listens");
            stream.write_all(said).expect("it listens");
            stream.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(comes(&door, &own).map(|guest| guest.process), Err(None), "{said:?}");
        }
    }

    #[test]
    fn an_address_for_all_the_world_is_refused() {
        for (address, is_private_one) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.168.0.1", true),
            ("172.20.0.1", true),
            ("169.254.1.1", true),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("8.8.8.8", false),
            ("172.40.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(address.parse().expect("an address")), is_private_one, "{address}");
        }
        let fault = Door::open(&processes("0.0.0.0:0".to_owned(), "", ""), 0).err().expect("refused");
        assert!(fault.message.contains("all the world"), "{fault}");
    }
}
