//! Which of several models answers: by percentages, by a value, by who does best; and a replay chooses the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_connectors::broker::Message;
use millstream_engine::Result;
use millstream_engine::source::Position;
use millstream_engine::time::{StepClock, SystemClock};
use millstream_operators::registry::Registry;
use millstream_pipelines::audit::audit;
use millstream_pipelines::run::state::models_path;
use millstream_pipelines::run::{Checkpointing, Options, assemble};
use millstream_tests::{NOW_MS, Site, message, one_answer_each};
use serde_json::{Value, json};

/// `late` sees nothing useful before row 1000, and `early` nothing after it.
fn definition(policy: &str) -> String {
    format!(
        r"
millstream: 1
name: several
epochs: {{max_records: 50}}
sources:
  rows:
    from: {{topic: {{name: rows}}}}
    format: json
    columns: {{at: timestamp, customer: text, first: float, second: float, yes: bool}}
    event_time: {{column: at, lateness_seconds: 0}}
models:
  early: {{input: rows, label: yes, features: [first], learner: logistic_regression, evaluate: {{fading: 0.99}}}}
  late: {{input: rows, label: yes, features: [second], learner: logistic_regression, evaluate: {{fading: 0.99}}}}
requests:
  questions: {{topic: questions, enters: rows, model: early, policy: {policy}, answers: {{topic: answers}}, others: {{topic: others}}}}
"
    )
}

fn row(at: u32) -> Message {
    let yes = at.wrapping_mul(2_654_435_761) >> 16 & 1 == 1;
    let noise = f64::from(at.wrapping_mul(40_503) >> 8 & 0xff) / 128.0 - 1.0;
    let truth = if yes { 1.0 } else { -1.0 };
    let (first, second) = if at < 1000 { (truth, noise) } else { (noise, truth) };
    message(
        None,
        json!({"at": NOW_MS + 1000 * i64::from(at), "first": first, "second": second, "yes": yes}).to_string(),
    )
}

fn question(number: u32, customer: &str) -> Message {
    let at = NOW_MS + 10_000_000;
    message(
        None,
        json!({"at": at, "customer": customer, "first": 1, "second": f64::from(number % 7) - 3.0}).to_string(),
    )
}

/// Asks after each so many rows; gives by whom each question was answered, and the site.
fn answered(policy: &str, rows: u32, questions: u32) -> (Site, Vec<Value>) {
    let site = Site::new(&definition(policy), &[]);
    for from in (0..rows).step_by(200) {
        site.append("rows", &(from..(from + 200).min(rows)).map(row).collect::<Vec<_>>());
        site.run();
        let asked = (0..questions).map(|number| question(number, &format!("c{}", number % 40)));
        site.append("questions", &asked.collect::<Vec<_>>());
        site.run();
    }
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert_eq!(site.records("others").len(), answers.len(), "the other's answers are kept, too");
    // A run from the log must reach the recorded answers, and fails where it chooses otherwise.
    let again = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    assert!(again.epochs_replayed > 0);
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
    (site, answers)
}

fn by_model(answers: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer["model"].as_str().expect("who answered")).or_default() += 1;
    }
    counts
}

#[test]
fn in_the_shadow_only_the_own_model_answers() {
    let (_, answers) = answered("{shadow: {of: [late]}}", 200, 30);
    assert_eq!(by_model(&answers), BTreeMap::from([("early", 30)]));
}

#[test]
fn what_was_served_is_told_minute_by_minute() {
    let site = Site::new(&definition("{shadow: {of: [late]}}"), &[]);
    site.append("rows", &(0..200).map(row).collect::<Vec<_>>());
    site.run();
    site.append("questions", &(0..230).map(|number| question(number, "c")).collect::<Vec<_>>());
    // Each look at the clock is more than a minute after the last.
    site.run_with(&Options { clock: Arc::new(StepClock::new(NOW_MS, 61_000)), ..site.options() });
    let told: Vec<Value> = site.records("several.served").iter().map(millstream_tests::Record::json).collect();
    let sum = |of: fn(&Value) -> &Value| told.iter().map(|record| of(record).as_u64().expect("a count")).sum::<u64>();
    // All but those of the last epoch, in epochs of 50.
    assert_eq!((sum(|of| &of["answered"]["early"]["given"]), sum(|of| &of["epochs"])), (200, 4), "{told:?}");
    let [same, different] = [sum(|of| &of["others"]["late"]["same"]), sum(|of| &of["others"]["late"]["different"])];
    assert_eq!(same + different, 200);
    assert!(told[0]["from"].as_str() < told[0]["to"].as_str(), "{told:?}");
    let learned_through = NOW_MS + 199_000;
    let staleness = (NOW_MS + 10_000_000 - learned_through) as f64 / 1000.0;
    let median = told[0]["answered"]["early"]["staleness_seconds"]["median"].as_f64().expect("it is known");
    assert!((median / staleness - 1.0).abs() < 0.05, "{median} {staleness}");
    // `first` is learned as -1 and 1, and asked as 1.
    site.append("rows", &(200..400).map(row).collect::<Vec<_>>());
    site.append("questions", &(0..230).map(|number| question(number, "c")).collect::<Vec<_>>());
    site.run_with(&Options { clock: Arc::new(StepClock::new(NOW_MS, 61_000)), ..site.options() });
    let told: Vec<Value> = site.records("several.served").iter().map(millstream_tests::Record::json).collect();
    let skew = |record: &Value| record["skew"]["rows"]["first"].as_f64();
    assert!(told.iter().filter_map(skew).any(|skew| skew > 0.25), "{told:?}");
}

#[test]
fn a_canary_gets_its_percentage() {
    let (_, answers) = answered("{weighted: {percent: {late: 20}}}", 200, 2000);
    let late = by_model(&answers)["late"];
    // 400 are expected, with a deviation of 18.
    assert!((310..490).contains(&late), "{late} of 2000");
}

#[test]
fn requests_with_one_value_stay_with_one_model() {
    let (site, answers) = answered("{weighted: {percent: {late: 50}, sticky: customer}}", 400, 400);
    let mut models: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (question, answer) in site.records("questions").iter().zip(&answers) {
        let customer = question.json()["customer"].as_str().expect("a customer").to_owned();
        models.entry(customer).or_default().insert(answer["model"].as_str().expect("who answered"));
    }
    assert_eq!(models.len(), 40);
    assert!(models.values().all(|of_one| of_one.len() == 1), "{models:?}");
    assert_eq!(by_model(&answers).len(), 2, "both have some");
}

#[test]
fn requests_leave_a_model_that_becomes_worse() {
    let (site, answers) = answered("{best: {of: [late], by: log_loss, margin: 0.01}}", 2000, 10);
    let of_round = |round: usize| by_model(&answers[10 * round..10 * (round + 1)]);
    for round in 0..10 {
        let model = if round < 5 { "early" } else { "late" };
        if round != 5 {
            // Two hundred rows after the change it may be either; all of a moment go to one.
            assert_eq!(of_round(round), BTreeMap::from([(model, 10)]), "round {round}");
        }
    }
    let events: Vec<Value> = site.records("several.events").iter().map(millstream_tests::Record::json).collect();
    let [event] = events.as_slice() else { panic!("one change: {events:?}") };
    assert_eq!((&event["event"], &event["step"]), (&json!("leader_changed"), &json!("questions")));
    let about = &event["about"];
    assert_eq!((&about["from"], &about["to"]), (&json!("early"), &json!("late")));
    assert!(about["scores"]["late"].as_f64() < about["scores"]["early"].as_f64(), "{about}");
}

#[test]
fn a_request_may_name_who_answers_and_ask_for_the_features() {
    let asked = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Message { headers, ..question(3, "c") }
    };
    let questions = [
        asked(&[]),
        asked(&[("version", "late"), ("features", "true")]),
        asked(&[("version", "early"), ("features", "false")]),
        asked(&[("version", "v9")]),
        asked(&[("features", "")]),
    ];
    let shadow = definition("{shadow: {of: [late]}}");
    let may = shadow.replace("answers:", "on_request: [version, features], answers:");
    let answers_of = |definition: &str| {
        let site = Site::new(definition, &[]);
        site.append("rows", &(0..100).map(row).collect::<Vec<_>>());
        site.run();
        site.append("questions", &questions);
        site.run();
        let answers = one_answer_each(&site.records("questions"), &site.answers());
        let again = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
        assert!(again.epochs_replayed > 0);
        let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
        assert_eq!(report.wrong().count(), 0, "{}", report.text());
        let others: Vec<Value> = site.records("others").iter().map(millstream_tests::Record::json).collect();
        (answers, others)
    };
    let (answers, others) = answers_of(&may);
    let told: Vec<_> = answers.iter().map(|answer| (&answer["model"], &answer["features"])).collect();
    assert_eq!(told[0], (&json!("early"), &Value::Null));
    assert_eq!(told[1], (&json!("late"), &json!({"second": 0.0})));
    assert_eq!(told[2], (&json!("early"), &Value::Null));
    assert_eq!(told[4], (&json!("early"), &json!({"first": 1.0})));
    let error = json!({"step": "questions", "reason": "there is no version `v9`; there are early, late"});
    assert_eq!(answers[3]["error"], error);
    let others: Vec<&Value> = others.iter().map(|other| &other["model"]).collect();
    assert_eq!(others, ["late", "early", "late", "late"], "who was not asked for is compared");

    // What is not allowed is passed over.
    let (answers, _) = answers_of(&shadow);
    assert!(answers.iter().all(|answer| answer["model"] == "early" && answer["features"].is_null()), "{answers:?}");
}

#[test]
fn a_version_says_when_errors_drifted() {
    let guarded = "drift: [{detector: adwin, then: {challenger: {examples: 50}}}], promote: {every_examples: 500}";
    let definition = definition("{shadow: {of: [late]}}").replace("evaluate: {fading: 0.99}", guarded);
    let site = Site::new(&definition, &[]);
    site.append("rows", &(0..2000).map(row).collect::<Vec<_>>());
    site.run();
    let registry = Registry::open(&models_path(&site.state())).expect("it opens");
    let versions = registry.list().expect("listed").into_iter().filter_map(|listed| listed.version.ok());
    let early: Vec<_> = versions.filter(|version| version.metadata.model == "early").collect();
    assert_eq!(early.len(), 4);
    // `early` sees nothing useful from row 1000 on. What is noticed is told by one version.
    let drifts = early.iter().flat_map(|version| version.metadata.drifts.clone());
    let times: Vec<i64> = drifts.map(|drift| drift.time_ms).collect();
    assert!(times.len() > 1 && times.is_sorted(), "{times:?}");
    let drifted = early.iter().find(|version| !version.metadata.drifts.is_empty()).expect("it drifted");
    let drift = &drifted.metadata.drifts[0];
    assert_eq!((&*drift.event, &drift.about["action"]), ("drift", &json!("challenger")));
    let row = (drift.time_ms - NOW_MS) / 1000;
    assert!(
        (1000..1500).contains(&row) && drifted.metadata.examples > row as u64,
        "{row} {}",
        drifted.metadata.examples
    );
}

/// `early` and `late` answer; `router` learns from what answers earned, told by their numbers, who gets the next ones.
fn routed(learner: &str) -> String {
    let policy = "{bandit: {of: [late], by: router}}";
    let router = format!(
        r"
  router:
    input: choices
    label: {{from: rewards, column: reward, by: [number], within_seconds: 3600}}
    features: []
    actions: [early, late]
    action: model
    propensity: chosen_with
    learner: {learner}
streams:
  choices:
    input: given
    steps:
      - parse_json: {{column: request, into: {{number: offset}}}}
      - select: {{columns: [number, model, chosen_with]}}
requests:"
    );
    let sources = r"
sources:
  given:
    from: {topic: {name: answers}}
    format: json
    columns: {request: text, model: text, chosen_with: float}
  rewards:
    from: {topic: {name: rewards}}
    format: json
    columns: {number: text, reward: float}";
    definition(policy).replacen("\nsources:", sources, 1).replacen("\nrequests:", &router, 1)
}

/// Plays rounds of some questions, of which each answer earns 1 with the probability that `chance` gives for the round and
/// the model; gives the share of `late` in each round, and the site.
fn played(learner: &str, rounds: u32, chance: impl Fn(u32, &str) -> f64) -> (Site, Vec<f64>) {
    let site = Site::new(&routed(learner), &[]);
    site.append("rows", &(0..200).map(row).collect::<Vec<_>>());
    site.run();
    let (mut shares, mut told) = (Vec::new(), 0);
    for round in 0..rounds {
        site.append("questions", &(0..40).map(|number| question(number, "c")).collect::<Vec<_>>());
        site.run();
        let answers: Vec<Value> = site.answers().iter().map(millstream_tests::Record::json).collect();
        let rewards = answers[told..].iter().map(|answer| {
            let (number, model) = (answer["request"]["offset"].as_u64().expect("a number"), &answer["model"]);
            let drawn = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
            let chance = chance(round, model.as_str().expect("who answered"));
            let reward = u8::from((drawn as f64) < chance * (1_u64 << 53) as f64);
            message(None, json!({"number": number.to_string(), "reward": reward}).to_string())
        });
        let rewards: Vec<Message> = rewards.collect();
        let late = answers[told..].iter().filter(|answer| answer["model"] == "late").count();
        shares.push(late as f64 / rewards.len() as f64);
        told = answers.len();
        site.append("rewards", &rewards);
        site.run();
    }
    let answers = one_answer_each(&site.records("questions"), &site.answers());
    assert!(answers.iter().all(|answer| answer["chosen_with"].as_f64().is_some_and(|of| of > 0.0 && of <= 1.0)));
    let again = site.run_with(&Options { checkpoints: Checkpointing::Off, ..site.options() });
    assert!(again.epochs_replayed > 0, "and it reached what was recorded");
    let report = audit(&site.pipeline, &assemble::world(&site.pipeline, site.broker())).expect("it can be audited");
    assert_eq!(report.wrong().count(), 0, "{}", report.text());
    (site, shares)
}

#[test]
fn requests_go_where_answers_earn_most() {
    let (site, shares) = played("thompson_sampling", 12, |_, model| if model == "late" { 0.7 } else { 0.3 });
    assert_eq!(shares[0], 0.0, "before anything was earned the requests' own model answers");
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean(&shares[6..]) > 0.85, "{shares:?}");
    assert!(site.dead_letters().is_empty());
}

/// A run that does not end, while rows wait for younger ones: nothing was earned yet, so the router has learned nothing.
#[test]
fn nobody_waits_for_who_only_chooses() {
    let site = Site::new(&routed("thompson_sampling").replace("lateness_seconds: 0", "lateness_seconds: 60"), &[]);
    site.append("rows", &(0..200).map(row).collect::<Vec<_>>());
    site.append("questions", &(0..5).map(|number| question(number, "c")).collect::<Vec<_>>());
    assemble::create_topics(&site.pipeline, &*site.broker()).expect("there are topics");
    let options = Options { clock: Arc::new(SystemClock), ..site.options() };
    let read = || -> Result<usize> {
        let from = [Position { partition: 0, offset: 0 }];
        let (mut reader, mut seen) = (site.broker().open("answers", &from)?, 0);
        // A minute at most, where nothing comes.
        for _ in 0..60 {
            seen += reader.read(1 << 20, Duration::from_secs(1))?.map_or(0, |fetched| fetched.records.len());
            if seen >= 5 {
                break;
            }
        }
        Ok(seen)
    };
    let answers = site.while_running(options, |_| read());
    assert_eq!(answers.expect("it can be read"), 5);
}

#[test]
fn requests_leave_who_earns_less_than_before() {
    let degraded = |round, model: &str| if (model == "late") == (round < 12) { 0.9 } else { 0.1 };
    let (_, shares) = played("{exp3: {explore: 0.2, share: 0.01}}", 24, degraded);
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean(&shares[8..12]) > 0.7, "{shares:?}");
    // Within six rounds of 40 answers each.
    assert!(mean(&shares[18..]) < 0.35, "{shares:?}");
}

#[test]
fn answers_go_where_requests_want_them_and_carry_what_they_said() {
    let also = "headers: [correlation-id], reply_to: [mine], answers:";
    let site = Site::new(&definition("{shadow: {of: [late]}}").replace("answers:", also), &[]);
    site.append("rows", &(0..100).map(row).collect::<Vec<_>>());
    site.run();
    let asked = |id: &str, to: &str| {
        let headers = [("correlation-id", id), ("reply-to", to), ("secret", "s")];
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Message { headers, ..question(3, "c") }
    };
    site.append("questions", &[asked("a", "mine"), asked("b", "rows"), asked(&"c".repeat(1025), "mine")]);
    site.run();
    let headers = |topic: &str| site.records(topic).into_iter().map(|record| record.headers).collect::<Vec<_>>();
    let id = |id: &str| BTreeMap::from([("correlation-id".to_owned(), id.to_owned())]);
    assert_eq!(headers("answers"), [id("a"), id("b"), BTreeMap::new()]);
    assert_eq!(headers("mine"), [id("a"), BTreeMap::new()]);
    let values = |topic: &str| site.records(topic).into_iter().map(|record| record.value).collect::<Vec<_>>();
    let answers = values("answers");
    assert_eq!(values("mine"), [answers[0].clone(), answers[2].clone()]);
    assert_eq!(site.records("rows").len(), 100, "nowhere else");
}
