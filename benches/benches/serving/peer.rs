//! The same models behind our front, and behind ONNX Runtime in Python servers.

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use millstream_benches::flights::options;
use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, cpu_seconds_of, quantile, thread_cpu_seconds};
use millstream_connectors::broker::Append;
use millstream_engine::book::Book;
use millstream_pipelines::run::{Options, run};

use super::client::{Asked, Random, ask_http};
use super::{message, plan};

const COLUMNS: usize = 16;
const ROWS: usize = 20_000;
const CONNECTIONS: usize = 32;
const SECONDS: f64 = 5.0;

/// A server in Python, and the variable that names an interpreter which has what it needs.
struct Peer {
    called: &'static str,
    variable: &'static str,
    script: &'static str,
}

const PEERS: [Peer; 2] = [
    Peer { called: "ONNX Runtime behind uvicorn", variable: "SERVING_PEER_PYTHON", script: "serving_onnxruntime.py" },
    Peer { called: "ONNX Runtime in MLServer", variable: "SERVING_MLSERVER_PYTHON", script: "serving_mlserver.py" },
];

pub fn compare() {
    let named = |peer: Peer| std::env::var_os(peer.variable).map(|python| (peer, python));
    let peers: Vec<(Peer, OsString)> = PEERS.into_iter().filter_map(named).collect();
    if peers.is_empty() {
        println!("SERVING_PEER_PYTHON and SERVING_MLSERVER_PYTHON name no interpreter: nothing is compared");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (pipeline, state) = (plan(folder.path(), &definition()), folder.path().join("state"));
    std::fs::create_dir_all(&state).expect("a folder that can be written");
    let broker = pipeline.broker.open(&state).expect("the broker opens");
    for (topic, partitions) in &pipeline.topics {
        broker.create(topic, *partitions).expect("a topic");
    }
    let mut random = Random(3);
    let rows = (0..ROWS).map(|_| message(record(&mut random))).collect();
    let mut producer = broker.producer("bench-rows").expect("a producer");
    producer.append(&[Append { topic: "rows".to_owned(), messages: rows }]).expect("a broker");
    let book = Arc::new(Book::default());
    let (tell, listening) = mpsc::channel();
    let ours = Options {
        until_idle: false,
        book: book.clone(),
        listening: Some(tell),
        ..options(&state, 1, Some(broker.clone()))
    };
    let mut table = Table::new(&["model", "who answers", "answers /s", "median ms", "p99 ms", "its CPU us an answer"]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run_pipeline(&pipeline, &ours));
        let (_, address) = listening.recv().expect("it listens");
        std::thread::sleep(Duration::from_secs(4));
        for model in ["network", "forest"] {
            let (before, asker) = (cpu_seconds(), thread_cpu_seconds());
            let asked = ask(address, model, &mut random);
            let spent = cpu_seconds() - before - (thread_cpu_seconds() - asker);
            row(&mut table, model, "Millstream", &asked, spent);
            for (peer, python) in &peers {
                let (mut server, address) = peer.start(python, &file(&state, model), model);
                let id = server.id().to_string();
                let before = cpu_seconds_of(&id);
                let asked = ask(address, model, &mut random);
                row(&mut table, model, peer.called, &asked, cpu_seconds_of(&id) - before);
                server.kill().expect("it runs");
                server.wait().expect("it has ended");
            }
        }
        book.stop();
        running.join().expect("the run ends well");
    });
    table.print(&format!("One row a request over HTTP, {COLUMNS} numbers, {CONNECTIONS} connections that ask as fast as they are answered"));
}

fn run_pipeline(pipeline: &millstream_pipelines::plan::Pipeline, options: &Options) {
    run(pipeline, options).unwrap_or_else(|fault| panic!("it goes well: {fault}"));
}

fn names() -> Vec<String> {
    (0..COLUMNS).map(|at| format!("x{at}")).collect()
}

fn definition() -> String {
    let columns = names().join(": float, ") + ": float, ";
    let features = names().join(", ");
    let promote = "promote: {every_examples: 10000, only_if_better_than_baseline: false}";
    format!(
        "millstream: 1\nname: peers\nworkers: 1\n\
         sources:\n  rows: {{from: {{topic: {{name: rows}}}}, format: json, columns: {{{columns}y: bool}}}}\n\
         models:\n  \
         network: {{input: rows, label: y, features: [{features}], learner: {{neural_network: {{network: {{mlp: {{hidden: [64, 64]}}}}}}}}, {promote}}}\n  \
         forest: {{input: rows, label: y, features: [{features}], learner: {{adaptive_random_forest: {{trees: 10}}}}, {promote}}}\n\
         requests:\n  \
         network: {{topic: ask-network, enters: rows, model: network, answers: {{topic: from-network}}}}\n  \
         forest: {{topic: ask-forest, enters: rows, model: forest, answers: {{topic: from-forest}}}}\n\
         serve:\n  http: {{listen: \"127.0.0.1:0\", objective_seconds: 1}}\n"
    )
}

fn record(random: &mut Random) -> Vec<u8> {
    let x: Vec<f64> = (0..COLUMNS).map(|_| random.below(1000) as f64 / 100.0).collect();
    let columns: Vec<String> = names().iter().zip(&x).map(|(name, x)| format!("\"{name}\":{x}")).collect();
    format!("{{{},\"y\":{}}}", columns.join(","), x[0] + x[1] > 10.0).into_bytes()
}

fn requests(model: &str, random: &mut Random) -> Vec<Vec<u8>> {
    let mut one = || {
        let tensor = |name: &String| {
            let x = random.below(1000) as f64 / 100.0;
            format!("{{\"name\":\"{name}\",\"shape\":[1,1],\"datatype\":\"FP64\",\"data\":[{x}]}}")
        };
        let body = format!("{{\"inputs\":[{}]}}", names().iter().map(tensor).collect::<Vec<_>>().join(","));
        let head =
            format!("POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    (0..256).map(|_| one()).collect()
}

/// Asks as fast as answers come.
fn ask(address: SocketAddr, model: &str, random: &mut Random) -> Asked {
    ask_http(address, requests(model, random), 1e6, SECONDS, CONNECTIONS)
}

fn row(table: &mut Table, model: &str, who: &str, asked: &Asked, spent: f64) {
    let mut took: Vec<f64> = asked.iter().filter(|(_, _, status)| *status == 200).map(|(_, took, _)| *took).collect();
    assert!(!took.is_empty(), "{who} answers nothing");
    let rate = took.len() as f64 / SECONDS;
    let ms = |took: &mut [f64], share| format!("{:.1}", quantile(took, share) * 1e3);
    let (median, p99) = (ms(&mut took, 0.5), ms(&mut took, 0.99));
    let cpu = format!("{:.1}", spent / took.len() as f64 * 1e6);
    table.row([model.to_owned(), who.to_owned(), thousands(rate), median, p99, cpu]);
}

/// The file of a model's newest version.
fn file(state: &Path, model: &str) -> std::path::PathBuf {
    let versions = std::fs::read_dir(state.join("models").join(model)).expect("it was promoted");
    let files = versions.map(|version| version.expect("it can be listed").path().join("model.onnx"));
    files
        .filter(|file| file.exists())
        .max_by_key(|file| file.metadata().and_then(|of| of.modified()).ok())
        .expect("a version")
}

impl Peer {
    /// Starts it with a model's file and name, and waits until it listens.
    fn start(&self, python: &OsStr, file: &Path, model: &str) -> (Child, SocketAddr) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.script);
        let mut command = Command::new(python);
        command.arg(script).arg(file).arg(free.port().to_string()).arg(model);
        let server = command.spawn().expect("it starts");
        while std::net::TcpStream::connect(free).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
        // One that listens may still be loading.
        std::thread::sleep(Duration::from_secs(2));
        (server, free)
    }
}
