//! What each of Kafka's error codes means, whichever call it ends: one table.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What a code says about the request that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Meaning {
    /// Refused for now: nothing was done, and the same request may be granted later.
    Passes,
    /// Not answered in time: it may have been done, or may still be.
    Unanswered,
    /// A newer producer has the same id.
    Fenced,
    /// Refused for good: nothing was done, and the same request will be refused again.
    Refused,
    /// The client or the log is not what it must be: nothing is known of what was done.
    Broken,
    /// No code of this table.
    Unknown,
}

/// What a code means.
#[expect(clippy::too_many_lines, reason = "one line for each code")]
pub(super) fn meaning(code: RDKafkaErrorCode) -> Meaning {
    use RDKafkaErrorCode as Code;
    match code {
        // The connection, the leader, the coordinator or the quota: all of them come back.
        Code::AllBrokersDown
        | Code::BrokerNotAvailable
        | Code::BrokerTransportFailure
        | Code::ConcurrentTransactions
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::DestroyBroker
        | Code::EligibleLeadersNotAvailable
        | Code::FencedLeaderEpoch
        | Code::FetchSessionIdNotFound
        | Code::InvalidFetchSessionEpoch
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
        | Code::PreferredLeaderNotAvailable
        | Code::PreviousInProgress
        | Code::QueueFull
        | Code::RebootstrapRequired
        | Code::ReplicaNotAvailable
        | Code::Resolve
        | Code::Retry
        | Code::StaleBrokerEpoch
        | Code::StaleControllerEpoch
        | Code::ThrottlingQuotaExceeded
        | Code::UnknownLeaderEpoch
        | Code::UnstableOffsetCommit
        | Code::WaitCache
        | Code::WaitingForCoordinator => Meaning::Passes,

        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            Meaning::Unanswered
        }

        Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced => Meaning::Fenced,

        // Rights and passwords.
        Code::Authentication
        | Code::ClusterAuthorizationFailed
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenExpired
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::GroupAuthorizationFailed
        | Code::IllegalSASLState
        | Code::InvalidPrincipalType
        | Code::PrincipalDeserializationFailure
        | Code::SaslAuthenticationFailed
        | Code::SecurityDisabled
        | Code::SSL
        | Code::TopicAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnacceptableCredential
        | Code::UnsupportedSASLMechanism
        // What was asked for, or how.
        | Code::AutoOffsetReset
        | Code::BadCompression
        | Code::DuplicateResource
        | Code::ElectionNotNeeded
        | Code::FeatureUpdateFailed
        | Code::InconsistentVoterSet
        | Code::InvalidArgument
        | Code::InvalidCommitOffsetSize
        | Code::InvalidConfig
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidPartitions
        | Code::InvalidRecord
        | Code::InvalidReplicaAssignment
        | Code::InvalidReplicationFactor
        | Code::InvalidRequest
        | Code::InvalidRequiredAcks
        | Code::InvalidTimestamp
        | Code::InvalidTopic
        | Code::InvalidTransactionTimeout
        | Code::InvalidUpdateVersion
        | Code::ISRInsufficient
        | Code::KeySerialization
        | Code::MessageBatchTooLarge
        | Code::MessageSizeTooLarge
        | Code::NoEnt
        | Code::NoOffset
        | Code::NoReassignmentInProgress
        | Code::NotConfigured
        | Code::NotImplemented
        | Code::OffsetMetadataTooLarge
        | Code::OffsetOutOfRange
        | Code::OperationNotAttempted
        | Code::PartitionEOF
        | Code::PolicyViolation
        | Code::PurgeQueue
        | Code::ReassignmentInProgress
        | Code::ResourceNotFound
        | Code::TelemetryTooLarge
        | Code::TopicAlreadyExists
        | Code::TopicDeletionDisabled
        | Code::UnknownBroker
        | Code::UnknownPartition
        | Code::UnknownSubscriptionId
        | Code::UnknownTopic
        | Code::UnknownTopicId
        | Code::UnknownTopicOrPartition
        | Code::UnsupportedAssignor
        | Code::UnsupportedCompressionType
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedVersion
        | Code::ValueSerialization
        // Consumer groups, which nothing here joins.
        | Code::AssignmentLost
        | Code::AssignPartitions
        | Code::ExistingSubscription
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::GroupIdNotFound
        | Code::GroupMaxSizeReached
        | Code::GroupSubscribedToTopic
        | Code::IllegalGeneration
        | Code::InconsistentGroupProtocol
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::MemberIdRequired
        | Code::NonEmptyGroup
        | Code::PollExceeded
        | Code::RebalanceInProgress
        | Code::RevokePartitions
        | Code::StaleMemberEpoch
        | Code::UnknownGroup
        | Code::UnknownMemberId
        | Code::UnreleasedInstanceId => Meaning::Refused,

        // The client itself.
        Code::Application
        | Code::BadMessage
        | Code::BrokerDestroy
        | Code::Conflict
        | Code::CriticalSystemResource
        | Code::Fail
        | Code::Fatal
        | Code::FileSystem
        | Code::InProgress
        | Code::Interrupted
        | Code::InvalidDifferentRecord
        | Code::InvalidType
        | Code::KeyDeserialization
        | Code::NodeUpdate
        | Code::Noop
        | Code::NoError
        | Code::Outdated
        | Code::Partial
        | Code::PurgeInflight
        | Code::ReadOnly
        | Code::State
        | Code::Underflow
        | Code::UnknownProtocol
        | Code::ValueDeserialization
        // What the log or the coordinator knows of the producer is not what the producer knows.
        | Code::DuplicateSequenceNumber
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::InvalidProducerIdMapping
        | Code::InvalidTransactionalState
        | Code::LogDirNotFound
        | Code::LogTruncation
        | Code::OutOfOrderSequenceNumber
        | Code::TransactionCoordinatorFenced
        | Code::UnknownProducerId
        // The server says that it does not know either.
        | Code::Unknown => Meaning::Broken,

        // Codes of servers that are newer than the client, and the client's own marks.
        _ => Meaning::Unknown,
    }
}

/// The code of an error. One that the client has no name for is none: to ask for it would be undefined. (A transaction
/// tells its code's name as well; where a message tells a code, it is asked for by the client before anybody can know.)
pub(super) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(error) if is_nameless(&error.name()) => None,
        error => error.rdkafka_error_code(),
    }
}

/// What the client calls a code that it has no name for: `ERR_125?`.
fn is_nameless(name: &str) -> bool {
    name.starts_with("ERR_") && name.ends_with('?')
}

/// What the error is called, where its code is not in the table.
pub(super) fn unknown(error: &KafkaError) -> Option<String> {
    match (code(error), error) {
        (None, KafkaError::Transaction(error)) => Some(error.name()),
        (Some(code), _) if meaning(code) == Meaning::Unknown => Some(format!("{code:?}")),
        _ => None,
    }
}

/// Whether the same question may be answered later. Only for calls that may be made twice: never for a transaction.
pub(super) fn passes(code: RDKafkaErrorCode) -> bool {
    matches!(meaning(code), Meaning::Passes | Meaning::Unanswered)
}

/// What an error means for the transaction that it interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The very same call may be made again.
    Again,
    /// The transaction can be aborted, and then nothing has happened.
    Abort,
    /// A newer producer has taken over.
    Fenced,
    /// Nobody knows: a time-out included, for what was sent may still arrive.
    Open,
}

/// What an error means while nothing has been committed. Anything unknown leaves the outcome open.
pub(super) fn classify(error: &KafkaError) -> Verdict {
    let meaning = code(error).map_or(Meaning::Unknown, meaning);
    match (meaning, error) {
        (Meaning::Fenced, _) => Verdict::Fenced,
        (Meaning::Unanswered | Meaning::Unknown, _) => Verdict::Open,
        (_, KafkaError::Transaction(error)) if error.is_fatal() => Verdict::Open,
        // The client knows the transaction: it says that an abort undoes it, whatever it was.
        (_, KafkaError::Transaction(error)) if error.txn_requires_abort() => Verdict::Abort,
        (_, KafkaError::Transaction(error)) if error.is_retriable() => Verdict::Again,
        // Refused by the client or a server, message by message: the transaction itself is intact.
        (Meaning::Passes | Meaning::Refused, KafkaError::MessageProduction(_)) => Verdict::Abort,
        _ => Verdict::Open,
    }
}

/// What an error of a commit means: the request to commit may have arrived, so an abort undoes nothing for certain.
pub(super) fn classify_commit(error: &KafkaError) -> Verdict {
    match classify(error) {
        Verdict::Abort => Verdict::Open,
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    /// All that the client has a name for; its marks for the ends of its lists are none.
    fn codes() -> Vec<RDKafkaErrorCode> {
        let marks = [RDKafkaErrorCode::Begin, RDKafkaErrorCode::End, RDKafkaErrorCode::EndAll];
        let named = (-1000..1000).filter_map(|number: i32| RDKafkaRespErr::try_from(number).ok());
        named.map(RDKafkaErrorCode::from).filter(|code| !marks.contains(code)).collect()
    }

    #[test]
    fn every_code_has_a_meaning() {
        let codes = codes();
        assert!(codes.len() > 150, "{}", codes.len());
        let unknown: Vec<_> = codes.iter().filter(|code| meaning(**code) == Meaning::Unknown).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(meaning(RDKafkaErrorCode::EndAll), Meaning::Unknown);
    }

    #[test]
    fn every_code_has_one_verdict() {
        for code in codes() {
            let (verdict, retry) = match meaning(code) {
                Meaning::Passes => (Verdict::Abort, true),
                Meaning::Refused => (Verdict::Abort, false),
                Meaning::Unanswered => (Verdict::Open, true),
                Meaning::Fenced => (Verdict::Fenced, false),
                Meaning::Broken | Meaning::Unknown => (Verdict::Open, false),
            };
            assert_eq!(classify(&KafkaError::MessageProduction(code)), verdict, "{code:?}");
            assert_eq!(passes(code), retry, "{code:?}");
            // Whatever does not concern a message says nothing of the transaction.
            let open = if verdict == Verdict::Fenced { Verdict::Fenced } else { Verdict::Open };
            for error in [KafkaError::Global(code), KafkaError::Flush(code)] {
                assert_eq!((classify(&error), classify_commit(&error)), (open, open), "{error:?}");
            }
            assert_ne!(classify_commit(&KafkaError::MessageProduction(code)), Verdict::Abort, "{code:?}");
        }
        for error in [KafkaError::Canceled, KafkaError::NoMessageReceived] {
            assert_eq!(classify(&error), Verdict::Open);
        }
    }

    /// Which of the servers' codes clients may retry, as Kafka's protocol guide lists them.
    #[test]
    fn what_passes_is_what_the_protocol_calls_retriable() {
        use RDKafkaErrorCode as Code;
        let retriable = [
            2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 70, 71, 72, 74, 75, 78, 80, 83, 88, 89, 97, 100, 129,
        ];
        // These pass, for they tell of a server that starts, stops or is behind.
        let more = [Code::BrokerNotAvailable, Code::StaleBrokerEpoch, Code::StaleControllerEpoch];
        // These do not: a record that arrives broken was made so, topics are there before they are used, and a name
        // that cannot be read will not be read later.
        let fewer = [
            Code::InvalidMessage,
            Code::PrincipalDeserializationFailure,
            Code::UnknownTopicOrPartition,
            Code::UnknownTopicId,
        ];
        for code in codes().into_iter().filter(|code| *code as i32 > 0) {
            let expected = more.contains(&code) || (retriable.contains(&(code as i32)) && !fewer.contains(&code));
            assert_eq!(passes(code), expected, "{code:?}");
        }
    }
}
