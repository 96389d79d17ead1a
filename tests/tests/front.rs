//! Requests over HTTP are requests like others: in the log, answered once, by a revision that a replay rebuilds.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, mpsc};

use millstream_engine::book::Book;
use millstream_engine::time::SystemClock;
use millstream_pipelines::audit::audit;
use millstream_pipelines::run::{Checkpointing, Options, assemble};
use millstream_tests::http::{call, get, post};
use millstream_tests::{NOW_MS, Site, message, one_answer_each};
use serde_json::{Value, json};

const DEFINITION: &str = r#"
millstream: 1
name: front
sources:
  readings:
    from: {topic: {name: readings}}
    format: json
    columns: {at: timestamp, sensor: text, heat: float, count: int, hot: bool}
    event_time: {column: at, lateness_seconds: 0}
streams:
  known:
    input: readings
    steps:
      - require: {that: "hot is not null", otherwise: drop, lanes: learn}
      - require: {that: "heat < 1000"}
      - standardise: {columns: [heat]}
models:
  hot: {input: known, label: hot, features: [heat], learner: logistic_regression}
  tree: {input: known, label: hot, features: [heat], learner: hoeffding_tree}
requests:
  questions:
    topic: questions
    partitions: 2
    enters: readings
    model: hot
    policy: {shadow: {of: [tree]}}
    answers: {topic: answers, partitions: 2}
    others: {topic: others}
serve:
  http: {listen: "127.0.0.1:0", max_body_bytes: 5000}
"#;

/// Labelled readings from this second on.
fn readings(from: i64, count: i64) -> Vec<millstream_connectors::broker::Message> {
    let reading = |second: i64| {
        let heat = second * 7 % 40;
        json!({"at": NOW_MS + 1000 * second, "sensor": "a", "heat": heat, "count": second, "hot": heat > 20})
    };
    (from..from + count).map(|second| message(None, reading(second).to_string())).collect()
}

/// Rows of these heats.
fn asking(heats: &[f64]) -> Value {
    json!({"inputs": [
        {"name": "heat", "shape": [heats.len()], "datatype": "FP64", "data": heats},
        {"name": "at", "shape": [heats.len()], "datatype": "INT64", "data": vec![NOW_MS + 900_000; heats.len()]},
    ]})
}

/// Runs the pipeline without end, and does something while it runs.
fn while_running(site: &Site, act: impl FnOnce(SocketAddr)) {
    let book = Arc::new(Book::default());
    let (tell, listening) = mpsc::channel();
    let endless = Options {
        until_idle: false,
        book: book.clone(),
        listening: Some(tell),
        clock: Arc::new(SystemClock),
        ..site.options()
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| site.try_run(&endless));
        let Ok((source, address)) = listening.recv() else {
            running.join().expect("no panic").expect("it runs");
            panic!("it ended before it listened");
        };
        assert_eq!(source, "serve.http");
        // A failed assertion must not leave the run going.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(address)));
        book.stop();
        running.join().expect("no panic").expect("it was stopped in peace");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    });
}

const INFER: &str = "/v2/models/questions/infer";

#[test]
fn requests_over_http_are_in_the_log_and_answered_once() {
    let site = Site::new(DEFINITION, &[]);
    site.append("readings", &readings(0, 400));
    let mut said = Vec::new();
    while_running(&site, |address| {
        // The frontier that it must have learned through; the newest reading waits for a newer one.
        let mut asked = asking(&[5.0, 35.0, 21.5]);
        asked["id"] = json!("first");
        asked["parameters"] = json!({"at_least": {"readings/0": 400}});
        let answer = post(address, INFER, &asked);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["id"], "first");
        assert_eq!(answer["model_name"], "questions");
        assert_eq!(answer["parameters"]["model"], "hot");
        assert_eq!(answer["parameters"]["revision"].to_string(), answer["model_version"].as_str().expect("text"));
        let through: Value =
            serde_json::from_str(answer["parameters"]["learned_through"].as_str().expect("text")).expect("JSON");
        assert_eq!(through, json!({"readings/0": 400}));
        assert!(answer["parameters"]["staleness_seconds"].as_f64().is_some_and(|seconds| seconds > 400.0));
        let outputs = answer["outputs"].as_array().expect("outputs");
        assert_eq!(outputs[0]["name"], "prediction");
        assert_eq!(outputs[0]["data"], json!([false, true, true]));
        assert_eq!(
            (&outputs[1]["name"], &outputs[1]["datatype"], &outputs[1]["shape"]),
            (&json!("probability"), &json!("FP64"), &json!([3]))
        );
        said.extend(outputs[1]["data"].as_array().expect("numbers").clone());

        // An answer changes when the model did.
        let mut labelled = readings(400, 200);
        labelled.push(message(None, json!({"at": NOW_MS + 2_000_000, "hot": null}).to_string()));
        site.append("readings", &labelled);
        let mut asked = asking(&[21.5]);
        asked["outputs"] = json!([{"name": "probability"}]);
        asked["parameters"] = json!({"at_least": {"readings/0": 601}});
        let later = post(address, INFER, &asked).json();
        assert_eq!(later["outputs"].as_array().map(Vec::len), Some(1), "{later}");
        assert!(later["model_version"].as_str() > answer["model_version"].as_str());
        assert_ne!(later["outputs"][0]["data"][0], said[2]);
        said.push(later["outputs"][0]["data"][0].clone());
        // What has no time is of now.
        let now = post(
            address,
            INFER,
            &json!({"inputs": [{"name": "heat", "shape": [1, 1], "datatype": "INT32", "data": [[3]]}]}),
        );
        assert_eq!(now.status, 200, "{now:?}");
        said.push(now.json()["outputs"][1]["data"][0].clone());
    });
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let mut probabilities: Vec<String> =
        answers.iter().map(|answer| answer["answer"]["probability"].to_string()).collect();
    probabilities.sort();
    let mut said: Vec<String> = said.iter().map(Value::to_string).collect();
    said.sort();
    assert_eq!(said, probabilities, "what was said is what is in the log");
    let others = site.records("others");
    assert_eq!(others.len(), 5);
    assert!(others.iter().all(|other| other.json()["model"] == "tree"));

    // A run from the log must reach the recorded answers and models, and asks nothing anew.
    let again = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    assert!(again.epochs_replayed > 0);
    assert_eq!(site.answers().len(), 5);
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
}

#[test]
fn what_cannot_be_answered_is_refused_with_its_reason() {
    let site = Site::new(DEFINITION, &[]);
    while_running(&site, |address| {
        let ask = |body: &Value| post(address, INFER, body);
        let early = ask(&asking(&[1.0]));
        assert_eq!(early.status, 503, "{early:?}");
        assert!(early.head.contains("retry-after: 1"), "{early:?}");
        assert_eq!(get(address, "/v2/health/live").status, 200);
        assert_eq!(get(address, "/v2/health/ready").status, 503);
        site.append("readings", &readings(0, 100));
        while get(address, "/v2/models/questions/ready").status != 200 {}
        for (what, status, reason) in [
            (ask(&json!({})), 400, "missing field `inputs`"),
            (ask(&json!({"inputs": []})), 400, "no rows"),
            (
                ask(&json!({"inputs": [{"name": "heet", "shape": [1], "datatype": "FP64", "data": [1]}]})),
                400,
                "no input `heet`",
            ),
            (
                ask(&json!({"inputs": [{"name": "heat", "shape": [1], "datatype": "BYTES", "data": ["x"]}]})),
                400,
                "no FP64",
            ),
            (
                ask(&{
                    let mut asked = asking(&[1.0]);
                    asked["outputs"] = json!([{"name": "chance"}]);
                    asked
                }),
                400,
                "no output `chance`",
            ),
            (ask(&asking(&[1.0, 2000.0])), 422, "1 of 2 rows"),
            (
                ask(&{
                    let mut asked = asking(&[1.0]);
                    asked["parameters"] = json!({"at_least": 1_000_000, "timeout": 1000});
                    asked
                }),
                504,
                "not reached",
            ),
            (ask(&json!({"inputs": "x".repeat(6000)})), 413, "5000 bytes"),
            (post(address, "/v2/models/question/infer", &asking(&[1.0])), 404, "there are questions"),
            (post(address, "/v2/models/questions/versions/3/infer", &asking(&[1.0])), 404, "newest revision"),
            (get(address, "/v1/models"), 404, "begin at /v2"),
            (call(address, "DELETE /v2/models/questions", &[], b""), 405, "posted"),
            (
                call(address, &format!("POST {INFER}"), &["Inference-Header-Content-Length: 9"], b"{}"),
                400,
                "more than the body",
            ),
        ] {
            assert_eq!(what.status, status, "{what:?}");
            assert!(what.json()["error"].as_str().is_some_and(|error| error.contains(reason)), "{reason}: {what:?}");
        }
        assert_eq!(get(address, "/v2/health/ready").status, 200);
        let about = get(address, "/v2/models/questions").json();
        assert_eq!(about["inputs"][0], json!({"name": "at", "datatype": "INT64", "shape": [-1]}));
        assert_eq!(about["outputs"][1], json!({"name": "probability", "datatype": "FP64", "shape": [-1]}));
        assert_eq!(about["parameters"]["models"], json!(["hot", "tree"]));
    });
    // The row that a step refused is a dead letter, as any other.
    assert_eq!(site.dead_letters().len(), 1);
}

#[test]
fn whoever_follows_gets_all_answers() {
    let site = Site::new(DEFINITION, &[]);
    site.append("readings", &readings(0, 100));
    while_running(&site, |address| {
        while get(address, "/v2/health/ready").status != 200 {}
        let mut connection = TcpStream::connect(address).expect("it listens");
        write!(connection, "GET /v2/models/questions/answers HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is read");
        let mut lines = BufReader::new(connection).lines().map(|line| line.expect("text"));
        let head = lines.find(|line| line.starts_with("content-type")).expect("a head");
        assert_eq!(head, "content-type: text/event-stream");
        lines.find(String::is_empty).expect("the head ends");
        let mut said = Vec::new();
        for heat in [1.0, 39.0] {
            let answer = post(address, INFER, &asking(&[heat])).json();
            said.push(answer["outputs"][1]["data"][0].clone());
        }
        let events = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).take(2);
        let probability = |event: String| {
            let event: Value = serde_json::from_str(&event).expect("JSON");
            event["answer"]["probability"].clone()
        };
        let followed: Vec<Value> = events.map(probability).collect();
        assert_eq!(followed, said);
    });
}

#[test]
fn a_token_is_asked_for() {
    let definition = DEFINITION.replace("max_body_bytes: 5000", "token: \"${file:token}\"");
    let site = Site::new(&definition, &[("token", b"open-sesame")]);
    while_running(&site, |address| {
        assert_eq!(get(address, "/v2").status, 401);
        assert_eq!(call(address, "GET /v2", &["Authorization: Bearer open"], b"").status, 401);
        assert_eq!(call(address, "GET /v2", &["Authorization: Bearer open-sesame"], b"").status, 200);
    });
}

/// A client that nobody here wrote.
#[test]
fn a_triton_client_is_answered() {
    let Some(python) = std::env::var_os("MILLSTREAM_PYTHON") else {
        println!("skipped: MILLSTREAM_PYTHON names no interpreter with `tritonclient` (see .ci/with-python)");
        return;
    };
    let site = Site::new(DEFINITION, &[]);
    site.append("readings", &readings(0, 400));
    while_running(&site, |address| {
        while get(address, "/v2/health/ready").status != 200 {}
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/triton_client.py");
        let output = Command::new(&python).args([script, &address.to_string()]).output().expect("it runs");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
        println!("{}", said(&output.stdout));
    });
    assert_eq!(one_answer_each(&site.records("questions"), &site.answers()).len(), 6);
}
