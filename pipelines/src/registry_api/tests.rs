//! What is answered, and what is not, to whoever asks.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use hyper::Method;
use millstream_engine::time::StepClock;
use millstream_operators::registry::{Metadata, Promotion, Registry, Score, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::routes::{Api, Asked, Reply};
use super::{Server, Settings};

struct Site {
    folder: TempDir,
    api: Api,
    versions: Vec<Version>,
}

impl Site {
    /// Versions of these models, one after the other.
    fn new(models: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path()).expect("opened");
        let versions = models.iter().zip(1..).map(|(model, at)| promote(&registry, model, at)).collect();
        let api = Api::new(registry, "ana".to_owned(), Arc::new(StepClock::new(1_800_000_000_000, 1)));
        Self { folder, api, versions }
    }

    fn ask(&self, method: &Method, path: &str, parameters: &Value) -> Result<Reply, Value> {
        let values = |value: &Value| match value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            other => vec![other.as_str().map_or_else(|| other.to_string(), str::to_owned)],
        };
        let parameters = parameters.as_object().expect("an object");
        let parameters: BTreeMap<String, Vec<String>> =
            parameters.iter().map(|(name, value)| (name.clone(), values(value))).collect();
        let asked = Asked { method: method.clone(), path: path.to_owned(), parameters };
        self.api.answer(&asked).map_err(|refusal| {
            let mut body = refusal.body();
            body["status"] = refusal.status().as_u16().into();
            body
        })
    }

    fn json(&self, method: &Method, call: &str, parameters: &Value) -> Value {
        match self.ask(method, &format!("/api/2.0/mlflow/{call}"), parameters) {
            Ok(Reply::Json(value)) => value,
            other => panic!("{method} {call} {parameters}: {other:?}"),
        }
    }

    fn get(&self, call: &str, parameters: &Value) -> Value {
        self.json(&Method::GET, call, parameters)
    }

    fn refused(&self, method: &Method, call: &str, parameters: &Value, status: u16, code: &str) -> String {
        let body = self.ask(method, &format!("/api/2.0/mlflow/{call}"), parameters).expect_err(call);
        assert_eq!((&body["status"], &body["error_code"]), (&json!(status), &json!(code)), "{call}: {body}");
        body["message"].as_str().expect("a text").to_owned()
    }

    fn files(&self, path: &str) -> Vec<String> {
        match self.ask(&Method::GET, "/api/2.0/mlflow-artifacts/artifacts", &json!({"path": path})) {
            Ok(Reply::Json(value)) => {
                let files = value["files"].as_array().expect("a list");
                files.iter().map(|file| file["path"].as_str().expect("a text").to_owned()).collect()
            }
            other => panic!("{path}: {other:?}"),
        }
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, Value> {
        match self.ask(&Method::GET, &format!("/api/2.0/mlflow-artifacts/artifacts/{path}"), &json!({}))? {
            Reply::File(content) => Ok(content),
            other => panic!("{path}: {other:?}"),
        }
    }
}

fn promote(registry: &Registry, model: &str, at: u64) -> Version {
    let score = Score { name: "rmse".into(), who: "model".into(), over: "all".into(), value: at as f64 };
    let metadata = Metadata {
        model: model.to_owned(),
        revision: at,
        measures: vec![score],
        promoted_ms: 1_700_000_000_000 + at as i64,
        ..Metadata::default()
    };
    let artefacts = vec![("model.json".to_owned(), format!("{{\"at\": {at}}}").into_bytes())];
    let version = registry.promote(&Promotion { metadata, artefacts }).expect("promoted");
    registry.note_versions(0).expect("noted");
    version
}

fn texts(of: &Value, name: &str) -> Vec<String> {
    let items = of.as_array().expect("a list").iter();
    items.map(|item| item[name].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn searches_have_pages_filters_and_orders() {
    let site = Site::new(&["b", "a", "b", "c", "b"]);
    let models = |parameters: Value| site.get("registered-models/search", &parameters);
    assert_eq!(texts(&models(json!({}))["registered_models"], "name"), ["a", "b", "c"]);
    assert_eq!(texts(&models(json!({"order_by": ["name DESC"]}))["registered_models"], "name"), ["c", "b", "a"]);
    assert_eq!(texts(&models(json!({"filter": "name != 'b'"}))["registered_models"], "name"), ["a", "c"]);
    let (mut token, mut all) = (json!(""), Vec::new());
    loop {
        let page = site.get(
            "model-versions/search",
            &json!({"max_results": 2, "page_token": token, "order_by": "version_number"}),
        );
        all.extend(texts(&page["model_versions"], "version"));
        token = page["next_page_token"].clone();
        if token == "" {
            break;
        }
    }
    assert_eq!(all, ["1", "1", "1", "2", "3"]);
    let by_default = site.get("model-versions/search", &json!({}));
    assert_eq!(texts(&by_default["model_versions"], "version"), ["3", "1", "2", "1", "1"], "the newest first");
    for parameters in [
        json!({"max_results": 0}),
        json!({"max_results": 10_001}),
        json!({"max_results": "x"}),
        json!({"page_token": "x"}),
        json!({"order_by": "nme"}),
        json!({"order_by": "name SIDEWAYS"}),
        json!({"filter": "name"}),
    ] {
        for call in ["registered-models/search", "model-versions/search"] {
            site.refused(&Method::GET, call, &parameters, 400, "INVALID_PARAMETER_VALUE");
        }
    }
}

#[test]
fn versions_are_those_of_the_registry() {
    let site = Site::new(&["late", "late"]);
    let version = &site.get("model-versions/get", &json!({"name": "late", "version": "2"}))["model_version"];
    assert_eq!((&version["status"], &version["source"]), (&json!("READY"), &json!("mlflow-artifacts:/late/2")));
    let tags = version["tags"].as_array().expect("a list");
    for (key, value) in [("millstream.id", site.versions[1].id.as_str()), ("millstream.rmse", "2")] {
        assert!(tags.contains(&json!({"key": key, "value": value})), "{tags:?}");
    }
    assert_eq!(site.files(""), ["late"]);
    assert_eq!(site.files("late"), ["1", "2"]);
    assert_eq!(site.files("late/1"), ["model.json", "metadata.json", "checksums.b3"]);
    assert!(site.files("late/1/model.json").is_empty(), "a file has nothing in it");
    assert_eq!(site.file("late/1/model.json").expect("read"), b"{\"at\": 1}");
    // Nothing leads elsewhere.
    fs::write(site.folder.path().join("late/secret"), b"secret").expect("written");
    for path in [
        "late/1/../secret",
        "late/secret",
        "late/1/secret",
        "late/1/",
        "late/1/.",
        "../late/1/model.json",
        "late/1/model.json/x",
        "late",
        "",
    ] {
        let refusal = site.file(path).expect_err(path);
        assert!(
            ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"]
                .contains(&refusal["error_code"].as_str().expect("a text")),
            "{refusal}"
        );
    }
    // What has changed is not given away.
    fs::write(site.versions[0].folder.join("model.json"), b"{\"at\": 9}").expect("written");
    let damaged = site.file("late/1/model.json").expect_err("damaged");
    assert_eq!((&damaged["status"], &damaged["error_code"]), (&json!(500), &json!("INTERNAL_ERROR")));
    assert!(damaged["message"].as_str().expect("a text").contains("model.json has changed"), "{damaged}");
    fs::write(site.versions[1].folder.join("metadata.json"), b"{}").expect("written");
    let version = &site.get("model-versions/get", &json!({"name": "late", "version": "2"}))["model_version"];
    assert_eq!(version["status"], "FAILED_REGISTRATION");
    let latest = site.get("registered-models/get-latest-versions", &json!({"name": "late"}));
    assert_eq!(texts(&latest["model_versions"], "version"), ["1"], "the newest sound one");
    let production =
        site.get("registered-models/get-latest-versions", &json!({"name": "late", "stages": ["Production"]}));
    assert!(production["model_versions"].as_array().expect("a list").is_empty());
}

#[test]
fn aliases_tags_and_descriptions_are_noted() {
    let site = Site::new(&["late", "late"]);
    let (post, delete, patch) = (Method::POST, Method::DELETE, Method::PATCH);
    let one = json!({"name": "late", "version": 1, "alias": "champion", "key": "k", "value": "v", "description": "d"});
    site.json(&post, "registered-models/alias", &one);
    let named = site.get("registered-models/alias", &json!({"name": "late", "alias": "champion"}));
    assert_eq!(named["model_version"]["version"], "1");
    assert_eq!(named["model_version"]["aliases"], json!(["champion"]));
    site.json(&delete, "registered-models/alias", &one);
    for method in [&delete, &Method::GET] {
        site.refused(method, "registered-models/alias", &one, 404, "RESOURCE_DOES_NOT_EXIST");
    }
    for of in ["registered-models", "model-versions"] {
        site.json(&post, &format!("{of}/set-tag"), &one);
        site.json(&patch, &format!("{of}/update"), &one);
        let subject = |answer: Value| answer.as_object().expect("an object").values().next().expect("one").clone();
        let said = subject(site.get(&format!("{of}/get"), &one));
        assert!(said["tags"].as_array().expect("a list").contains(&json!({"key": "k", "value": "v"})), "{said}");
        assert_eq!(said["description"], "d");
        site.json(&delete, &format!("{of}/delete-tag"), &one);
        site.refused(&delete, &format!("{of}/delete-tag"), &one, 400, "INVALID_PARAMETER_VALUE");
        let ours = json!({"name": "late", "version": 1, "key": "millstream.id", "value": "x"});
        site.refused(&post, &format!("{of}/set-tag"), &ours, 400, "INVALID_PARAMETER_VALUE");
    }
    let history = Registry::open(site.folder.path()).expect("opened").history(None, None).expect("read");
    let told: Vec<String> = history.iter().skip(2).map(|event| format!("{} {}", event.kind, event.what)).collect();
    let subject = ["tag k=v", "description d", "tag k removed"];
    assert_eq!(told, [&["alias champion", "alias champion removed"], &subject[..], &subject[..]].concat());
    assert!(history.iter().skip(2).all(|event| event.by == "ana" && event.why == "asked over HTTP"));
}

#[test]
fn what_is_not_there_or_makes_no_sense_is_refused() {
    let site = Site::new(&["late"]);
    let nothing = json!({});
    for (call, parameters) in [
        ("registered-models/get", json!({"name": "x"})),
        ("model-versions/get", json!({"name": "x", "version": "1"})),
        ("model-versions/get", json!({"name": "late", "version": "2"})),
        ("model-versions/get-download-uri", json!({"name": "late", "version": "2"})),
        ("registered-models/alias", json!({"name": "late", "alias": "x"})),
    ] {
        site.refused(&Method::GET, call, &parameters, 404, "RESOURCE_DOES_NOT_EXIST");
    }
    for (call, parameters) in [
        ("registered-models/get", nothing.clone()),
        ("model-versions/get", json!({"name": "late"})),
        ("model-versions/get", json!({"name": "late", "version": "one"})),
        ("model-versions/get", json!({"name": "late", "version": "-1"})),
    ] {
        site.refused(&Method::GET, call, &parameters, 400, "INVALID_PARAMETER_VALUE");
    }
    for (method, call, mend) in [
        (Method::POST, "registered-models/create", "`promote:` in the definition"),
        (Method::POST, "model-versions/create", "millstream models import"),
        (Method::POST, "registered-models/rename", "the pipeline's definition"),
        (Method::POST, "model-versions/transition-stage", "give the version an alias"),
        (Method::DELETE, "registered-models/delete", "millstream models delete"),
        (Method::DELETE, "model-versions/delete", "millstream models delete"),
    ] {
        let message = site.refused(&method, call, &nothing, 403, "PERMISSION_DENIED");
        assert!(message.contains(mend), "{message}");
    }
    site.refused(&Method::GET, "runs/search", &nothing, 404, "ENDPOINT_NOT_FOUND");
    site.refused(&Method::PUT, "model-versions/get", &nothing, 404, "ENDPOINT_NOT_FOUND");
    let upload = site.ask(&Method::PUT, "/api/2.0/mlflow-artifacts/artifacts/late/1/x", &nothing).expect_err("refused");
    assert_eq!(upload["error_code"], "PERMISSION_DENIED");
    assert_eq!(site.ask(&Method::GET, "/", &nothing).expect_err("refused")["status"], 404);
}

/// Sends bytes, and gives all that comes back until the connection ends.
fn send(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    // The server may stop reading before all is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn served(token: Option<&str>) -> (TempDir, Server) {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = Registry::open(folder.path()).expect("opened");
    promote(&registry, "late", 1);
    (folder, Server::start(registry, settings("127.0.0.1:0", token)).expect("started"))
}

fn settings(listen: &str, token: Option<&str>) -> Settings {
    let clock = Arc::new(StepClock::new(0, 1));
    let (listen, token) = (listen.parse().expect("an address"), token.map(str::to_owned));
    Settings { listen, token, tls: None, user: "ana".to_owned(), clock }
}

#[test]
fn only_who_knows_the_token_gets_in() {
    let (_folder, server) = served(Some("c4n4ry"));
    let get = |header: &str| {
        send(
            &server,
            format!("GET /health HTTP/1.1\r\nHost: mill.example\r\nConnection: close\r\n{header}\r\n").as_bytes(),
        )
    };
    assert!(get("Authorization: Bearer c4n4ry\r\n").starts_with("HTTP/1.1 200 "));
    for header in
        ["", "Authorization: Bearer c4n4r\r\n", "Authorization: Basic c4n4ry\r\n", "Authorization: c4n4ry\r\n"]
    {
        let answer = get(header);
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(answer.contains("UNAUTHENTICATED") && !answer.contains("c4n4ry"), "{answer}");
    }
    let registry = |folder: &TempDir| Registry::open(folder.path()).expect("opened");
    let folder = tempfile::tempdir().expect("a folder");
    let open =
        Server::start(registry(&folder), settings("0.0.0.0:0", None)).map(drop).expect_err("refused").to_string();
    assert!(open.contains("add --token") && open.contains("127.0.0.1"), "{open}");
    assert!(Server::start(registry(&folder), settings("127.0.0.1:0", Some("two words"))).is_err());
}

#[test]
fn requests_have_limits() {
    let (_folder, server) = served(None);
    let post = |kind: &str, length: usize, body: &str| {
        let head = format!(
            "POST /api/2.0/mlflow/registered-models/alias HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        send(&server, (head + body).as_bytes())
    };
    let ask = |body: &str| post("application/json", body.len(), body);
    let sound = r#"{"name": "late", "version": "1", "alias": "champion"}"#;
    assert!(ask(sound).starts_with("HTTP/1.1 200 "), "{}", ask(sound));
    assert!(post("application/json; charset=utf-8", sound.len(), sound).starts_with("HTTP/1.1 200 "));
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        assert!(post(kind, sound.len(), sound).contains("INVALID_PARAMETER_VALUE"), "{kind}");
    }
    for body in ["{", "[1]", "3", "\u{0}"] {
        assert!(ask(body).starts_with("HTTP/1.1 400 "), "{body}");
    }
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1 << 20));
    assert!(ask(&large).starts_with("HTTP/1.1 413 "), "{}", &ask(&large));
    let headers = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(400_000));
    // What says so may be lost, as the server hangs up before all is sent.
    assert!(!send(&server, headers.as_bytes()).contains("200 OK"));
    let elsewhere = send(&server, b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(elsewhere.starts_with("HTTP/1.1 403 ") && elsewhere.contains("without a token only this machine may ask"));
    assert!(send(&server, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let health = send(&server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("OK"), "{health}");
}
