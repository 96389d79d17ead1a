//! What the client tells: log lines and deliveries. And whose fault its errors are.

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
}

impl Context {
    fn with<T>(&self, act: impl FnOnce(&mut Heard) -> T) -> T {
        act(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first delivery that failed since this was last asked.
    pub(super) fn take_undelivered(&self) -> Option<(String, RDKafkaErrorCode)> {
        self.with(|heard| heard.undelivered.take())
    }

    /// A fault for `error`: retried if it is known to pass. `doing` names what and where.
    pub(super) fn fault(&self, doing: impl Display, error: KafkaError) -> Fault {
        let why = self.with(|heard| heard.line.take()).map_or(String::new(), |line| format!(" ({line})"));
        let message = format!("cannot {doing}{why}");
        let code = error.rdkafka_error_code();
        if code.is_some_and(passes) { Fault::retry(message) } else { Fault::world(message) }.because(error)
    }
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        // "ERROR" repeats errors, which come below as well.
        if facility != "ERROR" {
            self.with(|heard| heard.line = Some(line.to_owned()));
        }
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

/// Whether an error is known to pass, so that the same call may succeed later. What is not known to pass does not.
pub(super) fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::BrokerNotAvailable
            | Code::ConcurrentTransactions
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::FencedLeaderEpoch
            | Code::KafkaStorageError
            | Code::LeaderNotAvailable
            | Code::ListenerNotFound
            | Code::NetworkException
            | Code::NotController
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotLeaderForPartition
            | Code::OffsetNotAvailable
            | Code::OperationTimedOut
            | Code::QueueFull
            | Code::ReplicaNotAvailable
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::Retry
            | Code::ThrottlingQuotaExceeded
            | Code::UnknownLeaderEpoch
            | Code::WaitingForCoordinator
            | Code::WaitCache
    )
}

/// Whether an error says that a newer producer has the same id.
pub(super) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}
