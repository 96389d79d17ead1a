//! The example's files as JSON records, written by `serde_json` as if a topic lay between.

use std::fs::File;
use std::path::Path;

use csv::invalid_option;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
#[allow(clippy::struct_field_names, reason = "named as in the files")]
pub struct Flight<'a> {
    pub known_at: &'a str,
    pub scheduled_at: &'a str,
    pub carrier: &'a str,
    pub flight: i64,
    pub tailnum: &'a str,
    pub origin: &'a str,
    pub dest: &'a str,
    pub distance: f64,
    #[serde(deserialize_with = "invalid_option")]
    pub dep_delay: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub arr_delay: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub air_time: Option<f64>,
}

#[derive(Deserialize, Serialize)]
pub struct Question<'a> {
    pub asked_at: &'a str,
    pub scheduled_at: &'a str,
    pub carrier: &'a str,
    pub flight: i64,
    pub tailnum: &'a str,
    pub origin: &'a str,
    pub dest: &'a str,
    pub distance: f64,
}

#[derive(Deserialize, Serialize)]
pub struct Weather<'a> {
    pub observed_at: &'a str,
    pub origin: &'a str,
    #[serde(deserialize_with = "invalid_option")]
    pub temp: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub dewp: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub humid: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub wind_dir: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub wind_speed: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub wind_gust: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub precip: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub pressure: Option<f64>,
    #[serde(deserialize_with = "invalid_option")]
    pub visib: Option<f64>,
}

/// Milliseconds since 1970 of `2013-01-01T12:03:00Z`.
pub fn ms(text: &str) -> i64 {
    let number = |from: usize, to: usize| text[from..to].bytes().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60_000 + number(17, 19) * 1000
}

/// A record of a topic.
pub struct Record {
    pub time: i64,
    pub topic: Topic,
    pub json: Vec<u8>,
}

/// Those that come first at the same time stand first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Weather,
    Flights,
    Questions,
}

/// The example's files as JSON, in the order of time.
pub fn feed(data: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    each_line(data, "weather", |row, headers| {
        let weather: Weather<'_> = row.deserialize(Some(headers)).expect("a reading");
        records.push(record(weather.observed_at, Topic::Weather, &weather));
    });
    each_line(data, "flights", |row, headers| {
        let flight: Flight<'_> = row.deserialize(Some(headers)).expect("a flight");
        records.push(record(flight.known_at, Topic::Flights, &flight));
    });
    each_line(data, "questions", |row, headers| {
        let question: Question<'_> = row.deserialize(Some(headers)).expect("a question");
        records.push(record(question.asked_at, Topic::Questions, &question));
    });
    records.sort_by_key(|record| (record.time, record.topic));
    records
}

fn each_line(data: &Path, name: &str, mut each: impl FnMut(&csv::StringRecord, &csv::StringRecord)) {
    let file = File::open(data.join(format!("{name}.csv.gz"))).expect("the example has data");
    let mut reader = csv::Reader::from_reader(GzDecoder::new(file));
    let headers = reader.headers().expect("text").clone();
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).expect("CSV") {
        each(&row, &headers);
    }
}

fn record(time: &str, topic: Topic, value: &impl Serialize) -> Record {
    Record { time: ms(time), topic, json: serde_json::to_vec(value).expect("plain values are JSON") }
}
