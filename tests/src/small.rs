//! A small pipeline with every stateful step and every learner, two partitions in each topic, and input of every kind: in order and not,
//! late, twice, incomplete, and unreadable.

use std::fmt::Write;

use millstream_connectors::broker::Message;

use crate::{NOW_MS, message};

/// The topics of its sinks, by their names.
pub const SINKS: [&str; 6] = ["rows", "rooms", "visits", "exposed", "mended", "grid"];

/// The definition. `topics` goes before the names of its topics and its own, for brokers that others use, too.
pub fn definition(broker: &str, topics: &str) -> String {
    DEFINITION.replace("BROKER", broker).replace("TOPICS-", topics)
}

const DEFINITION: &str = r#"
millstream: 1
name: TOPICS-small
broker: BROKER
sources:
  weather:
    from: {topic: {name: TOPICS-weather, partitions: 2}}
    format: json
    columns: {at: timestamp, room: text, wind: float, sky: text}
    event_time: {column: at, lateness_seconds: 5}
    idle_seconds: 1000000
  readings:
    from: {topic: {name: TOPICS-readings, partitions: 2}}
    format: {json: {unknown: reject}}
    columns: {at: timestamp, sensor: text, room: text, temperature: float, humidity: float, count: int, hot: bool}
    event_time: {column: at, lateness_seconds: 5, corrections_seconds: 5}
    idle_seconds: 1000000
streams:
  outside:
    input: weather
    steps:
      - require: {that: "room is not null"}
      - impute: {columns: [wind, sky], with: last, by: [room]}
  rooms:
    input: readings
    steps:
      - aggregate:
          by: [room]
          window: {tumbling_seconds: 10}
          corrections_seconds: 5
          columns: {room_mean: mean(temperature), room_p90: "quantile(temperature, 0.9)", readings: count(), sensors: distinct(sensor)}
  visits:
    input: readings
    steps:
      - aggregate: {by: [sensor, room], window: {session_gap_seconds: 3}, corrections_seconds: 5, columns: {readings: count()}}
  standing:
    input: outside
    steps:
      - latest: {by: [room], deleted: "wind > 45"}
  exposed:
    input: readings
    steps:
      - join: {with: standing, by: [room], within_seconds: 20, kind: left, columns: [wind]}
      - aggregate: {by: [room], columns: {windiest: max(wind), known: count(wind)}}
  mended:
    input: readings
    steps:
      - require: {that: "sensor is not null", lanes: learn}
      - interpolate: {columns: [temperature], by: [sensor], within_seconds: 4}
      - outliers: {columns: [temperature], by: [sensor], method: {mad: {limit: 4}}, then: flag}
      - outliers: {columns: [humidity], by: [room], method: {hampel: {window: 5, limit: 3}}}
      - outliers: {columns: [count], method: {z_score: {limit: 3}}, then: clip}
      - target_mean: {target: temperature, by: [room], prior: 15}
      - rolling: {by: [sensor], within_seconds: 20, columns: {recent: mean(temperature), spread: deviation(humidity), rooms: distinct(room)}}
      - flag_stuck: {columns: [humidity], by: [sensor], readings: 3}
      - lag: {columns: [humidity, count], by: [sensor], rows: 3, within_seconds: 15}
      - flag_drift: {columns: [temperature], by: [room]}
      - mark_gaps: {by: [sensor], longer_than_seconds: 3}
      - winsorise: {columns: [recent], by: [room]}
      - scale: {columns: [spread], method: robust, by: [room]}
  grid:
    input: readings
    steps:
      - resample: {by: [room], every_seconds: 5, within_seconds: 10}
  room_results:
    input: rooms
    steps:
      - as_stream: {}
  outcomes:
    input: readings
    steps:
      - require: {that: "count is not null and hot is not null", otherwise: drop, lanes: learn}
      - select: {columns: [count, hot]}
  known:
    input: readings
    steps:
      - require: {that: "hot is not null", otherwise: drop, lanes: learn}
      - require: {that: "temperature is null or temperature < 80", otherwise: {"null": [temperature]}}
      - require: {that: "sensor is not null"}
      - deduplicate: {by: [sensor, count], within_seconds: 30}
      - derive: {warmth: "temperature * 1.8 + 32", second: "cast(date_part('second', at) as double)", turn: "cast(count % 5 as text)"}
      - join_as_of: {with: outside, by: [room], at: at, within_seconds: 20, columns: [wind, sky]}
      - impute: {columns: [temperature], with: mean, by: [sensor]}
      - impute: {columns: [humidity], with: median, by: [room]}
      - impute: {columns: [wind], with: last, by: [sensor]}
      - join_as_of: {with: room_results, by: [room], within_seconds: 40, columns: [room_mean]}
      - impute: {columns: [temperature, humidity, wind, warmth, room_mean], with: {constant: 0}}
      - clip: {columns: [wind], min: 0, max: 50}
      - standardise: {columns: [temperature, humidity, wind]}
      - standardise: {columns: [warmth], by: [room]}
      - hash_category: {columns: [sensor, sky], buckets: 16}
      - one_hot: {column: room, categories: [attic, hall, cellar]}
models:
  hot:
    input: known
    label: hot
    features: [temperature, humidity, wind, warmth, room_mean, second, sensor, sky, room=attic, room=hall, room=cellar, room=other]
    learner: {logistic_regression: {update: ftrl}}
    promote: {every_examples: 50}
  next_count:
    input: known
    label: count
    features: [temperature, second, sensor]
    learner: {linear_regression: {}}
  # All that tell yes from no, each within another.
  is_hot:
    input: known
    label: hot
    features: [temperature, humidity, second, {cross: [sensor, sky], buckets: 32}, sensor]
    evaluate: {window: 30, by: [count]}
    drift: [{detector: {page_hinkley: {threshold: 2, warm_up: 10}}, then: {challenger: {examples: 15}}}]
    learner:
      vote:
        of:
          - champion: {of: [passive_aggressive, linear_svm, alma]}
          - stack: {of: [gaussian_naive_bayes, bernoulli_naive_bayes, linear_discriminant, quadratic_discriminant]}
          - mean: {of: [factorization_machine_classifier, {nearest_neighbors: {window: 40}}, {softmax_regression: {update: adamw}}]}
          - one_vs_rest: {of: {logistic_regression: {update: rmsprop}}}
          - hoeffding_tree: {grace_period: 10}
          - hoeffding_adaptive_tree: {tree: {grace_period: 10}}
          - neural_network:
              network: {cross: {crosses: 1, layers: {hidden: [6], normalise: batch, dropout: 0.2}}}
              training: {mini_batch: 7, average: 0.9, embedding: {size: 3, seen_at_least: 2, expire_examples: 20}, replay: {rows: 10, per_batch: 3, by_class: true}}
  trees:
    input: known
    label: hot
    features: [temperature, humidity, second, sensor]
    drift:
      - {detector: adwin, then: {roll_back: {every_examples: 20}}}
      - {detector: {ddm: {warm_up: 10}}, then: reset}
    learner:
      mean:
        of:
          - adaptive_random_forest: {trees: 3, grace_period: 10}
          - streaming_random_patches: {trees: 3, tree: {grace_period: 10}}
          - online_bagging: {trees: 3, tree: {grace_period: 10}}
          - leveraging_bagging: {trees: 3, tree: {grace_period: 10}}
          - streaming_gradient_boosted_trees: {steps: 3}
  numbers:
    input: known
    label: temperature
    features: [second, count, sensor, sky]
    weight: second
    evaluate: {window: 30}
    learner:
      mean:
        of:
          - ridge_regression
          - {linear_regression: {loss: huber, update: momentum}}
          - passive_aggressive_regression
          - factorization_machine_regressor
          - matrix_factorization
          - nearest_neighbors_regression: {window: 40}
          - hoeffding_tree_regressor: {grace_period: 10}
          - adaptive_random_forest_regressor: {trees: 3, tree: {grace_period: 10}}
          - neural_network_regressor:
              network: {gru: {steps: 2, units: 3}}
              training: {mini_batch: 5, optimizer: {sgd: {rate: 0.1, momentum: 0.9}}, stop: {patience_steps: 6}}
  which_turn:
    input: known
    label: turn
    classes: [0, 1, 2, 3, 4]
    features: [second, humidity]
    learner: multinomial_naive_bayes
  # Labels that come later, and rows that are taken back.
  awaited:
    input: known
    label: {from: outcomes, column: hot, by: [count], within_seconds: 15, otherwise: false, waiting_max: 20}
    features: [temperature, second]
    learner: {logistic_regression: {update: nag}}
  by_room:
    input: rooms
    label: readings
    features: [room_mean, sensors]
    learner: ridge_regression
  groups: {input: known, features: [temperature, humidity], learner: {k_means: {groups: 3}}}
  unusual: {input: known, features: [temperature, humidity], learner: {half_space_trees: {trees: 5, window: 20}}}
  odd: {input: known, features: [temperature, humidity], learner: {robust_random_cut_forest: {trees: 4, window: 16}}}
  strange: {input: known, features: [temperature, humidity], learner: {autoencoder: {layers: {hidden: [2]}, training: {mini_batch: 6}}}}
  # Its mini-batches are so large that other processes, where there are any, learn half of each.
  shared:
    input: known
    label: temperature
    features: [second, humidity, sensor]
    learner:
      neural_network_regressor:
        network: {mlp: {hidden: [8], normalise: batch, dropout: 0.1}}
        training: {mini_batch: 128, parts: 2, embedding: {size: 2}}
  explores: {input: known, label: temperature, action: turn, actions: [0, 1, 2, 3, 4], features: [humidity], learner: epsilon_greedy}
  trusts: {input: known, label: temperature, action: turn, actions: [0, 1, 2, 3, 4], features: [humidity], learner: linear_ucb}
  samples: {input: known, label: temperature, action: turn, actions: [0, 1, 2, 3, 4], features: [humidity], learner: thompson_sampling}
requests:
  questions:
    topic: TOPICS-questions
    partitions: 2
    enters: readings
    model: hot
    policy: {best: {of: [trees, is_hot], by: log_loss, over: all}}
    answers: {topic: TOPICS-answers, partitions: 2}
    others: {topic: TOPICS-others, partitions: 2}
sinks:
  rows: {from: known, to: {topic: {name: TOPICS-rows}}}
  rooms: {from: rooms, to: {topic: {name: TOPICS-rooms}}}
  visits: {from: visits, to: {topic: {name: TOPICS-visits}}}
  exposed: {from: exposed, to: {topic: {name: TOPICS-exposed}}}
  mended: {from: mended, to: {topic: {name: TOPICS-mended}}}
  grid: {from: grid, to: {topic: {name: TOPICS-grid}}}
"#;

/// The definition with what fills its topics from [`files`] while the pipeline runs.
pub fn fed(broker: &str, topics: &str) -> String {
    definition(broker, topics) + &FEEDS.replace("TOPICS-", topics)
}

const FEEDS: &str = r#"
feeds:
  weather: {from: {file: {path: weather.csv}}, format: csv, time: at, topic: TOPICS-weather, partitions: 2, key: at}
  readings: {from: {file: {path: "readings-*.csv"}}, format: csv, time: at, topic: TOPICS-readings, partitions: 2, key: sensor}
  questions:
    from: {file: {path: questions.csv}}
    format: csv
    columns: {at: timestamp, sensor: text, room: text, temperature: float, count: int}
    time: at
    topic: TOPICS-questions
    partitions: 2
    key: sensor
"#;

/// Files for [`fed`]: about two readings a second, and a question every four. All can be read, but now and then the weather
/// is that of no room.
pub fn files(seed: u64, seconds: u64) -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(seed);
    let mut weather = "at,room,wind,sky\n".to_owned();
    let header = "at,sensor,room,temperature,humidity,count,hot\n";
    let mut readings = [header.to_owned(), header.to_owned()];
    let mut questions = "at,sensor,room,temperature,count\n".to_owned();
    for second in 0..seconds {
        let (at, room) = (time(second, random.below(900)), random.pick(&["attic", "hall", "cellar"]));
        let (sensor, degrees) = (random.below(7), random.below(40));
        // Writing to a string cannot fail.
        let outside = if second % 16 == 5 { "" } else { room };
        let _ = writeln!(weather, "{at},{outside},{},grey", random.below(50));
        let half = &mut readings[usize::from(second >= seconds / 2)];
        for (later, humidity) in [(0, ""), (50, "55")] {
            let _ = writeln!(half, "{},s{sensor},{room},{degrees},{humidity},{second},{}", at + later, degrees > 22);
        }
        if second % 4 == 3 {
            let _ = writeln!(questions, "{at},s{sensor},{room},{degrees},{second}");
        }
    }
    let [first, second] = readings;
    let files =
        [("weather.csv", weather), ("readings-1.csv", first), ("readings-2.csv", second), ("questions.csv", questions)];
    files.map(|(name, content)| (name, content.into_bytes())).into()
}

/// Numbers that only look random: the same from the same seed on every machine.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end` (`SplitMix64`).
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Records that the small pipeline learns from.
pub struct Input {
    /// For the topic `weather`.
    pub weather: Vec<Message>,
    /// For the topic `readings`.
    pub readings: Vec<Message>,
}

/// What happens in `seconds` from `from_second` on. Its last row teaches, and lies beyond all others in time.
pub fn input(seed: u64, from_second: u64, seconds: u64) -> Input {
    let mut random = Random::new(seed ^ from_second);
    let (mut weather, mut readings) = (Vec::new(), Vec::new());
    // The first and the last seconds are left free of disorder, so that one input can follow another.
    for second in from_second + 10..from_second + seconds {
        if random.once_in(4) {
            let at = time(second, random.below(1000));
            let wind = if random.once_in(4) { "null".to_owned() } else { random.below(60).to_string() };
            let room = random.pick(&["attic", "hall", "cellar"]);
            let sky = random.pick(&["\"clear\"", "\"grey\"", "null"]);
            weather.push(message(
                Some(&second.to_string()),
                format!(r#"{{"at":{at},"room":"{room}","wind":{wind},"sky":{sky}}}"#),
            ));
        }
        readings.push(reading(&mut random, second));
        if random.once_in(10) {
            readings.push(message(Some("s1"), bad(&mut random, second)));
        }
        if random.once_in(10) {
            readings.extend(readings.last().cloned());
        }
    }
    let at = time(from_second + seconds + 20, 0);
    weather.push(message(Some("hall"), format!(r#"{{"at":{at},"room":"hall","wind":3}}"#)));
    let last =
        format!(r#"{{"at":{at},"sensor":"s1","room":"hall","temperature":20.5,"humidity":50,"count":7,"hot":true}}"#);
    readings.push(message(Some("s1"), last));
    Input { weather, readings }
}

/// A good reading; a few seconds early or late, sometimes a minute, with gaps.
fn reading(random: &mut Random, second: u64) -> Message {
    let back = if random.once_in(25) { 60 } else { random.below(6) };
    let at = time(second.saturating_sub(back), random.below(1000));
    let sensor = format!("s{}", random.below(7));
    let temperature = random.below(400) as f64 / 10.0;
    let mut text = format!(r#"{{"at":{at},"sensor":"{sensor}""#);
    let mut add = |name: &str, value: String, missing_in: u64| {
        if !random.once_in(missing_in) {
            let _ = write!(text, r#","{name}":{value}"#);
        }
    };
    add("room", format!(r#""{}""#, ["attic", "hall", "cellar", "shed"][(second % 4) as usize]), 20);
    add("temperature", if second % 40 == 7 { "999".to_owned() } else { temperature.to_string() }, 8);
    add("humidity", (second * 37 % 101).to_string(), 5);
    add("count", (second / 3 % 11).to_string(), 15);
    add("hot", (temperature > 22.0).to_string(), 6);
    message(Some(&sensor), text + "}")
}

fn bad(random: &mut Random, second: u64) -> Vec<u8> {
    let at = time(second, 0);
    match random.below(6) {
        0 => b"{not json".to_vec(),
        1 => b"{\"sensor\":\"\xff\xfe\"}".to_vec(),
        2 => format!(r#"{{"at":{at},"sensor":"s1","tempreature":1}}"#).into_bytes(),
        3 => format!(r#"{{"at":{at},"sensor":"s1","temperature":NaN}}"#).into_bytes(),
        4 => format!(r#"{{"at":{at},"sensor":null,"hot":true}}"#).into_bytes(),
        _ => br#"{"at":null,"sensor":"s2","hot":true}"#.to_vec(),
    }
}

/// Questions about `count` moments after `second`; some without an answer.
pub fn questions(seed: u64, second: u64, count: u64) -> Vec<Message> {
    let mut random = Random::new(seed);
    let question = |number: u64| {
        let at = time(second + number, 0);
        let sensor = format!("s{}", random.below(9));
        if random.once_in(12) {
            return message(Some(&sensor), "what?");
        }
        let room = random.pick(&["attic", "hall", "shed"]);
        let temperature = random.pick(&["null", "12.5", "31", "999"]);
        message(
            Some(&sensor),
            format!(
                r#"{{"at":{at},"sensor":"{sensor}","room":"{room}","temperature":{temperature},"count":{number}}}"#
            ),
        )
    };
    (0..count).map(question).collect()
}

fn time(second: u64, millisecond: u64) -> u64 {
    NOW_MS as u64 + second * 1000 + millisecond
}
