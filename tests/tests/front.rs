//! Requests over HTTP and gRPC are requests like others: in the log, answered once, by a revision that a replay rebuilds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use millstream_engine::time::SystemClock;
use millstream_pipelines::audit::audit;
use millstream_pipelines::run::{Checkpointing, Options, assemble};
use millstream_tests::grpc::{self, field, framed};
use millstream_tests::http::{call, exchange, get, post};
use millstream_tests::{NOW_MS, Site, message, one_answer_each};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

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

/// The same pipeline, which is asked over gRPC, too.
fn with_grpc(settings: &str) -> String {
    let door = format!("serve:\n  grpc: {{listen: \"127.0.0.1:0\", max_body_bytes: 5000{settings}}}\n");
    DEFINITION.replace("serve:\n", &door)
}

/// Runs the pipeline without end, and does something while it runs: with the addresses of HTTP and of gRPC.
fn while_serving(site: &Site, act: impl FnOnce(SocketAddr, SocketAddr)) {
    let doors =
        site.pipeline.front.as_ref().map_or(0, |front| [&front.http, &front.grpc].into_iter().flatten().count());
    let options = Options { clock: Arc::new(SystemClock), ..site.options() };
    let addresses = site.while_running(options, |running| {
        let addresses: BTreeMap<String, SocketAddr> = running.listening.iter().take(doors).collect();
        let http = *addresses.get("serve.http").expect("it listens before it ends");
        act(http, addresses.get("serve.grpc").copied().unwrap_or(http));
        addresses
    });
    for address in addresses.values() {
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

fn while_running(site: &Site, act: impl FnOnce(SocketAddr)) {
    while_serving(site, |http, _| act(http));
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

/// A message that asks with a heat in raw contents, with what else it says.
fn asked(heat: f64, more: &[Vec<u8>]) -> Vec<u8> {
    let input = [field(1, b"heat"), field(2, b"FP64"), field(3, &[1])].concat();
    let message = [field(1, b"questions"), field(5, &input), field(7, &heat.to_le_bytes())];
    framed(&[message.concat(), more.concat()].concat())
}

/// A parameter that is a number.
fn number(name: &str, number: u8) -> Vec<u8> {
    field(4, &[field(1, name.as_bytes()), field(2, &[2 << 3, number])].concat())
}

#[test]
fn over_grpc_the_same_is_answered() {
    let site = Site::new(&with_grpc(""), &[]);
    site.append("readings", &readings(0, 400));
    let mut probability = [0; 8];
    while_serving(&site, |http, grpc| {
        while get(http, "/v2/health/ready").status != 200 {}
        assert_eq!(grpc::call(grpc, "ServerReady", &[], &framed(b"")).message, [1 << 3, 1]);
        let reached = field(4, &[field(1, b"at_least"), field(2, &field(3, br#"{"readings/0": 400}"#))].concat());
        let reply = grpc::call(grpc, "ModelInfer", &[("grpc-timeout", "30S")], &asked(35.0, &[reached]));
        assert_eq!((reply.status, &*reply.reason), (0, ""), "{reply:?}");
        // The last field is the last output's: eight bytes.
        probability = *reply.message.last_chunk().expect("raw contents");
        let again =
            post(http, INFER, &json!({"inputs": [{"name": "heat", "shape": [1], "datatype": "FP64", "data": [35]}]}));
        assert_eq!(again.json()["outputs"][1]["data"][0].as_f64(), Some(f64::from_le_bytes(probability)), "{again:?}");
    });
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert_eq!(answers.len(), 2);
    for answer in &answers {
        assert_eq!(answer["answer"]["probability"].as_f64(), Some(f64::from_le_bytes(probability)));
    }
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
}

#[test]
fn a_version_may_be_asked_for_and_the_features() {
    let definition =
        with_grpc("").replace("    enters: readings\n", "    enters: readings\n    on_request: [version, features]\n");
    let site = Site::new(&definition, &[]);
    site.append("readings", &readings(0, 400));
    while_serving(&site, |http, grpc| {
        while get(http, "/v2/models/questions/versions/tree/ready").status != 200 {}
        while get(http, "/v2/models/questions/versions/hot/ready").status != 200 {}
        let about = get(http, "/v2/models/questions").json();
        assert_eq!(about["versions"], json!(["hot", "tree"]));
        let path = |version: &str| format!("/v2/models/questions/versions/{version}/infer");
        let mut asked = asking(&[35.0, 5.0]);
        asked["parameters"] = json!({"features": true});
        let answer = post(http, &path("tree"), &asked).json();
        assert_eq!(answer["parameters"]["model"], "tree", "{answer}");
        let features: Value =
            serde_json::from_str(answer["parameters"]["features"].as_str().expect("they are told")).expect("JSON");
        let heat = |row: usize| features[row]["heat"].as_f64().expect("as it was standardised");
        assert!(heat(0) > 0.5 && heat(1) < -0.5, "{features}");
        let answer = post(http, &path("hot"), &asking(&[35.0])).json();
        assert_eq!((&answer["parameters"]["model"], &answer["parameters"]["features"]), (&json!("hot"), &Value::Null));
        let refused = post(http, &path("3"), &asking(&[35.0]));
        assert_eq!(refused.status, 404);
        assert!(refused.body.contains("there are hot, tree"), "{refused:?}");

        let features = field(4, &[field(1, b"features"), field(2, &[1 << 3, 1])].concat());
        let reply = grpc::call(grpc, "ModelInfer", &[], &self::asked(35.0, &[field(2, b"tree"), features]));
        assert_eq!((reply.status, &*reply.reason), (0, ""), "{reply:?}");
        let said = String::from_utf8_lossy(&reply.message).into_owned();
        assert!(said.contains("tree") && said.contains("[{\"heat\":"), "{said}");
        let reply = grpc::call(grpc, "ModelInfer", &[], &self::asked(35.0, &[field(2, b"3")]));
        assert_eq!(reply.status, 5, "{reply:?}");
    });
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    let by: Vec<(&Value, bool)> =
        answers.iter().map(|answer| (&answer["model"], answer["features"].is_object())).collect();
    let tree = (&json!("tree"), true);
    assert_eq!(by.iter().filter(|by| **by == tree).count(), 3, "{by:?}");
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
}

#[test]
fn what_nobody_would_send_over_grpc_is_refused_with_its_reason() {
    let site = Site::new(&with_grpc(""), &[]);
    while_serving(&site, |http, grpc| {
        let infer = |body: &[u8]| grpc::call(grpc, "ModelInfer", &[], body);
        let early = infer(&asked(1.0, &[]));
        assert_eq!((early.status, &*early.reason), (14, "the model has learned nothing yet"));
        site.append("readings", &readings(0, 100));
        while get(http, "/v2/health/ready").status != 200 {}
        let input = |more: &[u8]| field(5, &[&field(1, b"heat"), &field(2, b"FP64"), &field(3, &[1]), more].concat());
        let of = |parts: &[Vec<u8>]| infer(&framed(&[field(1, b"questions"), parts.concat()].concat()));
        let contents = |contents: &[u8]| field(5, contents);
        let one = 1_f64.to_le_bytes();
        let with = |name, value, body: &[u8]| grpc::call(grpc, "ModelInfer", &[(name, value)], body);
        let whole = asked(1.0, &[]);
        for (what, status, reason) in [
            (grpc::call(grpc, "Sing", &[], &framed(b"")), 12, "call /inference"),
            (with("content-type", "application/json", &whole), 12, "only gRPC"),
            (with("grpc-timeout", "soon", &whole), 3, "eight digits"),
            (infer(b""), 3, "cut short"),
            (infer(&whole[..4]), 3, "cut short"),
            (infer(&whole[..whole.len() - 1]), 3, "cut short"),
            (infer(&[whole.clone(), vec![0]].concat()), 3, "nothing behind it"),
            (infer(&[&[1], &whole[1..]].concat()), 12, "not compressed"),
            (infer(&[0, 255, 255, 255, 255]), 8, "5000 bytes"),
            (infer(&framed(&[0; 5001])), 8, "5000 bytes"),
            (infer(&framed(&[255; 100])), 3, "cannot be understood"),
            (infer(&framed(&field(1, b"\xff"))), 3, "cannot be understood"),
            (infer(&framed(b"")), 5, "there are questions"),
            (grpc::call(grpc, "ModelReady", &[], &framed(&field(1, "ü\n".as_bytes()))), 5, "`%C3%BC%0A`; there are"),
            (of(&[field(2, b"3")]), 5, "newest revision"),
            (of(&[]), 3, "no rows"),
            (of(&[field(5, b"").repeat(1000)]), 3, "1000 inputs, and 5 columns"),
            (of(&[field(5, &[255; 100])]), 3, "cannot be understood"),
            (of(&[input(b"")]), 3, "0 values for 1 rows"),
            (of(&[input(b""), field(7, &one[1..])]), 3, "7 bytes hold no whole number"),
            (of(&[input(b""), field(7, &one), field(7, &one)]), 3, "raw contents of 2"),
            (of(&[input(&contents(&field(7, &one))), field(7, &one)]), 3, "there twice"),
            (of(&[input(&contents(&field(2, &[1])))]), 3, "0 values for 1 rows"),
            (of(&[input(&field(3, &[1, 1]))]), 3, "shape [1, 1, 1]"),
            (
                of(&[input(&field(3, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]))]),
                3,
                "shape [1, 18446744073709551615]",
            ),
            (of(&[field(5, &[field(1, b"heet"), field(3, &[1])].concat())]), 3, "no input `heet`"),
            (infer(&asked(1.0, &[field(6, &field(1, b"chance"))])), 3, "no output `chance`"),
            (infer(&asked(2000.0, &[])), 3, "1 of 1 rows"),
            (
                infer(&asked(1.0, &[field(4, &[field(1, b"timeout"), field(2, &field(3, b"x"))].concat())])),
                3,
                "microseconds",
            ),
            (
                infer(&asked(1.0, &[field(4, &[field(1, b"at_least"), field(2, &field(3, b"x"))].concat())])),
                3,
                "a revision",
            ),
            (infer(&asked(1.0, &[number("at_least", 127), number("timeout", 100)])), 4, "not reached"),
            (with("grpc-timeout", "1m", &asked(1.0, &[number("at_least", 127)])), 4, "took"),
        ] {
            assert_eq!(what.status, status, "{reason}: {what:?}");
            assert!(what.reason.replace("%25", "%").contains(reason), "{reason}: {what:?}");
        }
        assert_eq!(infer(&whole).status, 0, "after all that, it is answered");
        assert_eq!(grpc::call(grpc, "ModelReady", &[], &framed(&field(1, b"questions"))).message, [1 << 3, 1]);
    });
    assert_eq!(site.dead_letters().len(), 1, "the row that a step refused");
}

#[test]
fn a_connection_on_which_nothing_is_asked_ends() {
    let site = Site::new(&with_grpc(", header_seconds: 0.05, token: \"${file:token}\""), &[("token", b"open-sesame")]);
    while_serving(&site, |_, grpc| {
        // Silence, a beginning of what is spoken there, and something else.
        for beginning in
            [b"".as_slice(), b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
        {
            let mut connection = TcpStream::connect(grpc).expect("it listens");
            connection.write_all(beginning).expect("it is read");
            let mut rest = Vec::new();
            // It is closed, in peace or not.
            drop(connection.read_to_end(&mut rest));
        }
        let ready = |headers: &[(&str, &str)]| grpc::call(grpc, "ServerLive", headers, &framed(b"")).status;
        assert_eq!(ready(&[]), 16);
        assert_eq!(ready(&[("authorization", "Bearer open")]), 16);
        assert_eq!(ready(&[("authorization", "Bearer open-sesame")]), 0);
    });
}

/// The folder of certificates.
const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls");

/// The pipeline over HTTP and gRPC, where whoever is not signed by the authority is not heard.
fn with_tls() -> Site {
    let tls =
        "tls: {certificate: \"${file:server.pem}\", key: \"${file:server.key}\", clients: \"${file:authority.pem}\"}";
    let definition = with_grpc(&format!(", {tls}")).replace("http: {", &format!("http: {{{tls}, "));
    let file = |name| std::fs::read(format!("{TLS}/{name}")).expect("it is there");
    let files = ["server.pem", "server.key", "authority.pem"].map(|name| (name, file(name)));
    Site::new(&definition, &files.each_ref().map(|(name, content)| (*name, content.as_slice())))
}

#[test]
fn over_tls_only_known_clients_are_heard() {
    let pem = |name: &str| std::fs::read(format!("{TLS}/{name}")).expect("it is there");
    let certificate = |name: &str| CertificateDer::from_pem_slice(&pem(&format!("{name}.pem"))).expect("it is PEM");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("authority")).expect("it is one");
    let client = |who: Option<&str>| {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("TLS").with_root_certificates(roots.clone());
        let config = match who {
            None => config.with_no_client_auth(),
            Some(who) => {
                let key = PrivateKeyDer::from_pem_slice(&pem(&format!("{who}.key"))).expect("it is PEM");
                config.with_client_auth_cert(vec![certificate(who)], key).expect("they fit")
            }
        };
        Arc::new(config)
    };
    let site = with_tls();
    while_serving(&site, |http, _| {
        let live = |who| {
            let tls =
                ClientConnection::new(client(who), "localhost".try_into().expect("a name")).expect("it can begin");
            let connection = TcpStream::connect(http).expect("it listens");
            exchange(StreamOwned::new(tls, connection), "GET /v2/health/live", &[], b"")
        };
        let answer = live(Some("client")).expect("it is heard");
        assert_eq!(answer.status, 200, "{answer:?}");
        for who in [None, Some("stranger")] {
            assert!(live(who).is_err(), "{who:?}");
        }
        let plain = TcpStream::connect(http).expect("it listens");
        assert!(exchange(plain, "GET /v2/health/live", &[], b"").is_err());
    });
}

/// Clients that nobody here wrote.
#[test]
fn triton_clients_are_answered() {
    let Some(python) = std::env::var_os("MILLSTREAM_PYTHON") else {
        println!("skipped: MILLSTREAM_PYTHON names no interpreter with `tritonclient` (see .ci/with-python)");
        return;
    };
    let site = Site::new(&with_grpc(""), &[]);
    site.append("readings", &readings(0, 400));
    while_serving(&site, |http, grpc| {
        while get(http, "/v2/health/ready").status != 200 {}
        for (script, address) in [("triton_client.py", http), ("triton_grpc_client.py", grpc)] {
            let script = format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"));
            let output = Command::new(&python).args([script, address.to_string()]).output().expect("it runs");
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
            println!("{}", said(&output.stdout));
        }
    });
    // Five times three heats; one of them got an answer in the log, and asked for an output that is none.
    assert_eq!(one_answer_each(&site.records("questions"), &site.answers()).len(), 15);

    // Over TLS, where both show who they are.
    let site = with_tls();
    site.append("readings", &readings(0, 400));
    while_serving(&site, |_, grpc| {
        let script = format!("{}/clients/triton_grpc_client.py", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(&python).args([script, grpc.to_string(), TLS.to_owned()]).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
