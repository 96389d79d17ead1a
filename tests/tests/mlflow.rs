//! The registry as MLflow's own client sees it. `MILLSTREAM_PYTHON` names an interpreter that has `tests/clients/requirements.txt`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use millstream_engine::time::SystemClock;
use millstream_operators::registry::{Author, Metadata, Promotion, Registry, Score, Version};
use millstream_pipelines::registry_api::{Server, Settings};
use serde_json::json;

/// The interpreter, or `None` after saying that the test is skipped.
fn python() -> Option<String> {
    let python = std::env::var("MILLSTREAM_PYTHON").ok().filter(|path| !path.is_empty());
    if python.is_none() {
        println!("skipped: MILLSTREAM_PYTHON names no Python that has MLflow's client");
    }
    python
}

fn promote(registry: &Registry, model: &str, revision: u64) -> Version {
    let score = |who: &str, value| Score { name: "log_loss".into(), who: who.into(), over: "all".into(), value };
    let metadata = Metadata {
        model: model.to_owned(),
        pipeline: "flights".to_owned(),
        revision,
        examples: revision,
        measures: vec![score("model", 5.0 / revision as f64), score("majority", 0.7)],
        promoted_ms: 1_767_225_600_000 + revision as i64,
        reason: format!("{revision} examples"),
        promoted_by: Some("ana".to_owned()),
        ..Metadata::default()
    };
    let description = json!({"model": "logistic_regression", "revision": revision}).to_string();
    let artefacts = vec![
        ("model.json".to_owned(), description.into_bytes()),
        ("weights.safetensors".to_owned(), (0..=255).cycle().take(100_000).collect()),
    ];
    let version = registry.promote(&Promotion { metadata, artefacts }).expect("promoted");
    registry.note_versions(0).expect("noted");
    version
}

/// A registry with three versions of `late`, the first of which is the champion, and one of `soon`; and a server of it.
fn served(folder: &Path, token: Option<&str>) -> Server {
    let registry = Registry::open(folder).expect("opened");
    let [first, ..] = [10, 20, 30].map(|revision| promote(&registry, "late", revision));
    promote(&registry, "soon", 40);
    let author = Author { by: "ana".to_owned(), ..Author::default() };
    registry.set_alias(&first, "champion", &author).expect("set");
    let settings = Settings {
        listen: "127.0.0.1:0".parse().expect("an address"),
        token: token.map(str::to_owned),
        tls: None,
        user: "ana".to_owned(),
        clock: Arc::new(SystemClock),
    };
    Server::start(registry, settings).expect("started")
}

#[test]
fn mlflows_client_finds_what_is_promoted() {
    let Some(python) = python() else { return };
    for token in [None, Some("c4n4ry")] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = served(folder.path(), token);
        let mut client = Command::new(&python);
        client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mlflow_client.py"));
        client.arg(format!("http://{}", server.address())).arg(folder.path());
        match token {
            Some(token) => client.env("MLFLOW_TRACKING_TOKEN", token),
            None => client.env_remove("MLFLOW_TRACKING_TOKEN"),
        };
        let output = client.output().expect("it starts");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.trim_end().ends_with("ok"), "{out}\n{error}");
        let history = Registry::open(folder.path()).expect("opened").history(Some("late"), None).expect("read");
        assert!(history.iter().any(|event| event.kind == "alias" && event.why == "asked over HTTP"), "{history:?}");
    }
}
