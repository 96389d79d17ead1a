//! The same in bare differential-dataflow, on one worker.

use std::cell::RefCell;
use std::rc::Rc;

use differential_dataflow::input::{Input, InputSession};
use differential_dataflow::operators::count::CountTotal;
use timely::dataflow::operators::probe::Handle;

use crate::{ROUND, Standing, Update};

type Session<R> = InputSession<u64, (i64, i64), R>;

/// Count and sum by key, as the accumulated difference; `of_a_time` updates have one time.
pub fn aggregate(updates: &[Update], of_a_time: usize, keep: bool) -> Standing {
    let updates = updates.to_vec();
    timely::execute_directly(move |worker| {
        let (standing, probe) = (Rc::new(RefCell::new(Standing::new())), Handle::new());
        let seen = standing.clone();
        let mut input = worker.dataflow(|scope| {
            let (input, rows) = scope.new_collection::<(i64, i64), i64>();
            let counted = rows.explode(|(key, value)| Some((key, (1_i64, value)))).count_total();
            let changes = counted.inspect(move |((key, (count, sum)), _, diff)| {
                if keep {
                    *seen.borrow_mut().entry((*key, *count, *sum)).or_default() += *diff as i64;
                }
            });
            changes.probe_with(&probe);
            input
        });
        for (round, part) in updates.chunks(ROUND).enumerate() {
            feed(&mut input, part, round, of_a_time);
            worker.step_while(|| probe.less_than(input.time()));
        }
        finish(&standing)
    })
}

/// Both sides joined by key.
pub fn join(sides: &[Vec<Update>; 2], of_a_time: usize, keep: bool) -> Standing {
    let sides = sides.clone();
    timely::execute_directly(move |worker| {
        let (standing, probe) = (Rc::new(RefCell::new(Standing::new())), Handle::new());
        let seen = standing.clone();
        let (mut left, mut right) = worker.dataflow(|scope| {
            let (left, lefts) = scope.new_collection::<(i64, i64), i64>();
            let (right, rights) = scope.new_collection::<(i64, i64), i64>();
            let pairs = lefts.join_map(rights, |key, left, right| (*key, *left, *right));
            let changes = pairs.inspect(move |(pair, _, diff)| {
                if keep {
                    *seen.borrow_mut().entry(*pair).or_default() += diff;
                }
            });
            changes.probe_with(&probe);
            (left, right)
        });
        for round in 0..sides[0].len().div_ceil(ROUND) {
            for (input, side) in [(&mut left, &sides[0]), (&mut right, &sides[1])] {
                feed(input, side.chunks(ROUND).nth(round).unwrap_or_default(), round, of_a_time);
            }
            worker.step_while(|| probe.less_than(left.time()) || probe.less_than(right.time()));
        }
        finish(&standing)
    })
}

fn feed(input: &mut Session<i64>, part: &[Update], round: usize, of_a_time: usize) {
    for (at, update) in part.iter().enumerate() {
        let time = (round * ROUND + at / of_a_time * of_a_time) as u64;
        input.update_at((update.key, update.value), time, update.diff);
    }
    input.advance_to(((round + 1) * ROUND) as u64);
    input.flush();
}

fn finish(standing: &RefCell<Standing>) -> Standing {
    let mut standing = standing.take();
    standing.retain(|_, count| *count != 0);
    standing
}
