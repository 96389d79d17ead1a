//! Many pages of a state.

use millstream_engine::part::Part;
use serde::{Deserialize, Serialize};

/// How many pages are in a group.
const GROUP: usize = 64;

/// Pages, each of them a part of the state, in groups that are parts, too: so a copy and a digest of a thousand pages look at a few
/// groups, and at the pages that have changed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Pages<P>(Vec<Part<Vec<Part<P>>>>);

impl<P> Default for Pages<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P: Clone> Pages<P> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * GROUP + last.len())
    }

    #[inline]
    pub(super) fn get(&self, page: usize) -> Option<&P> {
        self.0.get(page / GROUP)?.get(page % GROUP).map(|page| &**page)
    }

    /// A page that is there, to be changed.
    #[inline]
    pub(super) fn edit(&mut self, page: usize) -> &mut P {
        self.0[page / GROUP].edit()[page % GROUP].edit()
    }

    pub(super) fn push(&mut self, page: P) {
        match self.0.last_mut().filter(|last| last.len() < GROUP) {
            Some(last) => last.edit().push(Part::new(page)),
            None => self.0.push(Part::new(vec![Part::new(page)])),
        }
    }

    /// Drops the last page.
    pub(super) fn pop(&mut self) {
        let Some(last) = self.0.last_mut() else { return };
        last.edit().pop();
        self.0.pop_if(|last| last.is_empty());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &P> {
        self.0.iter().flat_map(|group| group.iter().map(|page| &**page))
    }

    /// Whether groups are as they are made.
    pub(super) fn is_sound(&self) -> bool {
        let last = self.0.len().saturating_sub(1);
        self.0
            .iter()
            .enumerate()
            .all(|(at, group)| if at < last { group.len() == GROUP } else { (1..=GROUP).contains(&group.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_a_vector() {
        let (mut pages, mut all) = (Pages::default(), Vec::new());
        for step in 0..1000_usize {
            if step % 7 < 5 {
                pages.push(step);
                all.push(step);
            } else {
                pages.pop();
                all.pop();
            }
            if let Some(at) = (step * 31).checked_rem(all.len()) {
                *pages.edit(at) += 1;
                all[at] += 1;
            }
            assert_eq!((pages.len(), pages.is_sound()), (all.len(), true), "step {step}");
            assert_eq!(pages.get(all.len()), None);
        }
        assert!(all.len() > 4 * GROUP && pages.iter().eq(&all));
        while pages.len() > 0 {
            pages.pop();
        }
        pages.pop();
        assert_eq!(pages.iter().next(), None);
    }
}
