//! The sensor job as someone would write it who needs nothing else: one thread, one loop, no engine. It is the limit.
//!
//! The parser knows the columns and their order; a sensor's state is one entry of a vector, its channels side by side, so
//! that the compiler works on several at once; what is not needed for the result is not computed.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::records::{CHANNELS, LATENESS_MS};
use crate::{Counts, DEDUPLICATE_MS, Gives, LIMIT, RANGE, WARM_UP, WINDOW_MS};

const COUNT: usize = CHANNELS.len();
const CHUNK_BYTES: usize = 1 << 20;
/// So many wait before they are sorted.
const SORTED: usize = 8192;
/// Rows given to the Parquet writer at once.
const WRITTEN: usize = 8192;
/// A longer name of a sensor would be a malformed record.
const NAME_MAX: usize = 16;

type Channels = [f64; COUNT];
type Name = [u8; NAME_MAX];

/// A record; what is missing is not a number.
struct Reading {
    at: i64,
    sensor: u32,
    seq: u32,
    values: Channels,
}

/// Does the job, from one file to the other.
pub fn run(from: &Path, to: &Path, gives: Gives) -> Counts {
    let mut job = Job::new(to, gives);
    let mut file = File::open(from).expect("the records are there");
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        let read = file.read(&mut buffer[filled..]).expect("readable");
        filled += read;
        if read == 0 && filled > 0 {
            // The last line may have no end.
            buffer.truncate(filled);
            buffer.push(b'\n');
            job.lines(&buffer);
        }
        if read == 0 {
            return job.finish();
        }
        let end = buffer[..filled].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        job.lines(&buffer[..end]);
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

struct Job {
    sensors: Sensors,
    waiting: Vec<Reading>,
    order: Vec<(i64, u32)>,
    newest: i64,
    seen: HashMap<u64, i64, BuildHasherDefault<Mixed>>,
    /// When those that were seen long ago are forgotten next.
    forget: i64,
    states: Vec<State>,
    gives: Gives,
    out: Out,
    counts: Counts,
}

impl Job {
    fn new(to: &Path, gives: Gives) -> Self {
        Self {
            sensors: Sensors::default(),
            waiting: Vec::new(),
            order: Vec::new(),
            newest: i64::MIN,
            seen: HashMap::default(),
            forget: i64::MIN,
            states: Vec::new(),
            gives,
            out: Out::new(to, gives),
            counts: Counts::default(),
        }
    }

    /// Whole lines.
    fn lines(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            self.counts.records += 1;
            if let Some((reading, after)) = parse(rest, &mut self.sensors) {
                rest = after;
                self.newest = self.newest.max(reading.at);
                if reading.at < self.newest - LATENESS_MS {
                    self.counts.dead += 1;
                    continue;
                }
                self.waiting.push(reading);
                if self.waiting.len() >= 2 * SORTED && self.waiting.len() >= 2 * self.order.len() {
                    self.release(self.newest - LATENESS_MS);
                }
            } else {
                self.counts.dead += 1;
                let end = rest.iter().position(|byte| *byte == b'\n').expect("each line has an end");
                rest = &rest[end + 1..];
            }
        }
    }

    /// Takes what is before an instant, in the order of time.
    fn release(&mut self, before: i64) {
        self.states.resize_with(self.sensors.names.len(), State::default);
        let waiting = std::mem::take(&mut self.waiting);
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(waiting.iter().zip(0..).map(|(reading, at)| (reading.at, at)));
        // Nearly sorted already, which a stable sort makes use of.
        order.sort_by_key(|(time, _)| *time);
        let ready = order.partition_point(|(time, _)| *time < before);
        for (_, at) in &order[..ready] {
            self.take(&waiting[*at as usize]);
        }
        // What has to wait stays in the order in which it came.
        self.waiting = waiting;
        self.waiting.retain(|reading| reading.at >= before);
        order.truncate(self.waiting.len());
        self.order = order;
    }

    fn take(&mut self, reading: &Reading) {
        let at = reading.at;
        if at >= self.forget {
            self.seen.retain(|_, seen| at - *seen <= DEDUPLICATE_MS);
            self.forget = at + DEDUPLICATE_MS;
        }
        let key = u64::from(reading.sensor) << 32 | u64::from(reading.seq);
        if self.seen.insert(key, at).is_some_and(|seen| at - seen <= DEDUPLICATE_MS) {
            self.counts.duplicates += 1;
            return;
        }
        let state = &mut self.states[reading.sensor as usize];
        let (values, imputed) = state.means.fill(&reading.values);
        self.counts.imputed += imputed;
        if !values.iter().fold(true, |all, value| all & RANGE.contains(value)) {
            self.counts.filtered += 1;
            return;
        }
        let scores = state.moments.score(&values);
        match self.gives {
            Gives::Rows => self.out.row(reading.sensor, Some(reading.seq), at, &scores, &self.sensors),
            Gives::Windows => {
                if let Some((start, means)) = state.window.add(at, &scores) {
                    self.out.row(reading.sensor, None, start, &means, &self.sensors);
                }
            }
        }
    }

    fn finish(mut self) -> Counts {
        self.release(i64::MAX);
        for (sensor, state) in self.states.iter().enumerate() {
            // What goes on behind the newest record has not ended.
            if state.window.count > 0.0 && state.window.start + WINDOW_MS <= self.newest {
                self.out.row(sensor as u32, None, state.window.start, &state.window.means(), &self.sensors);
            }
        }
        self.counts.out = self.out.finish(&self.sensors);
        self.counts
    }
}

/// What is kept of a sensor.
#[derive(Default)]
struct State {
    means: Means,
    moments: Moments,
    window: Window,
}

#[derive(Default)]
struct Means {
    counts: Channels,
    sums: Channels,
}

impl Means {
    /// The values, with the means of those before for what is missing; how many were filled in.
    fn fill(&mut self, values: &Channels) -> (Channels, u64) {
        let mut filled = *values;
        if filled.iter().fold(false, |any, value| any | value.is_nan()) {
            return self.fill_some(filled);
        }
        for ((count, sum), value) in self.counts.iter_mut().zip(&mut self.sums).zip(values) {
            *count += 1.0;
            *sum += value;
        }
        filled = *values;
        (filled, 0)
    }

    #[cold]
    fn fill_some(&mut self, mut values: Channels) -> (Channels, u64) {
        let mut imputed = 0;
        for ((count, sum), value) in self.counts.iter_mut().zip(&mut self.sums).zip(&mut values) {
            if !value.is_nan() {
                *count += 1.0;
                *sum += *value;
            } else if *count > 0.0 {
                *value = *sum / *count;
                imputed += 1;
            }
        }
        (values, imputed)
    }
}

/// Welford's; all channels have the same count, since rows with a gap do not come here.
#[derive(Default)]
struct Moments {
    count: f64,
    means: Channels,
    squares: Channels,
}

impl Moments {
    fn score(&mut self, values: &Channels) -> Channels {
        let mut scores = [0.0; COUNT];
        if self.count >= WARM_UP {
            let degrees = self.count - 1.0;
            for (at, score) in scores.iter_mut().enumerate() {
                let deviation = (self.squares[at] / degrees).sqrt();
                let found = ((values[at] - self.means[at]) / deviation).clamp(-LIMIT, LIMIT);
                *score = if deviation > 0.0 { found } else { 0.0 };
            }
        }
        self.count += 1.0;
        let share = 1.0 / self.count;
        for (at, value) in values.iter().enumerate() {
            let from_mean = value - self.means[at];
            self.means[at] += from_mean * share;
            self.squares[at] += from_mean * (value - self.means[at]);
        }
        scores
    }
}

#[derive(Default)]
struct Window {
    start: i64,
    count: f64,
    sums: Channels,
}

impl Window {
    /// The window before, where this is the first row of the next.
    fn add(&mut self, at: i64, values: &Channels) -> Option<(i64, Channels)> {
        let mut ended = None;
        if at - self.start >= WINDOW_MS {
            ended = (self.count > 0.0).then(|| (self.start, self.means()));
            *self = Self { start: at - at.rem_euclid(WINDOW_MS), ..Self::default() };
        }
        self.count += 1.0;
        for (sum, value) in self.sums.iter_mut().zip(values) {
            *sum += value;
        }
        ended
    }

    fn means(&self) -> Channels {
        self.sums.map(|sum| sum / self.count)
    }
}

/// The sensors' names, and the number of each.
#[derive(Default)]
struct Sensors {
    numbers: HashMap<Name, u32, BuildHasherDefault<Mixed>>,
    names: Vec<Name>,
}

impl Sensors {
    fn number(&mut self, name: Name) -> u32 {
        *self.numbers.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() as u32 - 1
        })
    }

    fn name(&self, number: u32) -> &str {
        let name = &self.names[number as usize];
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_MAX);
        std::str::from_utf8(&name[..length]).expect("checked when it was read")
    }
}

/// A hasher for short keys: eight bytes at a time, each folded in by one wide multiplication.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_a076_1d64_78bd_642f;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
    fn write_usize(&mut self, _: usize) {}
}

/// The record that starts here, and what follows its line.
fn parse<'a>(line: &'a [u8], sensors: &mut Sensors) -> Option<(Reading, &'a [u8])> {
    let rest = line.strip_prefix(br#"{"sensor":""#)?;
    let (head, _) = rest.split_at_checked(NAME_MAX + 1)?;
    let length = head.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    let rest = rest[length..].strip_prefix(br#"","seq":"#)?;
    let (seq, rest) = int(rest)?;
    let (at, mut rest) = int(rest.strip_prefix(br#","at":"#)?)?;
    let mut values = [f64::NAN; COUNT];
    for (quoted, value) in QUOTED.iter().zip(&mut values) {
        rest = rest.strip_prefix(quoted.as_bytes())?;
        if let Some(after) = rest.strip_prefix(b"null") {
            rest = after;
        } else {
            (*value, rest) = float(rest)?;
        }
    }
    let rest = rest.strip_prefix(b"}\n")?;
    let mut name = Name::default();
    name[..length].copy_from_slice(&head[..length]);
    if !head[..length].is_ascii() && std::str::from_utf8(&head[..length]).is_err() {
        return None;
    }
    Some((Reading { at: at as i64, sensor: sensors.number(name), seq: u32::try_from(seq).ok()?, values }, rest))
}

/// The channels' keys as they stand in a record.
const QUOTED: [&str; COUNT] = [
    r#","temperature":"#,
    r#","humidity":"#,
    r#","pressure":"#,
    r#","vibration":"#,
    r#","voltage":"#,
    r#","current":"#,
    r#","flow":"#,
    r#","level":"#,
];

fn int(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut number, mut at) = (0_u64, 0);
    while let Some(byte @ b'0'..=b'9') = text.get(at) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    (1..=18).contains(&at).then(|| (number, &text[at..]))
}

fn float(text: &[u8]) -> Option<(f64, &[u8])> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (mut mantissa, rest) = int(digits)?;
    let (mut rest, mut size) = (rest, 0.0);
    let mut exact = mantissa < 1 << 53;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let mut places = 0;
        while let Some(byte @ b'0'..=b'9') = fraction.get(places) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            places += 1;
        }
        exact = mantissa < 1 << 53 && digits.len() - fraction.len() + places < 18;
        size = mantissa as f64 / *POWERS.get(places)?;
        rest = &fraction[places..];
    } else {
        size += mantissa as f64;
    }
    if !exact || matches!(rest.first(), Some(b'e' | b'E')) {
        let length = text.iter().position(|byte| matches!(byte, b',' | b'}' | b'\n'))?;
        return Some((std::str::from_utf8(&text[..length]).ok()?.parse().ok()?, &text[length..]));
    }
    Some((if negative { -size } else { size }, rest))
}

static POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Writes Parquet.
struct Out {
    sensors: Vec<u32>,
    seqs: Vec<i64>,
    times: Vec<i64>,
    values: [Vec<f64>; COUNT],
    gives: Gives,
    writer: Option<ArrowWriter<File>>,
    file: Option<File>,
    rows: u64,
}

impl Out {
    fn new(to: &Path, gives: Gives) -> Self {
        let file = Some(File::create(to).expect("a folder that can be written"));
        let (sensors, seqs, times, values) = Default::default();
        Self { sensors, seqs, times, values, gives, writer: None, file, rows: 0 }
    }

    fn row(&mut self, sensor: u32, seq: Option<u32>, time: i64, values: &Channels, sensors: &Sensors) {
        self.sensors.push(sensor);
        self.seqs.extend(seq.map(i64::from));
        self.times.push(time);
        for (column, value) in self.values.iter_mut().zip(values) {
            column.push(*value);
        }
        if self.times.len() == WRITTEN {
            self.write(sensors);
        }
    }

    fn write(&mut self, sensors: &Sensors) {
        self.rows += self.times.len() as u64;
        let names = self.sensors.drain(..).map(|sensor| sensors.name(sensor));
        let mut columns: Vec<(&str, ArrayRef)> = vec![("sensor", Arc::new(StringArray::from_iter_values(names)))];
        if self.gives == Gives::Rows {
            columns.push(("seq", Arc::new(Int64Array::from(std::mem::take(&mut self.seqs)))));
        }
        let times = TimestampMillisecondArray::from(std::mem::take(&mut self.times));
        columns.push((self.gives.time(), Arc::new(times)));
        for (name, column) in CHANNELS.iter().zip(&mut self.values) {
            columns.push((name, Arc::new(Float64Array::from(std::mem::take(column)))));
        }
        let rows = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let file = &mut self.file;
        let writer = self.writer.get_or_insert_with(|| {
            // Floats hardly ever repeat: no dictionary of them pays.
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
            let properties = CHANNELS.iter().fold(properties, |properties, name| {
                properties.set_column_dictionary_enabled(ColumnPath::from(*name), false)
            });
            let properties = properties.build();
            let file = file.take().expect("there is one writer");
            ArrowWriter::try_new(file, rows.schema(), Some(properties)).expect("a schema that Parquet has")
        });
        writer.write(&rows).expect("a disk with room");
    }

    /// How many rows there were.
    fn finish(&mut self, sensors: &Sensors) -> u64 {
        self.write(sensors);
        self.writer.take().expect("something was written").close().expect("a disk with room");
        self.rows
    }
}
