//! The shipped example on its real data, end to end.

use std::path::Path;

use millstream_operators::registry::Registry;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::load;
use millstream_pipelines::origin::Origins;
use millstream_pipelines::plan::Test;
use millstream_pipelines::run::state::models_path;
use millstream_pipelines::run::{Checkpointing, Options, Summary};
use millstream_pipelines::testing::{self, Report, Tested};
use millstream_tests::{Site, message, one_answer_each};
use serde_json::{Value, json};

/// How many records each file has.
const FLIGHTS: u64 = 80_789;
const WEATHER: u64 = 6_463;
const QUESTIONS: u64 = 4_040;

/// The example as shipped.
fn site() -> Site {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
    let read = |name: &str| std::fs::read(examples.join(name)).expect("a file of the example");
    let definition = String::from_utf8(read("flight-delays.yaml")).expect("text");
    let names = ["data/flights.csv.gz", "data/weather.csv.gz", "data/questions.csv.gz"];
    let files = names.map(|name| (name, read(name)));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    Site::new(&definition, &files)
}

fn options(site: &Site) -> Options {
    // Epochs of so few that some end soon after each 20,000 examples, however loaded the machine is.
    Options { metrics: Some("127.0.0.1:0".parse().expect("an address")), max_records: Some(5000), ..site.options() }
}

fn run(site: &Site) -> Summary {
    site.run_with(&options(site))
}

#[test]
fn flights() {
    let site = site();
    let first = run(&site);
    learned(&site, &first);
    answered(&site, &first);
    promoted(&site, &first);
    again(&site, &first);
    asked_once_more(&site, &first);
}

fn learned(site: &Site, run: &Summary) {
    let records = ["flights", "weather", "questions"].map(|source| run.records_by_source[source]);
    assert_eq!(records, [FLIGHTS, WEATHER, QUESTIONS]);
    let late = &run.models["late"];
    assert!((70_000..FLIGHTS).contains(&late.revision), "{} examples", late.revision);
    let loss = &late.measures["log_loss"];
    assert!(loss["model"] < loss["majority"] - 0.03, "{loss:?}");
    let letters = site.dead_letters();
    assert_eq!(run.dead_letters.values().sum::<u64>(), letters.len() as u64);
    for letter in &letters {
        assert!(
            !letter.raw.is_empty() && !letter.reason.is_empty() && run.dead_letters.contains_key(&letter.step),
            "{letter:?}"
        );
    }
}

fn answered(site: &Site, run: &Summary) {
    assert_eq!((run.requests, run.answers), (QUESTIONS, QUESTIONS));
    let answers = one_answer_each(&site.records("flight-questions"), &site.answers());
    let refused = answers.iter().filter(|answer| answer.get("error").is_some()).count();
    assert_eq!(run.refused, refused as u64);
    assert!(
        refused < 30,
        "{refused} of 300 refused: {:?}",
        answers.iter().find(|answer| answer.get("error").is_some())
    );
    for answer in answers.iter().filter(|answer| answer.get("error").is_none()) {
        let probability = answer["answer"]["probability"].as_f64().expect("a probability");
        assert!((0.0..=1.0).contains(&probability), "{answer}");
        assert_eq!(answer["answer"]["prediction"], json!(probability > 0.5), "{answer}");
        assert_eq!(answer["model"], "late");
        let revision = answer["revision"].as_u64().expect("a number");
        assert!((1..=run.models["late"].revision).contains(&revision), "{answer}");
        let through = &answer["learned_through"];
        let offset = |source: &str| through["offsets"][source].as_u64().expect("an offset");
        assert!((revision..=FLIGHTS).contains(&offset("flights/0")) && offset("weather/0") <= WEATHER, "{answer}");
        assert!(through["time"].as_str().is_some_and(|time| time.starts_with("2013-0")), "{answer}");
        assert!(answer["staleness_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{answer}");
    }
}

fn promoted(site: &Site, run: &Summary) {
    let versions = &run.models["late"].versions;
    assert!((1..=4).contains(&versions.len()), "{versions:?}");
    let registry = Registry::open(&models_path(&site.state())).expect("it was written");
    let listed = registry.list().expect("it can be read");
    assert_eq!(&listed.iter().map(|listed| listed.id.clone()).collect::<Vec<_>>(), versions);
    let mut parent = None;
    for id in versions {
        let version = registry.show(id).expect("its files are sound");
        assert_eq!((version.metadata.model.as_str(), version.metadata.parent.clone()), ("late", parent));
        assert!(version.metadata.revision <= run.models["late"].revision && !version.metadata.measures.is_empty());
        parent = Some(id.clone());
    }
}

fn again(site: &Site, first: &Summary) {
    let answers = site.answers();
    // From the checkpoint that the first has left, and from the log alone.
    let second = run(site);
    assert_eq!((second.epochs, second.epochs_replayed), (0, 0));
    let third = site.run_with(&Options { checkpoints: Checkpointing::Off, ..options(site) });
    assert_eq!((third.epochs, third.epochs_replayed), (0, first.epochs));
    for again in [second, third] {
        assert_eq!(again.models["late"].digest, first.models["late"].digest);
        assert_eq!(again.models["late"].measures, first.models["late"].measures);
        assert_eq!(again.models["late"].versions, first.models["late"].versions);
    }
    assert_eq!(site.answers(), answers, "nothing is answered again");
}

fn asked_once_more(site: &Site, first: &Summary) {
    let question = json!({
        "asked_at": "2013-04-02T12:00:00Z", "scheduled_at": "2013-04-02T12:00:00Z", "carrier": "UA", "flight": 1545,
        "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "distance": 1400.0,
    });
    site.append("flight-questions", &[message(Some("N14228"), question.to_string())]);
    let third = run(site);
    assert_eq!((third.epochs, third.answers), (1, 1));
    let answers: Vec<Value> = site.answers().iter().map(millstream_tests::Record::json).collect();
    assert_eq!(answers.len() as u64, QUESTIONS + 1);
    let last = answers.last().expect("many");
    assert_eq!((&last["request"]["offset"], &last["request"]["key"]), (&json!(QUESTIONS), &json!("N14228")));
    assert_eq!(last["revision"], json!(first.models["late"].revision), "the newest revision answers");
}

#[test]
fn the_examples_keep_their_own_tests() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
    let mut tested = 0;
    for entry in std::fs::read_dir(examples).expect("the examples") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        let (pipeline, _) =
            load(&path, &Catalogue::shipped()).unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert!(!pipeline.tests.is_empty(), "{} has no tests", path.display());
        let run = |test: &Test| Tested {
            name: test.name.clone(),
            outcome: testing::run(&pipeline, &Origins::default(), test),
        };
        let tests: Vec<Tested> = pipeline.tests.iter().map(run).collect();
        tested += tests.len();
        let report = Report { file: path.display().to_string(), tests, seconds: 0.0 };
        assert!(report.is_good(), "{}", report.text());
    }
    assert!(tested >= 4, "{tested} tests");
}
