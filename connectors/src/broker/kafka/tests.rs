use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Err};

use super::*;
use crate::broker::{Append, Failure, Message};

fn options(servers: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("bootstrap.servers".to_owned(), servers.to_owned())])
}

fn append(topic: &str, text: &str) -> [Append; 1] {
    let message = Message { value: Some(text.as_bytes().to_vec()), timestamp_ms: 1, ..Message::default() };
    [Append { topic: topic.to_owned(), messages: vec![message] }]
}

fn start() -> [Position; 1] {
    [Position { partition: 0, offset: 0 }]
}

/// What a server's error means for an append, and whether the producer can go on. Checked on the mock cluster.
#[test]
fn errors_are_classified() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let broker = Kafka::connect(&options(&cluster.bootstrap_servers())).unwrap();
    // (request, error, works all the same, may be retried, producer can go on); the mock cluster does not let a
    // producer go on after a refused message, as servers do.
    let cases = [
        (Api::Produce, Err::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, true, false, Some(true)),
        (Api::Produce, Err::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, false, false, None),
        (Api::Produce, Err::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, false, false, Some(false)),
        (Api::AddPartitionsToTxn, Err::RD_KAFKA_RESP_ERR_NOT_COORDINATOR, true, false, Some(true)),
        (Api::AddPartitionsToTxn, Err::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, false, false, Some(true)),
        (
            Api::AddPartitionsToTxn,
            Err::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            false,
            false,
            Some(false),
        ),
        (Api::EndTxn, Err::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, true, false, Some(true)),
        (Api::EndTxn, Err::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, false, false, Some(false)),
        (Api::EndTxn, Err::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, false, false, Some(false)),
    ];
    for (request, error, works, retry, goes_on) in cases {
        let case = format!("{request:?} {error:?}");
        let mut producer = broker.producer("p").unwrap();
        producer.append(&append("t", "before")).unwrap();
        cluster.request_errors(request, &[error]);
        let result = producer.append(&append("t", "x"));
        cluster.clear_request_errors(request);
        assert_eq!(result.is_ok(), works, "{case}: {result:?}");
        assert_eq!(result.is_err_and(|fault| fault.retry), retry, "{case}");
        let next = producer.append(&append("t", "after"));
        assert!(goes_on.is_none_or(|goes_on| next.is_ok() == goes_on), "{case}: {next:?}");
    }
}

#[test]
fn no_server_is_an_error_that_says_why() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Kafka::connect(&options(&servers)).map(|_| ()).unwrap_err();
    assert!(error.retry && error.message.starts_with("cannot reach the server at 127.0.0.1:"), "{error}");
    assert!(error.message.contains("Connection refused"), "{error}");
    let wrong = BTreeMap::from([("group.id".to_owned(), "g".to_owned())]);
    assert!(!Kafka::connect(&wrong).map(|_| ()).unwrap_err().retry);
}

/// The mock cluster keeps 5 MB of a partition.
#[test]
fn what_is_no_longer_kept_is_an_error_that_names_the_offsets() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let broker = Kafka::connect(&options(&cluster.bootstrap_servers())).unwrap();
    let mut producer = broker.producer("p").unwrap();
    let large = "x".repeat(1 << 20);
    (0..8).for_each(|_| producer.append(&append("t", &large)).unwrap());
    let (first, end) = broker.questions.range("t", 0).unwrap();
    assert!(first > 0 && end == 8, "{first} {end}");
    let expected = format!(
        "cannot read topic `t` partition 0 from offset 0: the first offset that is kept is {first} (the end is {end})"
    );
    assert_eq!(broker.open("t", &start()).map(|_| ()).unwrap_err().message, expected);
    // A reader that was opened while it was still there.
    let mut late = reader::Reader::open(&broker.options, "t", &start()).unwrap();
    let error = late.read(1000, ANSWER).unwrap_err();
    assert!(!error.retry && error.message == expected, "{error}");
}

/// A transaction that its producer left open is hidden, and aborted by the next producer of that id.
/// Checked on noida-db 0.2.3; the mock cluster shows aborted records.
#[test]
fn open_transactions_are_hidden_and_aborted() {
    let Ok(servers) = std::env::var("KAFKA_BOOTSTRAP") else {
        println!("skipped: KAFKA_BOOTSTRAP names no server");
        return;
    };
    let options = options(&servers);
    let broker = Kafka::connect(&options).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let topic = format!("open-{}", now.as_millis());
    broker.create(&topic, 1).unwrap();

    let left: BaseProducer<Context> =
        options::producer(&options, &topic).create_with_context(Context::default()).unwrap();
    left.init_transactions(ANSWER).unwrap();
    left.begin_transaction().unwrap();
    left.send(BaseRecord::<(), str>::to(&topic).payload("open")).map_err(|(error, _)| error).unwrap();
    left.flush(ANSWER).unwrap();
    broker.producer(&format!("{topic}-other")).unwrap().append(&append(&topic, "behind")).unwrap();

    let mut reader = broker.open(&topic, &start()).unwrap();
    assert!(reader.read(1000, Duration::from_millis(500)).unwrap().is_none(), "nothing is stable yet");
    let _next = broker.producer(&topic).unwrap();
    let error = left.commit_transaction(ANSWER).unwrap_err();
    assert_eq!(errors::classify(&error), errors::Verdict::Fenced, "{error}");
    let deadline = Instant::now() + ANSWER;
    let fetched = loop {
        assert!(Instant::now() < deadline, "the transaction was aborted, so what is behind it can be read");
        if let Some(fetched) = reader.read(1000, Duration::from_secs(1)).unwrap() {
            break fetched;
        }
    };
    assert_eq!(fetched.records.offsets[..], [1]);
}

/// What became of an append; `None` where it is done.
fn outcome(result: &Result<()>) -> Option<Failure> {
    result.as_ref().err().map(Failure::of)
}

/// What is to become of an append when one of its requests is answered with `code`.
fn expected(step: Api, code: Err) -> Option<Failure> {
    use Err::*;
    // What the client sends again by itself.
    let again = match step {
        Api::AddPartitionsToTxn | Api::EndTxn => matches!(
            code,
            RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
                | RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
                | RD_KAFKA_RESP_ERR_NOT_COORDINATOR
                | RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS
        ),
        Api::Produce => matches!(
            code,
            RD_KAFKA_RESP_ERR_INVALID_MSG
                | RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                | RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION
                | RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
                | RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE
                | RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE
                | RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
                | RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
                | RD_KAFKA_RESP_ERR_NOT_COORDINATOR
                | RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS
                | RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR
        ),
        _ => unreachable!("no step of an append"),
    };
    let meaning = errors::meaning(code.into());
    match (step, meaning) {
        _ if again => None,
        // Each of these is asked until it is answered, or the messages time out.
        (Api::AddPartitionsToTxn | Api::Produce, _) if code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => None,
        // The log has it already.
        (Api::Produce, _) if code == RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER => None,
        (_, errors::Meaning::Fenced) => Some(Failure::Fenced),
        (Api::EndTxn, _)
        | (_, errors::Meaning::Unknown | errors::Meaning::Unanswered)
        | (Api::Produce, errors::Meaning::Broken) => Some(Failure::Open),
        // The client gives itself up.
        (Api::AddPartitionsToTxn, _)
            if matches!(
                code,
                RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
                    | RD_KAFKA_RESP_ERR_INVALID_TXN_STATE
                    | RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            ) =>
        {
            Some(Failure::Open)
        }
        (_, errors::Meaning::Passes) => Some(Failure::Again),
        _ => Some(Failure::Refused),
    }
}

/// Every code that a server may give: the append is done, once; or nothing is there; or nobody knows, and then this
/// producer refuses to go on, and the next one works. (The mock cluster shows what was aborted, so only the log's end
/// is looked at.)
#[test]
fn each_code_at_each_step_of_an_append() {
    let codes: Vec<Err> = (1..1000).filter_map(|number: i32| Err::try_from(number).ok()).collect();
    assert!(codes.len() > 100);
    std::thread::scope(|scope| {
        for step in [Api::AddPartitionsToTxn, Api::Produce, Api::EndTxn] {
            for codes in codes.chunks(10) {
                scope.spawn(move || {
                    let cluster = MockCluster::new(1).unwrap();
                    cluster.create_topic("t", 1, 1).unwrap();
                    let broker = Kafka::connect(&options(&cluster.bootstrap_servers())).unwrap();
                    let mut producer = broker.producer("p").unwrap();
                    for code in codes {
                        answered_with(*code, step, &cluster, &broker, &mut *producer);
                        // Only on the mock cluster a refused message is the end of a producer.
                        let lives = step == Api::AddPartitionsToTxn && producer.append(&append("t", "more")).is_ok();
                        if !lives {
                            producer = broker.producer("p").unwrap();
                            producer.append(&append("t", "next")).unwrap();
                        }
                    }
                });
            }
        }
    });
}

fn answered_with(
    code: Err,
    step: Api,
    cluster: &MockCluster<'_, DefaultProducerContext>,
    broker: &Kafka,
    producer: &mut dyn Producer,
) {
    let case = format!("{step:?} {code:?}");
    let end = || broker.questions.range("t", 0).unwrap().1;
    let before = end();
    cluster.request_errors(step, &[code]);
    let result = producer.append(&append("t", "x"));
    cluster.clear_request_errors(step);
    let outcome = outcome(&result);
    assert_eq!(outcome, expected(step, code), "{case}: {result:?}");
    let appended = end() - before;
    match outcome {
        None if code == Err::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER => assert_eq!(appended, 0, "{case}"),
        None => assert_eq!(appended, 1, "{case}"),
        Some(Failure::Again | Failure::Refused) => assert_eq!(appended, 0, "{case}"),
        Some(Failure::Fenced | Failure::Open) => {
            let error = producer.append(&append("t", "x")).unwrap_err();
            assert!(error.message.contains("make a new producer"), "{case}: {error}");
            assert_eq!(end(), before + appended, "{case}");
        }
    }
}

/// An abort waits for what the client gave up to be taken in, message by message.
#[test]
fn an_append_to_many_partitions_is_undone_as_one() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 8, 1).unwrap();
    let broker = Kafka::connect(&options(&cluster.bootstrap_servers())).unwrap();
    let mut producer = broker.producer("p").unwrap();
    let message = |partition| Message { partition: Some(partition), timestamp_ms: 1, ..Message::default() };
    let appends = [Append { topic: "t".to_owned(), messages: (0..8).map(message).collect() }];
    cluster.request_errors(Api::AddPartitionsToTxn, &[Err::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let result = producer.append(&appends);
    assert_eq!(outcome(&result), Some(Failure::Refused), "{result:?}");
    producer.append(&appends).unwrap();
    let ends: Vec<u64> = broker.topic("t").unwrap().unwrap().partitions.iter().map(|range| range.1).collect();
    assert_eq!(ends, [1; 8]);
}

/// A question that is answered with an error is asked again, or the answer is a fault that says whether it may be; and
/// what was not answered is answered the next time.
#[test]
fn each_kind_of_code_at_each_question() {
    use Err::*;
    // One for each meaning, and what the client or the mock cluster treats in its own way.
    let codes = [
        RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RD_KAFKA_RESP_ERR_UNKNOWN,
        RD_KAFKA_RESP_ERR_END_ALL,
        RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    std::thread::scope(|scope| {
        for step in [Api::FindCoordinator, Api::InitProducerId, Api::ListOffsets, Api::Metadata, Api::Fetch] {
            for codes in codes.chunks(2) {
                scope.spawn(move || {
                    let cluster = MockCluster::new(1).unwrap();
                    cluster.create_topic("t", 1, 1).unwrap();
                    let broker = Kafka::connect(&options(&cluster.bootstrap_servers())).unwrap();
                    broker.producer("p").unwrap().append(&append("t", "x")).unwrap();
                    let ask = |reader: &mut dyn TopicReader| match step {
                        Api::ListOffsets => broker.topic("t").map(|topic| topic.unwrap().partitions == [(0, 1)]),
                        Api::Metadata => broker.topic("t").map(|topic| topic.is_some()),
                        Api::Fetch => reader.read(1000, ANSWER).map(|fetched| fetched.is_some()),
                        _ => broker.producer("p").map(|_| true),
                    };
                    for code in codes.iter().copied() {
                        let mut reader = broker.open("t", &start()).unwrap();
                        cluster.request_errors(step, &[code]);
                        let result = ask(&mut *reader);
                        cluster.clear_request_errors(step);
                        match result {
                            Ok(answered) => assert!(answered, "{step:?} {code:?}"),
                            Err(fault) => {
                                assert_eq!(fault.retry, errors::passes(code.into()), "{step:?} {code:?}: {fault}");
                                assert!(ask(&mut *reader).unwrap(), "{step:?} {code:?}");
                            }
                        }
                    }
                });
            }
        }
    });
}
