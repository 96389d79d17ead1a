//! What the benches share: runs and their medians, tables, and the flight example with a state of its own.

pub mod flights;
pub mod table;

use millstream_engine::time::Stopwatch;

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
