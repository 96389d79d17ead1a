//! What the sensors say: newline-delimited JSON, the same for the same numbers.
//!
//! Each second a thousand sensors report once. Those that do stay the same for a burst of seconds; then others follow, until
//! all have had their turn. So the same event time, disorder and windows go with any number of sensors.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::{Path, PathBuf};

/// The channels, in the order in which a record has them.
pub const CHANNELS: [&str; 8] =
    ["temperature", "humidity", "pressure", "vibration", "voltage", "current", "flow", "level"];
/// No record comes later than this behind a newer one.
pub const LATENESS_MS: i64 = 5000;
/// The instant of the first record: 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;
/// How many sensors report in a second.
const ACTIVE: u64 = 1000;
/// Spreads the sensors that report together over all there are; coprime with their number, a power of ten.
const STRIDE: u64 = 7919;
/// Shares, in thousandths.
const MISSING: u64 = 20;
const MALFORMED: u64 = 5;
const DUPLICATED: u64 = 10;
const OUTLYING: u64 = 5;
const DELAYED: u64 = 50;
/// How long a delayed record waits at most, and a copy behind its original: together less than the lateness.
const DELAY_MAX_MS: u64 = 2000;
const COPY_MAX_MS: u64 = 1500;

/// Which records there are.
#[derive(Clone, Copy)]
pub struct Plan {
    /// How many lines, all told.
    pub lines: usize,
    pub sensors: u64,
    /// For how many seconds in a row a sensor reports.
    pub burst: u64,
}

impl Plan {
    /// The file with these records; it is written where it is not there yet.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("sensors-{}-{}-{}.ndjson", self.lines, self.sensors, self.burst));
        if !path.exists() {
            let unfinished = path.with_extension("unfinished");
            self.write(&unfinished).and_then(|()| std::fs::rename(&unfinished, &path)).expect("a disk with room");
        }
        path
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut random = Random(self.sensors + self.burst);
        let mut numbers = vec![0_u32; self.sensors as usize];
        // What has been measured and not arrived: when it will, and a number that keeps the order of what arrives together.
        let mut under_way: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>> = BinaryHeap::new();
        let (mut lines, mut made) = (0, 0);
        for second in 0.. {
            for turn in 0..ACTIVE.min(self.sensors) {
                let sensor = (second / self.burst * ACTIVE + turn) % self.sensors * STRIDE % self.sensors;
                let number = &mut numbers[sensor as usize];
                let at = second * 1000 + turn;
                let line = record(&mut random, sensor, *number, START_MS + at as i64);
                *number += 1;
                let delay = if random.happens(DELAYED) { random.below(DELAY_MAX_MS) } else { 0 };
                if random.happens(DUPLICATED) {
                    under_way.push(Reverse((at + delay + 1 + random.below(COPY_MAX_MS), made, line.clone())));
                }
                under_way.push(Reverse((at + delay, made + 1, line)));
                made += 2;
            }
            while under_way.peek().is_some_and(|Reverse((arrival, ..))| *arrival < second * 1000) {
                let Some(Reverse((_, _, mut line))) = under_way.pop() else { break };
                if random.happens(MALFORMED) {
                    spoil(&mut random, &mut line);
                }
                out.write_all(&line)?;
                out.write_all(b"\n")?;
                lines += 1;
                if lines == self.lines {
                    return out.flush();
                }
            }
        }
        Ok(())
    }
}

fn record(random: &mut Random, sensor: u64, number: u32, at: i64) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    // Writing to memory cannot fail.
    let _ = write!(line, r#"{{"sensor":"sensor-{sensor:06}","seq":{number},"at":{at}"#);
    let outlier = random.happens(OUTLYING).then(|| random.below(CHANNELS.len() as u64));
    for (channel, name) in CHANNELS.iter().enumerate() {
        let usual = 10 * channel as i64 - 40 + (sensor * 31 + channel as u64) as i64 % 10;
        let noise = (random.below(4000) + random.below(4000) + random.below(4000)) as i64 - 6000;
        let far = if outlier == Some(channel as u64) { 500_000 } else { 0 };
        let thousandths = usual * 1000 + noise + far;
        let sign = if thousandths < 0 { "-" } else { "" };
        let (whole, part) = (thousandths.abs() / 1000, thousandths.abs() % 1000);
        let _ = if random.happens(MISSING) {
            write!(line, r#","{name}":null"#)
        } else {
            write!(line, r#","{name}":{sign}{whole}.{part:03}"#)
        };
    }
    line.push(b'}');
    line
}

/// Cuts a line off, or replaces it by what a logger says when it starts.
fn spoil(random: &mut Random, line: &mut Vec<u8>) {
    if random.happens(500) {
        line.truncate(1 + random.below(line.len() as u64 - 1) as usize);
    } else {
        *line = b"### logger restarted ###".to_vec();
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}
