//! What the client tells: log lines, deliveries, lost connections. And faults that say so.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_engine::Fault;
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use super::errors::{self, passes};

/// Listens to one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The last line it logged: it says why, where the error itself only says "timed out".
    line: Option<String>,
    /// The first message that could not be delivered, and why.
    undelivered: Option<(String, RDKafkaErrorCode)>,
    /// A request went unanswered; the client sends such requests again by itself, and tells nobody.
    lost: bool,
}

impl Context {
    fn with<T>(&self, act: impl FnOnce(&mut Heard) -> T) -> T {
        act(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first delivery that failed since this was last asked.
    pub(super) fn take_undelivered(&self) -> Option<(String, RDKafkaErrorCode)> {
        self.with(|heard| heard.undelivered.take())
    }

    /// Whether a request went unanswered since this was last asked.
    pub(super) fn take_lost(&self) -> bool {
        self.with(|heard| std::mem::take(&mut heard.lost))
    }

    /// A fault for `error`: retried if it is known to pass. `doing` names what and where.
    pub(super) fn fault(&self, doing: impl Display, error: KafkaError) -> Fault {
        let why = self.with(|heard| heard.line.take()).map_or(String::new(), |line| format!(" ({line})"));
        let message = format!("cannot {doing}{why}");
        let fault = match errors::code(&error) {
            Some(code) if passes(code) => Fault::retry(message),
            _ => Fault::world(match errors::unknown(&error) {
                Some(name) => format!("{message} (unknown {name})"),
                None => message,
            }),
        };
        fault.because(error)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // A connection that could not be made has lost nothing. (The client tells of the same failure of the same
        // connection once in 30 s.)
        let lost = facility == "REQTMOUT" || (facility == "FAIL" && !line.contains("Connect to "));
        // "ERROR" repeats errors, which come below as well.
        let says_why = level as i32 <= RDKafkaLogLevel::Error as i32 && facility != "ERROR";
        self.with(|heard| {
            heard.lost |= lost;
            if lost || says_why {
                heard.line = Some(line.to_owned());
            }
        });
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "1/1 brokers are down": another line has said why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.with(|heard| heard.line = Some(reason.to_owned()));
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            let place = format!("topic `{}` partition {}", message.topic(), message.partition());
            self.with(|heard| {
                heard.undelivered.get_or_insert((place, code));
            });
        }
    }
}
