//! The shipped example on its real data, end to end.

use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use millstream_operators::registry::Registry;
use millstream_pipelines::run::state::models_path;
use millstream_pipelines::run::{Options, Summary};
use millstream_tests::{Site, message, one_answer_each};
use serde_json::{Value, json};

/// So much of each file: about two weeks of January.
const PARTS: [(&str, usize); 3] = [("flights.csv.gz", 10_000), ("weather.csv.gz", 1_300), ("questions.csv.gz", 300)];

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples")
}

/// The first lines of a packed file, packed.
fn beginning(name: &str, lines: usize) -> Vec<u8> {
    let packed = std::fs::read(examples().join("data").join(name)).expect("the example's data");
    let mut text = String::new();
    GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("it is gzip");
    let part: String = text.lines().take(lines + 1).flat_map(|line| [line, "\n"]).collect();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(part.as_bytes()).and_then(|()| packed.finish()).expect("memory")
}

/// The example as shipped, with a part of its data.
fn site() -> Site {
    let definition = std::fs::read_to_string(examples().join("flight-delays.yaml")).expect("the example");
    let definition = definition.replace("data/", "").replace("every_examples: 20000", "every_examples: 3000");
    let files = PARTS.map(|(name, lines)| (name, beginning(name, lines)));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    Site::new(&definition, &files)
}

fn run(site: &Site) -> Summary {
    site.run_with(&Options { metrics: Some("127.0.0.1:0".parse().expect("an address")), ..site.options() })
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
    for (source, (_, lines)) in ["flights", "weather", "questions"].iter().zip(PARTS) {
        assert_eq!(run.records_by_source[*source], lines as u64, "all records of {source}");
    }
    let late = &run.models["late"];
    assert!((9_000..10_000).contains(&late.revision), "{} examples", late.revision);
    let loss = &late.measures["log_loss"];
    assert!(loss["model"] < loss["majority"] - 0.01, "{loss:?}");
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
    assert_eq!((run.requests, run.answers), (300, 300));
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
        assert!((revision..=10_000).contains(&offset("flights/0")) && offset("weather/0") <= 1_300, "{answer}");
        assert!(through["time"].as_str().is_some_and(|time| time.starts_with("2013-01-")), "{answer}");
        assert!(answer["staleness_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{answer}");
    }
}

fn promoted(site: &Site, run: &Summary) {
    let versions = &run.models["late"].versions;
    assert!((1..=3).contains(&versions.len()), "{versions:?}");
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
    let second = run(site);
    assert_eq!((second.epochs, second.epochs_replayed), (0, first.epochs));
    assert_eq!(second.models["late"].digest, first.models["late"].digest);
    assert_eq!(second.models["late"].versions, first.models["late"].versions);
    assert_eq!(site.answers(), answers, "nothing is answered again");
}

fn asked_once_more(site: &Site, first: &Summary) {
    let question = json!({
        "asked_at": "2013-01-20T12:00:00Z", "scheduled_at": "2013-01-20T12:00:00Z", "carrier": "UA", "flight": 1545,
        "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "distance": 1400.0,
    });
    site.append("flight-questions", &[message(Some("N14228"), question.to_string())]);
    let third = run(site);
    assert_eq!((third.epochs, third.answers), (1, 301));
    let answers: Vec<Value> = site.answers().iter().map(millstream_tests::Record::json).collect();
    assert_eq!(answers.len(), 301);
    let last = &answers[300];
    assert_eq!((&last["request"]["offset"], &last["request"]["key"]), (&json!(300), &json!("N14228")));
    assert_eq!(last["revision"], json!(first.models["late"].revision), "the newest revision answers");
}
