//! What a run gets from a good definition.

use std::fs;
use std::process::Command;

use millstream_operators::registry::PromotionRule;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::definition::{Definition, Secrets};
use millstream_pipelines::graph::Picture;
use millstream_pipelines::plan::{Checkpoints, Delivery, Input, Pipeline};
use millstream_pipelines::report::Report;
use millstream_pipelines::{check, load, schema};

/// Two sources, a join, an alias, a model, requests, feeds and sinks; streams stand before what they need.
const FLIGHTS: &str = r#"
millstream: 1
name: flight-delays
feeds:
  flights-feed:
    from: {file: {path: data/flights.csv}}
    time: known_at
    topic: flights
    partitions: 2
    key: carrier
sources:
  weather:
    from: {topic: {name: weather}}
    format: json
    columns: {origin: text, wind_speed: float, time: timestamp}
    event_time: {column: time, lateness_seconds: 1.5}
    idle_seconds: 2
  flights:
    from: {topic: {name: flights, partitions: 2}}
    format: json
    columns: {carrier: text, origin: text, distance: float, arr_delay: float, known_at: timestamp}
    event_time: {column: known_at}
streams:
  same: {input: flights_known}
  flights_known:
    input: flights
    steps:
      - require: {that: "arr_delay is not null", otherwise: drop, lanes: learn}
      - derive: {late: "arr_delay > 15"}
      - join_as_of: {with: weather_clean, by: [origin], within_seconds: 10800, columns: [wind_speed]}
      - impute: {columns: [wind_speed, distance], with: mean}
  weather_clean:
    input: weather
    steps:
      - require: {that: "wind_speed < 200", otherwise: {"null": [wind_speed]}}
models:
  late:
    input: same
    label: late
    features: [distance, wind_speed]
    learner: logistic_regression
    promote: {every_examples: 20000}
requests:
  questions: {topic: flight-questions, enters: flights, model: late, answers: {topic: flight-answers, partitions: 3}}
sinks:
  predictions: {from: late, to: {file: {path: out/predictions.jsonl}}}
  raw: {from: weather, to: stdout}
serve: {metrics: "127.0.0.1:9464"}
epochs: {max_records: 1000}
workers: 2
"#;

fn plan(text: &str) -> Pipeline {
    let definition = Definition::parse("test.yaml", text);
    let (pipeline, findings) = check(&definition, &Catalogue::shipped(), Secrets::default());
    pipeline.unwrap_or_else(|| panic!("{}", Report::new(&definition, findings).render(false)))
}

#[test]
fn nodes_come_after_their_inputs() {
    let pipeline = plan(FLIGHTS);
    let nodes: Vec<(&str, &[Input])> =
        pipeline.nodes.iter().map(|node| (node.label.as_str(), node.inputs.as_slice())).collect();
    let (source, node) = (Input::Source, Input::Node);
    let expected: [(&str, &[Input]); 6] = [
        ("weather_clean/0/require", &[source(0)]),
        ("flights_known/0/require", &[source(1)]),
        ("flights_known/1/derive", &[node(1)]),
        ("flights_known/2/join_as_of", &[node(2), node(0)]),
        ("flights_known/3/impute", &[node(3)]),
        ("late", &[node(4)]),
    ];
    assert_eq!(nodes, expected);
    let alias = pipeline.streams.iter().find(|stream| stream.name == "same").expect("it is a stream");
    assert_eq!(alias.output, node(4));
    assert!(pipeline.schema(node(5)).index_of("predicted").is_ok());
}

#[test]
fn names_become_indices() {
    let pipeline = plan(FLIGHTS);
    let names: Vec<&str> = pipeline.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["weather", "flights"]);
    let weather = &pipeline.sources[0];
    assert_eq!((weather.event_time, weather.lateness_ms, weather.idle_ms), (Some(2), 1500, 2000));
    let model = &pipeline.models[0];
    assert_eq!((model.node, model.enters), (5, 1));
    let promote = PromotionRule::plan(&serde_json::json!({"every_examples": 20_000})).expect("a rule");
    assert_eq!(model.promote, Some(promote));
    let request = &pipeline.requests[0];
    assert_eq!((request.enters, request.models.as_slice(), request.answers.as_str()), (1, &[0][..], "flight-answers"));
    assert_eq!(request.source.columns, pipeline.sources[1].columns);
    assert_eq!(request.source.event_time, Some(4));
    let sinks: Vec<Input> = pipeline.sinks.iter().map(|sink| sink.from).collect();
    assert_eq!(sinks, [Input::Node(5), Input::Source(0)]);
    let feed = &pipeline.feeds[0];
    assert_eq!((feed.time, feed.key, feed.partitions), (4, Some(0), 2));
    assert_eq!(feed.columns, pipeline.sources[1].columns);
    assert_eq!((pipeline.workers, pipeline.epochs.max_records), (2, 1000));
    let topics: Vec<(&str, u32)> =
        pipeline.topics.iter().map(|(name, partitions)| (name.as_str(), *partitions)).collect();
    assert_eq!(topics, [("flight-answers", 3), ("flight-questions", 1), ("flights", 2), ("weather", 1)]);
}

#[test]
fn a_file_needs_no_format() {
    let pipeline = plan("millstream: 1\nname: a\nsources: {s: {from: {file: {path: a.csv}}, columns: {a: text}}}\n");
    assert!(pipeline.sources[0].format.is_some());
}

/// What `examples` in the catalogue say is what the schema takes: parse each as a component of a definition.
#[test]
fn the_schema_takes_every_example_of_the_catalogue() {
    let whole = schema::compose(&Catalogue::shipped());
    for entry in Catalogue::shipped().entries() {
        let example = entry.example.trim_end().replace('\n', "\n          ");
        let text = match entry.what {
            "source" => format!("sources:\n  a:\n    from:\n        {}:\n          {example}\n", entry.name),
            "format" => {
                format!("sources:\n  a:\n    from: x\n    format:\n        {}:\n          {example}\n", entry.name)
            }
            "step" => {
                format!("streams:\n  a:\n    input: x\n    steps:\n      - {}:\n          {example}\n", entry.name)
            }
            "sink" => format!("sinks:\n  a:\n    from: x\n    to:\n        {}:\n          {example}\n", entry.name),
            _ => format!(
                "models:\n  a:\n    input: x\n    label: x\n    features: [x]\n    learner:\n        {}:\n          {example}\n",
                entry.name
            ),
        };
        let definition = Definition::parse("example.yaml", &format!("millstream: 1\nname: a\n{text}"));
        let (_, findings) = check(&definition, &Catalogue::shipped(), Secrets::default());
        let form = ["syntax", "unknown-key", "missing-key", "wrong-type", "out-of-range", "unknown-choice", "one-kind"];
        let wrong: Vec<_> = findings.iter().filter(|finding| form.contains(&finding.code)).collect();
        // Columns of example rows do not exist here, so only the form counts; `wrong-type` also names columns.
        let wrong: Vec<_> = wrong.into_iter().filter(|finding| !finding.message.starts_with("column")).collect();
        assert!(wrong.is_empty(), "{text}{wrong:#?}");
    }
    assert!(whole["$defs"]["any_step"]["oneOf"].as_array().is_some_and(|kinds| kinds.len() > 5));
}

#[test]
fn drawings_show_every_name() {
    let picture = Picture::of(&plan(FLIGHTS));
    for drawing in [picture.mermaid(), picture.dot(), picture.svg()] {
        for name in ["flights-feed", "weather_clean", "join_as_of", "late", "flight-questions", "flight-answers", "raw"]
        {
            assert!(drawing.contains(name), "{name} is missing in {drawing}");
        }
    }
}

#[test]
fn secrets_are_in_no_message() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("secret"), "c4n4ry!!").expect("it can be written");
    let path = folder.path().join("test.yaml");
    // The topic's name is refused with a message that quotes it.
    let text = FLIGHTS.replace("{name: weather}", "{name: \"${file:secret}\"}");
    fs::write(&path, &text).expect("it can be written");
    let Err(report) = load(&path, &Catalogue::shipped()) else { panic!("`c4n4ry!!` is no topic name") };
    let shown = format!("{}{}{report:?}", report.render(false), report.to_json());
    assert!(shown.contains("${file:secret}") && !shown.contains("c4n4ry"), "{shown}");

    fs::write(folder.path().join("secret"), "c4n4ry").expect("it can be written");
    let Ok((pipeline, _)) = load(&path, &Catalogue::shipped()) else { panic!("now it is one") };
    assert!(pipeline.topics.contains(&("c4n4ry".to_owned(), 1)));
    assert_eq!(pipeline.digest, Definition::parse("test.yaml", &text).digest);

    fs::remove_file(folder.path().join("secret")).expect("it was there");
    let Err(report) = load(&path, &Catalogue::shipped()) else { panic!("it is gone") };
    assert_eq!(report.findings()[0].code, "missing-secret");
}

/// Runs the program: its exit code, standard output and standard error.
fn millstream(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_millstream")).args(arguments).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn exit_codes_and_streams() {
    let here = env!("CARGO_MANIFEST_DIR");
    let (good, bad) = (format!("{here}/examples/sensors.yaml"), format!("{here}/tests/bad/24-sinks.yaml"));
    let (code, out, err) = millstream(&["check", &good]);
    assert_eq!((code, out.contains("no problems"), err.as_str()), (Some(0), true, ""));
    let (code, out, err) = millstream(&["check", &bad]);
    assert_eq!((code, out.as_str(), err.contains("unknown-kind"), err.contains('\u{1b}')), (Some(2), "", true, false));
    let (code, out, _) = millstream(&["check", &bad, "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!((code, &json["ok"], json["findings"].as_array().map(Vec::len)), (Some(2), &false.into(), Some(4)));
    assert_eq!(millstream(&["check", "no/such/file.yaml"]).0, Some(2));
    assert_eq!(millstream(&["graph", &bad]).0, Some(2));
    assert_eq!(millstream(&["graph", &good]).0, Some(0));
    assert_eq!(millstream(&["list", "join_as_of"]).0, Some(0));
    assert_eq!(millstream(&["list", "join_as_off"]).0, Some(2));
    assert_eq!(millstream(&["nothing"]).0, Some(2));
}

/// Parts whose fingerprints differ between the shared definition and `text`, those that only one has included.
fn changed(text: &str) -> Vec<String> {
    let (before, after) = (plan(FLIGHTS).fingerprints(), plan(text).fingerprints());
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[test]
fn a_fingerprint_changes_with_whatever_its_part_is_made_of_and_with_nothing_else() {
    const MODEL: [&str; 1] = ["late"];
    let known = |from: usize| {
        let steps = ["0/require", "1/derive", "2/join_as_of", "3/impute"];
        let mut labels: Vec<String> = steps[from..].iter().map(|step| format!("flights_known/{step}")).collect();
        labels.extend(MODEL.map(str::to_owned));
        labels
    };
    let with = |more: &[&str], rest: Vec<String>| {
        let mut all: Vec<String> = more.iter().map(|name| (*name).to_owned()).chain(rest).collect();
        all.sort();
        all
    };
    let cases: [(&str, &str, Vec<String>); 16] = [
        // What changes no result.
        ("workers: 2", "workers: 7", vec![]),
        ("epochs: {max_records: 1000}", "checkpoints: {keep: 9}\ndelivery: at_least_once", vec![]),
        ("idle_seconds: 2", "idle_seconds: 3", vec![]),
        ("promote: {every_examples: 20000}", "promote: {every_examples: 2}", vec![]),
        ("    input: flights\n    steps:", "    # A comment.\n    input: \"flights\"\n    steps:", vec![]),
        // An alias, a stream, and a source that are called differently: names change, content does not.
        ("  same: {input: flights_known}", "  same: {input: flights_known, steps: []}", vec![]),
        // A step, and all after it.
        ("arr_delay > 15", "arr_delay > 16", known(1)),
        ("with: mean", "with: median", known(3)),
        ("within_seconds: 10800", "within_seconds: 10801", known(2)),
        ("learner: logistic_regression", "learner: {logistic_regression: {update: ftrl}}", known(4)),
        // What is joined.
        ("wind_speed < 200", "wind_speed < 199", with(&["weather_clean/0/require"], known(2))),
        // A source, and all after it.
        (
            "lateness_seconds: 1.5",
            "lateness_seconds: 2",
            with(&["source/weather", "weather_clean/0/require"], known(2)),
        ),
        ("{column: known_at}", "{column: known_at, lateness_seconds: 1}", with(&["source/flights"], known(0))),
        ("{carrier: text, origin: text,", "{origin: text, carrier: text,", with(&["source/flights"], known(0))),
        // Questions.
        ("topic: flight-questions", "topic: other-questions", vec!["request/questions".to_owned()]),
        ("topic: flight-answers", "topic: other-answers", vec![]),
    ];
    for (from, to, expected) in cases {
        let text = FLIGHTS.replace(from, to);
        assert_ne!(text, FLIGHTS, "{from}");
        assert_eq!(changed(&text), expected, "{from} -> {to}");
    }
}

/// How records are received is no part of what they are; which topic keeps them is, also where it is not named.
#[test]
fn a_fingerprint_knows_the_topic_that_keeps_what_is_received() {
    let fingerprint = |source: &str, from: &str| {
        let text = format!(
            "{{millstream: 1, name: p, sources: {{{source}: {{from: {from}, format: raw, columns: {{value: text}}}}}}}}"
        );
        plan(&text).fingerprints().into_values().collect::<Vec<_>>()
    };
    let received = fingerprint("posts", r#"{http: {listen: "127.0.0.1:8080"}}"#);
    for same in [
        r#"{http: {listen: "127.0.0.1:8081", path: /posts, token: "${env:TOKEN}"}}"#,
        r#"{http: {listen: "127.0.0.1:8080", topic: p.posts}}"#,
        r#"{mqtt: {server: "localhost:1883", topics: [posts]}}"#,
    ] {
        assert_eq!(fingerprint("posts", same), received, "{same}");
    }
    assert_eq!(fingerprint("renamed", r#"{http: {listen: "127.0.0.1:1", topic: p.posts}}"#), received);
    assert_ne!(fingerprint("renamed", r#"{http: {listen: "127.0.0.1:8080"}}"#), received, "another topic");
    assert_ne!(fingerprint("posts", r#"{http: {listen: "127.0.0.1:8080", partitions: 2}}"#), received);
}

/// What things are called is no part of what they are.
#[test]
fn fingerprints_do_not_know_names() {
    let values = |text: &str| {
        let mut values: Vec<String> = plan(text).fingerprints().into_values().collect();
        values.sort();
        values
    };
    let renamed = FLIGHTS
        .replace("weather_clean", "sky")
        .replace("flights_known", "landed")
        .replace("  late:\n", "  delayed:\n")
        .replace("model: late", "model: delayed")
        .replace("from: late", "from: delayed")
        .replace("  questions: {", "  asked: {");
    assert_ne!(plan(FLIGHTS).fingerprints(), plan(&renamed).fingerprints());
    assert_eq!(values(FLIGHTS), values(&renamed));
    // A column that has the name of the joined stream is another column all the same.
    let columns = |stream: &str, column: &str| {
        format!(
            "millstream: 1\nname: a\nsources: {{s: {{from: {{topic: {{name: t}}}}, format: json, \
             columns: {{k: text, v: text, w: text, at: timestamp}}}}}}\nstreams:\n  {stream}: {{input: s}}\n  \
             joined: {{input: s, steps: [{{join_as_of: {{columns: [{column}], with: {stream}, by: [k], \
             within_seconds: 1, prefix: p_}}}}]}}\n"
        )
    };
    assert_eq!(values(&columns("x", "v")), values(&columns("y", "v")));
    assert_ne!(values(&columns("v", "v")), values(&columns("w", "w")));
}

#[test]
fn checkpoints_and_delivery_are_read() {
    let plain = plan(FLIGHTS);
    assert_eq!((plain.checkpoints.clone(), plain.delivery), (Checkpoints::default(), Delivery::ExactlyOnce));
    let text = format!(
        "{FLIGHTS}checkpoints: {{to: \"s3://bucket/a\", every_seconds: 0.5, every_bytes: 7, keep: 4}}\ndelivery: at_least_once\n"
    );
    let other = plan(&text);
    let expected = Checkpoints { to: Some("s3://bucket/a".to_owned()), every_seconds: 0.5, every_bytes: 7, keep: 4 };
    assert_eq!((other.checkpoints, other.delivery), (expected, Delivery::AtLeastOnce));
    assert_eq!(other.digest, plain.digest, "they change no result");
    let partly = plan(&format!("{FLIGHTS}checkpoints: {{keep: 5}}\n"));
    assert_eq!(partly.checkpoints, Checkpoints { keep: 5, ..Checkpoints::default() });
}
