//! Dashboards and alerts beside what a run tells, as Prometheus itself reads and asks it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use millstream_engine::time::{Stopwatch, SystemClock};
use millstream_pipelines::dashboard::{Query, alerts, dashboard, rows};
use millstream_pipelines::run::Options;
use millstream_tests::http::{get, post};
use millstream_tests::{NOW_MS, Site, free_address, message};
use serde_json::{Value, json};

const DEFINITION: &str = r#"
millstream: 1
name: watched
sources:
  readings:
    from: {topic: {name: readings}}
    format: json
    columns: {at: timestamp, sensor: text, heat: float, damp: float, hot: bool}
    event_time: {column: at, lateness_seconds: 0}
streams:
  known:
    input: readings
    steps:
      - require: {that: "heat < 1000"}
      - expect: {that: "missing(damp) < 1%", over_rows: 10}
      - impute: {columns: [damp], with: mean, by: [sensor]}
      - standardise: {columns: [heat]}
models:
  hot: {input: known, label: hot, features: [heat, damp], learner: logistic_regression}
  deep: {input: known, label: hot, features: [heat], learner: {neural_network: {training: {mini_batch: 4}}}}
  damp: {input: known, label: damp, features: [heat], learner: linear_regression}
requests:
  questions:
    topic: questions
    enters: readings
    model: hot
    policy: {shadow: {of: [deep]}}
    answers: {topic: answers}
serve:
  http: {listen: "127.0.0.1:0"}
"#;

/// Of what there is nothing here: nothing is rolled back, and nothing drifts; models that are no networks have no mini-batches, and those of
/// numbers no shares.
const SILENT: [&str; 5] = [
    "millstream_records_skipped_total",
    "millstream_events_total",
    "model=\"hot\", measure=~\".*_seconds\"",
    "model=\"damp\", measure=~\".*_seconds\"",
    "model=\"damp\", measure=~\"accuracy|auc|f1|r2|reward\", over=\"faded\"",
];

/// What the alerts are about that must be given: many records are dead letters, and many values are missing.
const FIRE: [&str; 2] = ["millstream_dead_letters_total", "millstream_expectations_failed_total"];

/// Readings of these seconds: some without a value, and some that cannot be taken.
fn readings(from: i64) -> Vec<millstream_connectors::broker::Message> {
    let reading = |second: i64| {
        let heat = if second % 10 == 9 { 5000 } else { second * 7 % 40 };
        let heat = (second % 12 != 5).then_some(heat);
        let damp = (second % 3 != 0).then_some(second % 5);
        json!({"at": NOW_MS + 1000 * second, "sensor": "a", "heat": heat, "damp": damp, "hot": heat.map(|heat| heat > 20)})
    };
    (from..from + 40).map(|second| message(None, reading(second).to_string())).collect()
}

/// Runs the pipeline, and does something again and again while it is taught and asked, until that says that it is done.
fn while_it_is_used(site: &Site, mut is_done: impl FnMut(SocketAddr) -> bool) {
    let metrics = free_address();
    let options = Options { metrics: Some(metrics), clock: Arc::new(SystemClock), ..site.options() };
    site.while_running(options, |running| {
        let (_, address) = running.listening.recv().expect("it listens");
        for from in (0..).step_by(40) {
            site.append("readings", &readings(from));
            let input =
                |name: &str, value: i64| json!({"name": name, "shape": [1], "datatype": "FP64", "data": [value]});
            let inputs = [input("heat", from % 40), input("damp", 3)];
            let asked = json!({"inputs": inputs, "parameters": {"at_least": {"readings/0": from}}});
            assert_eq!(post(address, "/v2/models/questions/infer", &asked).status, 200);
            if is_done(metrics) {
                break;
            }
        }
    });
}

fn queries(site: &Site) -> Vec<(&'static str, Query)> {
    let panels = rows(&site.pipeline).into_iter().flat_map(|row| row.panels);
    panels.flat_map(|panel| panel.queries.into_iter().map(move |query| (panel.title, query))).collect()
}

#[test]
fn all_that_a_run_tells_is_shown() {
    let site = Site::new(DEFINITION, &[]);
    let asked: String = queries(&site).into_iter().map(|(_, query)| query.expression + "\n").collect();
    let mut told = BTreeSet::new();
    while_it_is_used(&site, |address| {
        let text = get(address, "/metrics").body;
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        told = families.filter(|family| family.starts_with("millstream_")).map(str::to_owned).collect();
        // The ones that come last.
        ["millstream_serving_skew", "millstream_dead_letters_total"].iter().all(|family| told.contains(*family))
    });
    let hidden: Vec<&String> = told.iter().filter(|family| !asked.contains(*family)).collect();
    assert!(told.len() > 35 && hidden.is_empty(), "in no panel: {hidden:?}, of {}", told.len());
}

#[test]
fn panels_lie_side_by_side() {
    let long = "a-name-that-is-much-too-long-for-what-grafana-takes-as-an-id";
    for name in ["watched", long] {
        let site = Site::new(&DEFINITION.replace("name: watched", &format!("name: {name}")), &[]);
        let dashboard = dashboard(&site.pipeline);
        assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40), "{}", dashboard["uid"]);
        let (mut taken, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().expect("panels") {
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
            assert!(at("x") + at("w") <= 24, "{panel}");
            let cells = (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)));
            assert!(cells.into_iter().all(|cell| taken.insert(cell)), "it lies on another: {panel}");
            assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        }
        for model in ["hot", "deep", "damp"] {
            assert!(dashboard.to_string().contains(&format!("\"title\":\"Model {model}\"")));
        }
    }
}

/// A Prometheus that reads one address.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    fn start(bin: &Path, folder: &Path, read: SocketAddr) -> Self {
        let address = free_address();
        let config = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}\n\
             scrape_configs: [{{job_name: millstream, static_configs: [{{targets: ['{read}']}}]}}]\n"
        );
        let (at, data) = (folder.join("prometheus.yaml"), folder.join("prometheus"));
        std::fs::write(&at, config).expect("a folder that can be written");
        let child = Command::new(bin.join("prometheus"))
            .arg(format!("--config.file={}", at.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self { child, address }
    }

    /// What comes of a query; `None` while it is not ready to be asked.
    fn ask(&self, query: &str) -> Option<Vec<Value>> {
        TcpStream::connect(self.address).ok()?;
        let encoded = query.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
        let response = get(self.address, &format!("/api/v1/query?query={encoded}"));
        if response.status == 503 {
            return None;
        }
        let body = response.json();
        assert_eq!(body["status"], "success", "{query}: {body}");
        body["data"]["result"].as_array().cloned()
    }
}

#[test]
fn prometheus_answers_every_panel_and_alert() {
    let Some(bin) = std::env::var_os("MILLSTREAM_PROMETHEUS") else {
        return println!("skipped: MILLSTREAM_PROMETHEUS names no folder");
    };
    let site = Site::new(DEFINITION, &[]);
    let rules = site.folder().join("rules.yaml");
    std::fs::write(&rules, alerts(&site.pipeline)).expect("a folder that can be written");
    let checked = Command::new(Path::new(&bin).join("promtool")).args(["check", "rules"]).arg(&rules).output();
    let checked = checked.expect("it runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    // What Grafana puts in place of its variables.
    let put = [("$instance", ".*"), ("$__rate_interval", "1m"), ("$column", "heat")];
    let mut left: Vec<(&str, String)> = queries(&site)
        .into_iter()
        .map(|(title, query)| (title, put.iter().fold(query.expression, |text, (from, to)| text.replace(from, to))))
        .filter(|(_, query)| !SILENT.iter().any(|silent| query.contains(silent)))
        .collect();
    let of_rule = |line: &str| serde_json::from_str::<String>(line.trim().strip_prefix("expr: ")?).ok();
    let rules: Vec<String> = alerts(&site.pipeline).lines().filter_map(of_rule).collect();
    assert!(left.len() > 60 && rules.len() > 8, "{} {}", left.len(), rules.len());
    let mut prometheus = None;
    let (mut fire, watch) = (Vec::new(), Stopwatch::start());
    while_it_is_used(&site, |address| {
        let bin = Path::new(&bin);
        let prometheus = prometheus.get_or_insert_with(|| Prometheus::start(bin, site.folder(), address));
        left.retain(|(_, query)| prometheus.ask(query).is_none_or(|found| found.is_empty()));
        fire = rules.iter().filter(|rule| prometheus.ask(rule).is_some_and(|found| !found.is_empty())).collect();
        assert!(watch.seconds() < 120.0, "nothing comes of {left:#?}; {fire:#?}");
        left.is_empty() && FIRE.iter().all(|wanted| fire.iter().any(|rule| rule.contains(wanted)))
    });
    assert!(!fire.iter().any(|rule| rule.contains("absent")), "it is there: {fire:#?}");
}
