use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Err};

use super::*;
use crate::broker::{Append, Message};

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
    assert_eq!(producer::classify(&error), producer::Verdict::Fenced, "{error}");
    let deadline = Instant::now() + ANSWER;
    let fetched = loop {
        assert!(Instant::now() < deadline, "the transaction was aborted, so what is behind it can be read");
        if let Some(fetched) = reader.read(1000, Duration::from_secs(1)).unwrap() {
            break fetched;
        }
    };
    assert_eq!(fetched.records.offsets[..], [1]);
}
