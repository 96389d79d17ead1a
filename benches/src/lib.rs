//! What the benches share: runs and their medians, tables, and the flight example with a state of its own.

pub mod flights;
pub mod streams;
pub mod table;

use std::net::TcpListener;
use std::path::Path;

use millstream_engine::time::Stopwatch;
use millstream_pipelines::catalogue::Catalogue;
use millstream_pipelines::plan::Pipeline;
use millstream_pipelines::run;

/// What a definition in a folder says of two processes on this machine; writes their secret there.
pub fn two_processes(folder: &Path) -> String {
    let address = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it is bound")
    };
    let (first, member) = (address(), address());
    std::fs::write(folder.join("secret"), "a secret of this bench").expect("a folder that can be written");
    format!("processes: {{addresses: [\"{first}\", \"{member}\"], secret: \"${{file:secret}}\"}}\n")
}

/// Works for the first process of a definition until it is killed.
pub fn work(definition: &Path) {
    run::work::work(&load(definition), 1).unwrap_or_else(|fault| panic!("it works: {fault}"));
}

/// A definition that is as it should be.
pub fn load(definition: &Path) -> Pipeline {
    let loaded = millstream_pipelines::load(definition, &Catalogue::shipped()).ok();
    loaded.unwrap_or_else(|| panic!("`millstream check` tells what is wrong with {}", definition.display())).0
}

/// The median of the seconds that `runs` runs took, after one that does not count.
pub fn seconds(runs: usize, mut run: impl FnMut()) -> f64 {
    run();
    let once = |_| {
        let watch = Stopwatch::start();
        run();
        watch.seconds()
    };
    quantile(&mut (0..runs).map(once).collect::<Vec<_>>(), 0.5)
}

/// The smallest sample that at least this share of all does not exceed.
pub fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1]
}

/// The seconds that all cores together have spent on this process so far, in steps of 10 ms; zero where `/proc` does not
/// tell. Unlike the time of day it does not grow with what else the machine does.
pub fn cpu_seconds() -> f64 {
    cpu_seconds_of("self")
}

/// The same of another process, by its id.
pub fn cpu_seconds_of(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The program's name may hold anything, but no bracket comes after it; user and system time are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

/// The seconds that a core has spent on this thread so far, to the nanosecond where `/proc` tells.
pub fn thread_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|spent| spent.parse::<f64>().ok());
    nanoseconds.map_or_else(cpu_seconds, |spent| spent / 1e9)
}
