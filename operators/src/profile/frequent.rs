//! The most frequent texts, in constant space.

use millstream_engine::state::hash;
use serde::{Deserialize, Serialize};

/// So many different texts are counted at a time.
const CAPACITY: usize = 32;
/// Of a text, so many bytes are kept.
const KEPT_BYTES: usize = 64;

/// Counts of the texts that may be the most frequent.
///
/// Space-Saving: A. Metwally, D. Agrawal and A. El Abbadi, *Efficient computation of frequent and top-k elements in data streams*, ICDT 2005.
/// A text that is not counted takes the place of the rarest, and its count, which is then too large by at most that. So a text with more than
/// 1/32 of all is always among those that are counted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Frequent {
    counted: Vec<Counted>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Counted {
    hash: u64,
    count: u64,
    /// By how much the count may be too large.
    over: u64,
    text: String,
}

impl Frequent {
    pub(super) fn add(&mut self, text: &str) {
        let hash = hash(text.as_bytes());
        if let Some(counted) = self.counted.iter_mut().find(|counted| counted.hash == hash) {
            counted.count += 1;
            return;
        }
        if self.counted.len() < CAPACITY {
            self.counted.push(Counted { hash, count: 1, over: 0, text: kept(text).to_owned() });
            return;
        }
        let rarest = self.counted.iter_mut().min_by_key(|counted| counted.count).expect("the capacity is not 0");
        (rarest.hash, rarest.over) = (hash, rarest.count);
        rarest.count += 1;
        rarest.text.clear();
        rarest.text.push_str(kept(text));
    }

    /// Takes in what another has counted.
    pub(super) fn merge(&mut self, other: &Self) {
        for more in &other.counted {
            match self.counted.iter_mut().find(|counted| counted.hash == more.hash) {
                Some(counted) => {
                    counted.count += more.count;
                    counted.over += more.over;
                }
                None => self.counted.push(more.clone()),
            }
        }
        self.counted.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.text.cmp(&b.text)));
        self.counted.truncate(CAPACITY);
    }

    /// Those that were there at least so often, the most frequent first, at most `most`.
    pub(super) fn top(&self, most: usize) -> Vec<(String, u64)> {
        let sure = |counted: &Counted| (counted.text.clone(), counted.count - counted.over);
        let mut top: Vec<_> = self.counted.iter().map(sure).collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(most);
        top
    }

    /// Whether every text was counted from its first time on: then [`Self::top`] has all of them, with their exact counts.
    pub(super) fn is_exact(&self) -> bool {
        self.counted.len() < CAPACITY && self.counted.iter().all(|counted| counted.over == 0)
    }
}

/// The beginning of a long text.
fn kept(text: &str) -> &str {
    &text[..text.floor_char_boundary(KEPT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleansing::harness::Random;

    #[test]
    fn a_frequent_text_is_never_missed() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut parts = [Frequent::default(), Frequent::default()];
            let (mut exact, total) = ([0_u64; 3], 20_000);
            for _ in 0..total {
                let text = match random.below(10) {
                    // Two of ten, one of ten, and many that are rare.
                    place @ 0..=2 => {
                        exact[place.min(1)] += 1;
                        format!("text {}", place.min(1))
                    }
                    _ => format!("rare {}", random.below(5000)),
                };
                parts[random.below(2)].add(&text);
            }
            for frequent in &mut parts {
                let top = frequent.top(2);
                assert_eq!(
                    top.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(),
                    ["text 1", "text 0"],
                    "seed {seed}"
                );
                assert!(!frequent.is_exact());
            }
            let [mut merged, other] = parts;
            merged.merge(&other);
            let top = merged.top(2);
            assert_eq!(top[0].0, "text 1");
            assert!(top[0].1 <= exact[1] && top[0].1 + total / 16 >= exact[1], "seed {seed}: {top:?}, not {exact:?}");
        }
    }

    #[test]
    fn few_are_counted_exactly_and_long_ones_cut() {
        let mut frequent = Frequent::default();
        for text in ["b", "a", "b", &"ü".repeat(50)] {
            frequent.add(text);
        }
        let expected = [("b".to_owned(), 2), ("a".to_owned(), 1), ("ü".repeat(32), 1)];
        assert_eq!((frequent.top(9), frequent.is_exact()), (expected.to_vec(), true));
        assert_eq!(frequent.top(1), expected[..1]);
    }
}
