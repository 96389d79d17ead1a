//! The sensor job, beside the loop that someone would write by hand: newline JSON is parsed, deduplicated, gaps are filled
//! with running means, outliers left out, values scored against the sensor's past and averaged over ten seconds, and
//! the result is written as Parquet.
//!
//!     cargo bench -p millstream-benches --bench sensors [-- check | job | keys | parts] [--rows]
//!     cargo bench -p millstream-benches --bench sensors -- generate LINES SENSORS BURST FOLDER
//!
//! Each run is a process of its own, so that its memory is its own; its CPU time is that of all its threads, from start to
//! end. `--rows` leaves the averages out and writes each row.

mod by_hand;
mod compare;
mod job;
mod records;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use millstream_benches::table::{Table, thousands};
use millstream_benches::{cpu_seconds, quantile, work};
use millstream_engine::time::Stopwatch;
use records::Plan;
use serde::{Deserialize, Serialize};

/// What all who do the job agree on.
const DEDUPLICATE_MS: i64 = 60_000;
const RANGE: RangeInclusive<f64> = -100.0..=100.0;
const WARM_UP: f64 = 10.0;
const LIMIT: f64 = 5.0;
const WINDOW_MS: i64 = 10_000;

const RUNS: usize = 5;
const JOB: Plan = Plan { lines: 2_000_000, sensors: 1000, burst: 10 };

/// What is written at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gives {
    /// Each row.
    Rows,
    /// The averages of windows.
    Windows,
}

impl Gives {
    /// The name of the column of instants.
    fn time(self) -> &'static str {
        match self {
            Self::Rows => "at",
            Self::Windows => "window_start",
        }
    }
}

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    records: u64,
    dead: u64,
    duplicates: u64,
    imputed: u64,
    filtered: u64,
    out: u64,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Took {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let gives = if arguments.iter().any(|argument| argument == "--rows") { Gives::Rows } else { Gives::Windows };
    match words.as_slice() {
        ["by-hand", from, to] => measured(|| {
            let counts = by_hand::run(Path::new(from), Path::new(to), gives);
            assert!(counts.records > 0, "there were records");
        }),
        ["millstream", folder, workers] => {
            measured(|| job::run(Path::new(folder), workers.parse().expect("a number of workers")));
        }
        ["member", folder] => work(&job::definition(Path::new(folder))),
        ["generate", lines, sensors, burst, folder] => {
            let number = |text: &str| text.parse().expect("a number");
            let plan = Plan { lines: number(lines) as usize, sensors: number(sensors), burst: number(burst) };
            println!("{}", plan.file(Path::new(folder)).display());
        }
        chosen => {
            let wanted = |name: &str| chosen.is_empty() || chosen.contains(&name);
            if wanted("check") {
                check(gives);
            }
            if wanted("job") {
                compare_runs(gives);
            }
            if wanted("keys") {
                keys(gives);
            }
            if wanted("parts") {
                time_parts(gives);
            }
        }
    }
}

/// Where records lie that were written once.
fn store() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&folder).expect("a folder that can be written");
    folder
}

/// In a process of its own: what something took, as JSON.
fn measured(run: impl FnOnce()) {
    let watch = Stopwatch::start();
    run();
    let took = Took { wall: watch.seconds(), cpu: cpu_seconds(), peak_mb: peak_mb() };
    println!("{}", serde_json::to_string(&took).expect("plain numbers"));
}

/// The largest part of memory that this process has had, in MB; zero where `/proc` does not tell.
fn peak_mb() -> f64 {
    peak_mb_of(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The same, of a process of this status.
fn peak_mb_of(status: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1e6
}

/// Runs this program again, and reads what it took.
fn child(arguments: &[&str], gives: Gives) -> Took {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(arguments);
    if gives == Gives::Rows {
        command.arg("--rows");
    }
    let output = command.output().expect("it can be run once more");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(text.lines().last().expect("a line")).expect("what it took")
}

/// Runs once by hand and once with Millstream, and compares what comes out.
fn check(gives: Gives) {
    for (lines, sensors, burst) in [(200_000, 1000, 10), (200_000, 100_000, 10), (200_000, 1000, 1)] {
        let plan = Plan { lines, sensors, burst };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let records = plan.file(&store());
        let by_hand = folder.path().join("by-hand.parquet");
        let expected = by_hand::run(&records, &by_hand, gives);
        for workers in [1, 2] {
            let case = folder.path().join(format!("workers-{workers}"));
            let found = job::count(&records, &case, gives, workers);
            assert_eq!(found, expected, "counts of {} records, {workers} workers", plan.lines);
            let off = compare::greatest_difference(&by_hand, &case.join(job::OUT), gives);
            assert!(off <= 1e-9, "results differ by {off}");
            println!("{lines} records of {sensors} sensors, {workers} workers: {found:?}, results within {off:.1e}");
        }
    }
}

/// The medians of some runs.
fn median(runs: usize, mut run: impl FnMut() -> Took) -> Took {
    let all: Vec<Took> = (0..runs).map(|_| run()).collect();
    let of = |part: fn(&Took) -> f64| quantile(&mut all.iter().map(part).collect::<Vec<_>>(), 0.5);
    Took { wall: of(|took| took.wall), cpu: of(|took| took.cpu), peak_mb: of(|took| took.peak_mb) }
}

fn time_by_hand(records: &Path, gives: Gives) -> Took {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = folder.path().join("by-hand.parquet");
    child(&["by-hand", &records.to_string_lossy(), &to.to_string_lossy()], gives)
}

fn time_millstream(records: &Path, gives: Gives, workers: usize, steps: usize) -> Took {
    let folder = tempfile::tempdir().expect("a temporary folder");
    job::write(records, folder.path(), gives, steps);
    child(&["millstream", &folder.path().to_string_lossy(), &workers.to_string()], gives)
}

/// In two processes of one worker each.
fn time_processes(records: &Path, gives: Gives) -> Took {
    let folder = tempfile::tempdir().expect("a temporary folder");
    job::write(records, folder.path(), gives, job::ALL);
    job::share(folder.path());
    let place = folder.path().to_string_lossy().into_owned();
    let member = Command::new(std::env::current_exe().expect("this program")).args(["member", &place]).spawn();
    let mut member = member.expect("it can be run once more");
    let took = child(&["millstream", &place, "1"], gives);
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", member.id())).unwrap_or_default();
    // After the name, which may hold anything; in ticks, of which a second has a hundred.
    let stat = of("stat");
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    let peak_mb = took.peak_mb.max(peak_mb_of(&of("status")));
    member.kill().and_then(|()| member.wait()).expect("it is our child");
    Took { cpu: took.cpu + ticks / 100.0, peak_mb, ..took }
}

fn cells(took: &Took, lines: usize, by_hand: &Took) -> [String; 6] {
    [
        format!("{:.2}", took.wall),
        format!("{:.2}", took.cpu),
        thousands(lines as f64 / took.cpu),
        format!("{:.0}", took.cpu * 1e9 / lines as f64),
        format!("{:.2}", by_hand.cpu / took.cpu),
        format!("{:.0}", took.peak_mb),
    ]
}

const HEADINGS: [&str; 6] = ["seconds", "CPU s", "records/CPU s", "CPU ns", "of by hand", "peak MB"];

/// The whole job, by turns.
fn compare_runs(gives: Gives) {
    let records = JOB.file(&store());
    // Whoever else uses the machine now slows all of them.
    let (mut by_hand, mut one, mut two, mut processes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        by_hand.push(time_by_hand(&records, gives));
        one.push(time_millstream(&records, gives, 1, job::ALL));
        two.push(time_millstream(&records, gives, 2, job::ALL));
        processes.push(time_processes(&records, gives));
    }
    let [by_hand, one, two, processes] = [by_hand, one, two, processes].map(|all| {
        median(RUNS, {
            let mut all = all.into_iter();
            move || all.next().expect("as many as there are")
        })
    });
    let mut table = Table::new(&[&["the sensor job"], &HEADINGS[..]].concat());
    let all = [
        ("by hand, one thread", &by_hand),
        ("Millstream, 1 worker", &one),
        ("2 workers", &two),
        ("2 processes of 1 worker", &processes),
    ];
    for (name, took) in all {
        table.row([name.to_owned()].into_iter().chain(cells(took, JOB.lines, &by_hand)));
    }
    table.print(&format!(
        "{} records of {} sensors, medians of {RUNS}; two workers {:.2} x one",
        thousands(JOB.lines as f64),
        thousands(JOB.sensors as f64),
        one.wall / two.wall
    ));
}

/// What a record costs with few and many sensors.
fn keys(gives: Gives) {
    let mut table = Table::new(&[&["sensors"], &HEADINGS[..], &["by hand, CPU ns"]].concat());
    for (sensors, burst) in [(1000, 10), (10_000, 10), (100_000, 10), (1_000_000, 10), (10_000, 1), (1_000_000, 1)] {
        let plan = Plan { lines: 10_000_000, sensors, burst };
        let records = plan.file(&store());
        let by_hand = time_by_hand(&records, gives);
        let took = median(3, || time_millstream(&records, gives, 1, job::ALL));
        let name = format!("{}, {burst} records in a row", thousands(sensors as f64));
        let nanos = format!("{:.0}", by_hand.cpu * 1e9 / plan.lines as f64);
        table.row([name].into_iter().chain(cells(&took, plan.lines, &by_hand)).chain([nanos]));
        std::fs::remove_file(records).expect("it was there");
    }
    table.print("10,000,000 records, 1 worker");
}

/// What each step adds.
fn time_parts(gives: Gives) {
    let records = JOB.file(&store());
    let by_hand = time_by_hand(&records, gives);
    let mut table = Table::new(&[&["through step"], &HEADINGS[..], &["more CPU ns"]].concat());
    let mut before = 0.0;
    for steps in 0..=job::names(gives).len() + 1 {
        let took = median(3, || time_millstream(&records, gives, 1, steps));
        let name = match steps {
            0 => "reading, parsing, order".to_owned(),
            _ => job::names(gives).get(steps - 1).map_or("writing", |name| name).to_owned(),
        };
        let more = format!("{:.0}", (took.cpu - before) * 1e9 / JOB.lines as f64);
        table.row([name].into_iter().chain(cells(&took, JOB.lines, &by_hand)).chain([more]));
        before = took.cpu;
    }
    table.print("What each step adds, 1 worker");
}
