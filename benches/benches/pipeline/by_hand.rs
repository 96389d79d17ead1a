//! The flight example as one would write it by hand: one loop, one thread, everything in memory, nothing durable.
//!
//! It reads records with `serde_json` and does what the example's steps do, the simplest way: running means where the
//! example has medians, and a plain Adagrad. A record that is broken ends it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::records::{Flight, Question, Record, Topic, Weather, ms};

const READINGS: usize = 7;
const DENSE: usize = 15;
const BUCKETS: u64 = 256;
const HOUR_MS: i64 = 3_600_000;

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub examples: u64,
    pub answers: u64,
    log_loss: f64,
}

impl Outcome {
    pub fn log_loss(&self) -> f64 {
        self.log_loss / self.examples as f64
    }
}

/// Goes through the records once: learns, and answers.
pub fn learn(records: &[Record]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut airports = Airports::default();
    let mut model = Logistic::new();
    let mut sent = Vec::new();
    for record in records {
        match record.topic {
            Topic::Weather => airports.weather(&serde_json::from_slice(&record.json).expect("a reading")),
            Topic::Questions => {
                let asked: Question<'_> = serde_json::from_slice(&record.json).expect("a question");
                let ask = Ask::of_question(&asked);
                let (dense, active) = airports.features(&ask, false);
                let answer =
                    serde_json::json!({"request": outcome.answers, "probability": model.predict(&dense, active)});
                sent.push(answer.to_string());
                outcome.answers += 1;
            }
            Topic::Flights => {
                let flight: Flight<'_> = serde_json::from_slice(&record.json).expect("a flight");
                let ask = Ask::of_flight(&flight);
                let Some(delay) = flight.arr_delay.filter(|_| airports.is_new(&ask)) else { continue };
                let (dense, active) = airports.features(&ask, true);
                let late = delay > 15.0;
                let probability = model.learn(&dense, active, late);
                let of_label = if late { probability } else { 1.0 - probability };
                outcome.log_loss -= of_label.max(1e-15).ln();
                outcome.examples += 1;
                airports.landed(&flight, record.time, delay);
            }
        }
    }
    std::hint::black_box(sent);
    outcome
}

/// What is known of a flight before it starts.
struct Ask<'a> {
    scheduled_ms: i64,
    carrier: &'a str,
    flight: i64,
    tailnum: &'a str,
    origin: &'a str,
    dest: &'a str,
    distance: f64,
}

impl<'a> Ask<'a> {
    fn of_flight(flight: &Flight<'a>) -> Self {
        let Flight { carrier, flight: number, tailnum, origin, dest, distance, .. } = *flight;
        Self { scheduled_ms: ms(flight.scheduled_at), carrier, flight: number, tailnum, origin, dest, distance }
    }

    fn of_question(question: &Question<'a>) -> Self {
        let Question { carrier, flight, tailnum, origin, dest, distance, .. } = *question;
        Self { scheduled_ms: ms(question.scheduled_at), carrier, flight, tailnum, origin, dest, distance }
    }
}

/// Rows of a key in the order of time.
#[derive(Default)]
struct History<T>(Vec<(i64, T)>);

impl<T: Copy> History<T> {
    fn as_of(&self, at: i64, within_ms: i64) -> Option<T> {
        let known = self.0.partition_point(|(time, _)| *time <= at);
        let (time, value) = self.0[..known].last()?;
        (at - time <= within_ms).then_some(*value)
    }
}

type Readings = [Option<f64>; READINGS];

/// Everything that the steps remember.
#[derive(Default)]
struct Airports {
    weather: HashMap<String, History<Readings>>,
    planes: HashMap<String, History<f64>>,
    delays: HashMap<String, History<Option<f64>>>,
    means: HashMap<String, [Moments; READINGS]>,
    seen: HashSet<(i64, i64, u64)>,
    scales: [Moments; 9],
}

impl Airports {
    fn weather(&mut self, reading: &Weather<'_>) {
        let (mut speed, mut gust) = (reading.wind_speed, reading.wind_gust);
        if speed.is_some_and(|speed| speed >= 200.0) {
            (speed, gust) = (None, None);
        }
        let now = [reading.temp, reading.humid, speed, gust.or(speed), reading.precip, reading.pressure, reading.visib];
        let history = entry(&mut self.weather, reading.origin);
        let last = history.0.last().map_or([None; READINGS], |(_, last)| *last);
        history.0.push((ms(reading.observed_at), std::array::from_fn(|at| now[at].or(last[at]))));
    }

    fn is_new(&mut self, ask: &Ask<'_>) -> bool {
        let known = !ask.tailnum.is_empty() && ask.tailnum != "NA";
        known && self.seen.insert((ask.scheduled_ms, ask.flight, hash(0, &(ask.carrier, ask.origin))))
    }

    fn landed(&mut self, flight: &Flight<'_>, time: i64, delay: f64) {
        entry(&mut self.planes, flight.tailnum).0.push((time, delay));
        entry(&mut self.delays, flight.origin).0.push((time, flight.dep_delay));
    }

    /// The features: numbers, and the indices of the categories.
    fn features(&mut self, ask: &Ask<'_>, learns: bool) -> ([f64; DENSE], [usize; 4]) {
        let at = ask.scheduled_ms;
        let weather = self.weather.get(ask.origin).and_then(|history| history.as_of(at, 3 * HOUR_MS));
        let plane = self.planes.get(ask.tailnum).and_then(|history| history.as_of(at, 12 * HOUR_MS));
        let delay = self.delays.get(ask.origin).and_then(|history| history.as_of(at, 2 * HOUR_MS)).flatten();
        let weather = self.filled(ask.origin, weather.unwrap_or_default(), learns);
        let [temp, humid, speed, gust, precip, pressure, visib] = weather;
        let (late_plane, late_airport) = (plane.unwrap_or(0.0), delay.unwrap_or(0.0));
        let raw = [
            ask.distance,
            temp,
            humid,
            speed,
            gust,
            pressure,
            visib,
            late_plane.clamp(-30.0, 120.0),
            late_airport.clamp(-30.0, 120.0),
        ];
        let mut scaled = [0.0; 9];
        for (moments, (value, scaled)) in self.scales.iter_mut().zip(raw.iter().zip(&mut scaled)) {
            *scaled = moments.score(*value);
            if learns {
                moments.push(*value);
            }
        }
        let hour = at.rem_euclid(24 * HOUR_MS) as f64 / HOUR_MS as f64;
        let mut dense = [0.0; DENSE];
        dense[..9].copy_from_slice(&scaled);
        dense[9..12].copy_from_slice(&[hour, precip, f64::from(u8::from(plane.is_none()))]);
        for (place, origin) in ["EWR", "JFK", "LGA"].iter().enumerate() {
            dense[12 + place] = f64::from(u8::from(ask.origin == *origin));
        }
        let (weekday, of_day) = (at.div_euclid(24 * HOUR_MS) % 7, hour as i64);
        let bucket = |column: usize, hash: u64| column * BUCKETS as usize + (hash % BUCKETS) as usize;
        let active = [
            bucket(0, hash(0, ask.carrier)),
            bucket(1, hash(1, &(ask.origin, ask.dest))),
            bucket(2, hash(2, &weekday)),
            bucket(3, hash(3, &of_day)),
        ];
        (dense, active)
    }

    /// Means of the airport where readings are missing.
    fn filled(&mut self, origin: &str, readings: Readings, learns: bool) -> [f64; READINGS] {
        let means = entry(&mut self.means, origin);
        let filled = std::array::from_fn(|at| readings[at].unwrap_or(means[at].mean));
        for (mean, reading) in means.iter_mut().zip(readings).filter(|_| learns) {
            if let Some(reading) = reading {
                mean.push(reading);
            }
        }
        filled
    }
}

/// A key's value, without an allocation where it is known.
fn entry<'a, T: Default>(map: &'a mut HashMap<String, T>, key: &str) -> &'a mut T {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key).expect("it was put in")
}

fn hash(column: u8, value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    column.hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn push(&mut self, value: f64) {
        self.count += 1.0;
        let from_mean = value - self.mean;
        self.mean += from_mean / self.count;
        self.squares += from_mean * (value - self.mean);
    }

    fn score(&self, value: f64) -> f64 {
        let deviation = (self.squares / (self.count - 1.0)).sqrt();
        if self.count < 10.0 || deviation == 0.0 { 0.0 } else { ((value - self.mean) / deviation).clamp(-5.0, 5.0) }
    }
}

/// Logistic regression with Adagrad.
struct Logistic {
    dense: [f64; DENSE + 1],
    dense_squares: [f64; DENSE + 1],
    categories: Vec<f64>,
    category_squares: Vec<f64>,
}

impl Logistic {
    fn new() -> Self {
        let categories = vec![0.0; 4 * BUCKETS as usize];
        Self {
            dense: [0.0; DENSE + 1],
            dense_squares: [0.0; DENSE + 1],
            category_squares: categories.clone(),
            categories,
        }
    }

    fn predict(&self, dense: &[f64; DENSE], active: [usize; 4]) -> f64 {
        let numbers: f64 = self.dense.iter().zip(dense).map(|(weight, x)| weight * x).sum();
        let categories: f64 = active.iter().map(|&at| self.categories[at]).sum();
        1.0 / (1.0 + (-(numbers + categories + self.dense[DENSE])).exp())
    }

    fn learn(&mut self, dense: &[f64; DENSE], active: [usize; 4], late: bool) -> f64 {
        let probability = self.predict(dense, active);
        let error = probability - f64::from(u8::from(late));
        for at in 0..=DENSE {
            let x = dense.get(at).copied().unwrap_or(1.0);
            step(&mut self.dense[at], &mut self.dense_squares[at], error * x);
        }
        for at in active {
            step(&mut self.categories[at], &mut self.category_squares[at], error);
        }
        probability
    }
}

fn step(weight: &mut f64, squares: &mut f64, gradient: f64) {
    *squares += gradient * gradient;
    *weight -= 0.05 * gradient / (*squares + 1e-12).sqrt();
}
