//! Trees, laid out in a row of nodes.

use std::sync::OnceLock;

use super::super::node::{Kernel, Node};
use super::super::value::{Data, Dims, Done, Value};
use super::functions::Number;
use super::scores::{Labels, Transform, largest, logistic, tell};

/// When a node's answer is yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
    Other,
}

const ASKS: [Asks; 6] = [Asks::AtMost, Asks::Below, Asks::AtLeast, Asks::Above, Asks::Equal, Asks::Other];

/// How the trees' leaves become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    Sum,
    Average,
    Min,
    Max,
}

/// A node, before the trees are laid out.
#[derive(Clone, Copy, Debug)]
struct Question {
    column: u32,
    with: f64,
    asks: Asks,
    /// Whether the answer is yes where there is no number.
    takes_missing: bool,
    yes: Way,
    no: Way,
}

/// Where a row goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Question(usize),
    Leaf(usize),
}

/// Terms of a leaf: for which target, how much.
type Terms = Vec<(u32, f64)>;

/// Trees as a file has them.
struct Read {
    questions: Vec<Question>,
    leaves: Vec<Terms>,
    roots: Vec<Way>,
}

/// A node as it lies in memory. A leaf leads to itself, whatever the row.
#[derive(Clone, Copy, Debug)]
struct Place<T> {
    with: T,
    column: u32,
    /// The places if the answer is no and if it is yes.
    next: [u32; 2],
}

/// Trees that rows go through.
#[derive(Debug)]
struct Forest<T> {
    places: Vec<Place<T>>,
    /// Of each place: how it asks, and whether the answer is yes where there is no number.
    asks: Vec<(Asks, bool)>,
    /// Of each place: which leaf it is, if it is one.
    leaves: Vec<u32>,
    roots: Vec<u32>,
    /// Whether all questions are whether a number is at most another, and no for what is no number.
    is_plain: bool,
    columns: usize,
}

/// Trees, whose numbers are of the precision that they are asked in.
struct Trees {
    read: Read,
    single: OnceLock<Forest<f32>>,
    double: OnceLock<Forest<f64>>,
    /// Where each leaf's terms begin.
    starts: Vec<u32>,
    terms: Vec<(u32, f64)>,
    targets: usize,
    together: Together,
    base: Vec<f64>,
}

/// How many rows go through a tree at a time.
const ABREAST: usize = 8;

impl Trees {
    fn new(read: Read, targets: usize, together: Together, base: &[f64]) -> Done<Self> {
        if targets == 0 || targets > 1 << 16 {
            return Err(format!("it has {targets} targets"));
        }
        if !base.is_empty() && base.len() != targets && base.len() != 1 {
            return Err(format!("it has {} base values for {targets} targets", base.len()));
        }
        let (mut starts, mut terms) = (vec![0], Vec::new());
        for leaf in &read.leaves {
            if leaf.iter().any(|(target, _)| *target as usize >= targets) {
                return Err("a leaf is of a target that is not there".to_owned());
            }
            terms.extend_from_slice(leaf);
            starts.push(terms.len() as u32);
        }
        let (single, double, base) = (OnceLock::new(), OnceLock::new(), base.to_vec());
        Ok(Self { read, single, double, starts, terms, targets, together, base })
    }

    /// For each row the sums over all trees, `[rows, targets]`, without the base values.
    fn sums(&self, input: &Value) -> Done<Vec<f64>> {
        let [rows, columns] = match *input.dims {
            [columns] => [1, columns],
            [rows, columns] => [rows, columns],
            _ => return Err(format!("it takes rows of numbers, and not {:?}", input.dims)),
        };
        let first = match self.together {
            Together::Min => f64::INFINITY,
            Together::Max => f64::NEG_INFINITY,
            Together::Sum | Together::Average => 0.0,
        };
        let mut sums = vec![first; Dims::of(&[rows, self.targets])?.elements()];
        if let Data::F32(values) = &input.data {
            let forest = self.single.get_or_init(|| Forest::new(&self.read));
            forest.visit(values, columns, |row, leaf| self.add(row, leaf, &mut sums))?;
        } else {
            let forest = self.double.get_or_init(|| Forest::new(&self.read));
            forest.visit(&input.doubles()?, columns, |row, leaf| self.add(row, leaf, &mut sums))?;
        }
        let trees = self.read.roots.len().max(1) as f64;
        match self.together {
            Together::Average => sums.iter_mut().for_each(|sum| *sum /= trees),
            Together::Min | Together::Max => sums.iter_mut().filter(|sum| sum.is_infinite()).for_each(|sum| *sum = 0.0),
            Together::Sum => {}
        }
        Ok(sums)
    }

    #[inline]
    fn add(&self, row: usize, leaf: usize, sums: &mut [f64]) {
        for (target, term) in &self.terms[self.starts[leaf] as usize..self.starts[leaf + 1] as usize] {
            let sum = &mut sums[row * self.targets + *target as usize];
            *sum = match self.together {
                Together::Sum | Together::Average => *sum + term,
                Together::Min => sum.min(*term),
                Together::Max => sum.max(*term),
            };
        }
    }

    /// What a target's sum begins with.
    fn base(&self, target: usize) -> f64 {
        if self.base.len() == self.targets { self.base[target] } else { self.base.first().copied().unwrap_or_default() }
    }
}

impl<T: Number> Forest<T> {
    /// Lays the trees out, so that what is likely to be needed together lies together: depth first.
    fn new(read: &Read) -> Self {
        let mut forest = Self {
            places: Vec::with_capacity(read.questions.len() + read.leaves.len()),
            asks: Vec::new(),
            leaves: Vec::new(),
            roots: Vec::with_capacity(read.roots.len()),
            is_plain: true,
            columns: 1,
        };
        for root in &read.roots {
            forest.roots.push(forest.places.len() as u32);
            // What is still to be laid out, and whose way it is.
            let mut open = vec![(*root, None)];
            while let Some((way, from)) = open.pop() {
                let at = forest.places.len() as u32;
                if let Some((from, is_yes)) = from {
                    let from: &mut Place<T> = &mut forest.places[from as usize];
                    from.next[usize::from(is_yes)] = at;
                }
                let next = [at; 2];
                match way {
                    Way::Leaf(leaf) => {
                        forest.places.push(Place { with: T::ZERO, column: 0, next });
                        forest.asks.push((Asks::AtMost, false));
                        forest.leaves.push(leaf as u32);
                    }
                    Way::Question(question) => {
                        let Question { column, with, asks, takes_missing, yes, no } = read.questions[question];
                        forest.places.push(Place { with: T::of(with), column, next });
                        forest.asks.push((asks, takes_missing));
                        forest.leaves.push(0);
                        forest.is_plain &= asks == Asks::AtMost && !takes_missing;
                        forest.columns = forest.columns.max(column as usize + 1);
                        open.push((yes, Some((at, true))));
                        open.push((no, Some((at, false))));
                    }
                }
            }
        }
        forest
    }

    /// Goes with each row through each tree, and says in which leaf it ends.
    fn visit(&self, values: &[T], columns: usize, mut end: impl FnMut(usize, usize)) -> Done {
        if columns < self.columns {
            return Err(format!("it takes {} features, and not {columns}", self.columns));
        }
        let rows = values.len() / columns;
        if self.is_plain && rows < ABREAST {
            for (row, values) in values.chunks_exact(columns).enumerate() {
                self.trees_abreast(values, |leaf| end(row, leaf));
            }
            return Ok(());
        }
        for root in &self.roots {
            let mut row = 0;
            while self.is_plain && rows - row >= ABREAST {
                let block: &[T] = &values[row * columns..(row + ABREAST) * columns];
                for (leaf, more) in
                    self.abreast([*root; ABREAST], |at| &block[at * columns..][..columns]).into_iter().zip(0..)
                {
                    end(row + more, leaf);
                }
                row += ABREAST;
            }
            while row < rows {
                end(row, self.alone(*root, &values[row * columns..][..columns]));
                row += 1;
            }
        }
        Ok(())
    }

    /// One row through some trees at a time.
    fn trees_abreast(&self, row: &[T], mut end: impl FnMut(usize)) {
        let (groups, rest) = self.roots.as_chunks::<ABREAST>();
        for roots in groups {
            self.abreast(*roots, |_| row).into_iter().for_each(&mut end);
        }
        rest.iter().for_each(|root| end(self.alone(*root, row)));
    }

    /// Several ways side by side, so that none waits for another's memory, and none is guessed wrong.
    #[inline]
    fn abreast<'a>(&self, mut at: [u32; ABREAST], row: impl Fn(usize) -> &'a [T]) -> [usize; ABREAST]
    where
        T: 'a,
    {
        let rows: [&[T]; ABREAST] = std::array::from_fn(row);
        loop {
            let mut is_over = true;
            for (row, at) in rows.iter().zip(&mut at) {
                let place = &self.places[*at as usize];
                let next = place.next[usize::from(row[place.column as usize] <= place.with)];
                is_over &= next == *at;
                *at = next;
            }
            if is_over {
                return at.map(|at| self.leaves[at as usize] as usize);
            }
        }
    }

    fn alone(&self, root: u32, row: &[T]) -> usize {
        let mut at = root;
        loop {
            let place = &self.places[at as usize];
            let value = row[place.column as usize];
            let (asks, takes_missing) = self.asks[at as usize];
            let holds = match asks {
                Asks::AtMost => value <= place.with,
                Asks::Below => value < place.with,
                Asks::AtLeast => value >= place.with,
                Asks::Above => value > place.with,
                Asks::Equal => value == place.with,
                Asks::Other => value != place.with,
            };
            let next = place.next[usize::from(holds || (takes_missing && value.partial_cmp(&value).is_none()))];
            if next == at {
                return self.leaves[at as usize] as usize;
            }
            at = next;
        }
    }
}

/// Lists that name numbers, as settings or as tensors of double precision.
fn numbers(node: &Node<'_>, name: &str) -> Done<Vec<f64>> {
    match node.tensor(&format!("{name}_as_tensor"))? {
        Some(tensor) => tensor.doubles(),
        None => Ok(node.floats(name).iter().map(|value| f64::from(*value)).collect()),
    }
}

/// Refuses lists that are not of one length.
fn alike(lengths: &[usize]) -> Done {
    if lengths.iter().all(|length| *length == lengths[0]) {
        Ok(())
    } else {
        Err("its lists are not of one length".to_owned())
    }
}

fn index(value: i64) -> Done<usize> {
    usize::try_from(value).map_err(|_| format!("{value} is no number of a node, leaf or column"))
}

fn column(value: i64) -> Done<u32> {
    u32::try_from(value).map_err(|_| format!("{value} is no number of a column or target"))
}

/// Each question and each leaf must be in one place of one tree: so there are no circles.
fn sound(read: &Read) -> Done {
    let mut seen = vec![false; read.questions.len()];
    let mut open: Vec<Way> = read.roots.clone();
    while let Some(way) = open.pop() {
        match way {
            Way::Leaf(leaf) if leaf >= read.leaves.len() => return Err("a way leads to no leaf".to_owned()),
            Way::Leaf(_) => {}
            Way::Question(at) => {
                let question = read.questions.get(at).ok_or("a way leads to no node")?;
                if std::mem::replace(&mut seen[at], true) {
                    return Err("a node can be reached in two ways".to_owned());
                }
                open.extend([question.yes, question.no]);
            }
        }
    }
    Ok(())
}

/// The trees of a classifier or regressor of earlier versions: `of` is `class` or `target`.
fn listed(node: &Node<'_>, of: &str) -> Done<Read> {
    use std::collections::HashMap;
    let (trees, ids) = (node.ints("nodes_treeids"), node.ints("nodes_nodeids"));
    let (yes, no) = (node.ints("nodes_truenodeids"), node.ints("nodes_falsenodeids"));
    let (columns, modes) = (node.ints("nodes_featureids"), node.texts("nodes_modes")?);
    let (with, missing) = (numbers(node, "nodes_values")?, node.ints("nodes_missing_value_tracks_true"));
    alike(&[trees.len(), ids.len(), yes.len(), no.len(), columns.len(), modes.len(), with.len()])?;
    let mut places = HashMap::with_capacity(ids.len());
    for (at, key) in trees.iter().zip(ids).enumerate() {
        if places.insert((*key.0, *key.1), at).is_some() {
            return Err("a node is listed twice".to_owned());
        }
    }
    let mut read = Read { questions: Vec::new(), leaves: Vec::new(), roots: Vec::new() };
    let mut ways = Vec::with_capacity(ids.len());
    for mode in &modes {
        ways.push(if &**mode == "LEAF" {
            read.leaves.push(Terms::new());
            Way::Leaf(read.leaves.len() - 1)
        } else {
            ways_of_questions(&mut read)
        });
    }
    let mut is_root = vec![true; ids.len()];
    for at in 0..ids.len() {
        let Way::Question(question) = ways[at] else { continue };
        let asks = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
        let asks = asks.iter().position(|name| *name == &*modes[at]).map(|at| ASKS[at]);
        let mut way = |id: i64| -> Done<Way> {
            let place = *places.get(&(trees[at], id)).ok_or("a way leads to no node")?;
            is_root[place] = false;
            Ok(ways[place])
        };
        read.questions[question] = Question {
            column: column(columns[at])?,
            with: with[at],
            asks: asks.ok_or_else(|| format!("its nodes ask `{}`, which is not known", modes[at]))?,
            takes_missing: missing.get(at).is_some_and(|missing| *missing != 0),
            yes: way(yes[at])?,
            no: way(no[at])?,
        };
    }
    read.roots = ways.iter().zip(&is_root).filter(|(_, is_root)| **is_root).map(|(way, _)| *way).collect();
    let name = |what: &str| format!("{of}_{what}");
    let (leaf_trees, leaf_ids) = (node.ints(&name("treeids")), node.ints(&name("nodeids")));
    let (targets, weights) = (node.ints(&name("ids")), numbers(node, &name("weights"))?);
    alike(&[leaf_trees.len(), leaf_ids.len(), targets.len(), weights.len()])?;
    for at in 0..targets.len() {
        let place = places.get(&(leaf_trees[at], leaf_ids[at])).map(|place| ways[*place]);
        let Some(Way::Leaf(leaf)) = place else { return Err("a weight is of no leaf".to_owned()) };
        read.leaves[leaf].push((column(targets[at])?, weights[at]));
    }
    sound(&read)?;
    Ok(read)
}

/// A place for one more question.
fn ways_of_questions(read: &mut Read) -> Way {
    let none = Way::Leaf(0);
    read.questions.push(Question {
        column: 0,
        with: 0.0,
        asks: Asks::AtMost,
        takes_missing: false,
        yes: none,
        no: none,
    });
    Way::Question(read.questions.len() - 1)
}

fn together(name: &str) -> Done<Together> {
    Ok(match name {
        "SUM" => Together::Sum,
        "AVERAGE" => Together::Average,
        "MIN" => Together::Min,
        "MAX" => Together::Max,
        other => return Err(format!("it puts its trees together by `{other}`, which is not known")),
    })
}

pub(super) fn regressor(node: &Node<'_>) -> Done<Kernel> {
    let targets = usize::try_from(node.int("n_targets", 1)).unwrap_or_default();
    let together = together(node.text("aggregate_function", "SUM"))?;
    let trees = Trees::new(listed(node, "target")?, targets, together, &numbers(node, "base_values")?)?;
    numbers_of(trees, Transform::read(node)?, false)
}

/// The sums as they are: of single precision, or of double where they are asked in it.
fn numbers_of(trees: Trees, transform: Transform, follows_input: bool) -> Done<Kernel> {
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let mut sums = trees.sums(input)?;
        for sums in sums.chunks_exact_mut(trees.targets) {
            sums.iter_mut().enumerate().for_each(|(target, sum)| *sum += trees.base(target));
            transform.apply(sums);
        }
        let dims = Dims::of(&[sums.len() / trees.targets, trees.targets])?;
        if follows_input && matches!(input.data, Data::F64(_)) {
            out[0].shaped::<f64>(dims).copy_from_slice(&sums);
        } else {
            out[0].shaped::<f32>(dims).iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
        }
        Ok(())
    }))
}

pub(super) fn classifier(node: &Node<'_>) -> Done<Kernel> {
    let (labels, transform) = (Labels::read(node)?, Transform::read(node)?);
    let read = listed(node, "class")?;
    let classes = labels.len();
    let mut of = read.leaves.iter().flatten().map(|(class, _)| *class);
    let first = of.next();
    // Of two classes the leaves may tell only one, which then is the second.
    let is_one_of_two = classes == 2 && of.all(|class| Some(class) == first);
    let are_positive = read.leaves.iter().flatten().all(|(_, weight)| *weight >= 0.0);
    let base = numbers(node, "base_values")?;
    let one = first.map_or(0, |class| class as usize);
    let trees = Trees::new(read, classes, Together::Sum, &base)?;
    Ok(Box::new(move |inputs, out| {
        let input = inputs.get(0)?;
        let sums = trees.sums(input)?;
        tell(&labels, out, sums.len() / classes, classes, |row, out| {
            let sums = &sums[row * classes..][..classes];
            if is_one_of_two {
                let base = trees.base.get(usize::from(trees.base.len() == 2)).copied().unwrap_or_default();
                let score = sums[one] + base;
                let (first, second) = match transform {
                    Transform::Logistic => (logistic(-score), logistic(score)),
                    _ if are_positive => (1.0 - score, score),
                    _ => (-score, score),
                };
                (out[0], out[1]) = (first, second);
                return usize::from(score > if are_positive { 0.5 } else { 0.0 });
            }
            // A base value of one class is the first one's.
            let base = |class: usize| if trees.base.len() == 1 && class > 0 { 0.0 } else { trees.base(class) };
            out.iter_mut().enumerate().for_each(|(class, out)| *out = sums[class] + base(class));
            let class = largest(out);
            transform.apply(out);
            class
        })
    }))
}

/// Trees as the newest version has them.
pub(super) fn ensemble(node: &Node<'_>) -> Done<Kernel> {
    let needed = |name: &str| node.tensor(name)?.ok_or_else(|| format!("it has no `{name}`"));
    let (modes, with) = (needed("nodes_modes")?, needed("nodes_splits")?.doubles()?);
    let modes = modes.integers()?;
    let (columns, missing) = (node.ints("nodes_featureids"), node.ints("nodes_missing_value_tracks_true"));
    let ways = ["true", "false"].map(|side| {
        (node.ints(&format!("nodes_{side}leafs")).to_vec(), node.ints(&format!("nodes_{side}nodeids")).to_vec())
    });
    let [yes, no] = &ways;
    alike(&[modes.len(), with.len(), columns.len(), yes.0.len(), yes.1.len(), no.0.len(), no.1.len()])?;
    let way = |(are_leaves, to): &(Vec<i64>, Vec<i64>), at: usize| -> Done<Way> {
        Ok(if are_leaves[at] == 0 { Way::Question(index(to[at])?) } else { Way::Leaf(index(to[at])?) })
    };
    let question = |at: usize| -> Done<Question> {
        let asks = usize::try_from(modes[at]).ok().and_then(|mode| ASKS.get(mode).copied());
        Ok(Question {
            column: column(columns[at])?,
            with: with[at],
            asks: asks.ok_or_else(|| format!("its nodes ask in mode {}, which is not known here", modes[at]))?,
            takes_missing: missing.get(at).is_some_and(|missing| *missing != 0),
            yes: way(yes, at)?,
            no: way(no, at)?,
        })
    };
    let (targets, weights) = (node.ints("leaf_targetids"), needed("leaf_weights")?.doubles()?);
    alike(&[targets.len(), weights.len()])?;
    let leaves = targets.iter().zip(weights).map(|(target, weight)| Ok(vec![(column(*target)?, weight)]));
    let roots = node.ints("tree_roots").iter().map(|root| Ok(Way::Question(index(*root)?)));
    let read = Read {
        questions: (0..modes.len()).map(question).collect::<Done<_>>()?,
        leaves: leaves.collect::<Done<_>>()?,
        roots: roots.collect::<Done<_>>()?,
    };
    sound(&read)?;
    let together = match node.int("aggregate_function", 1) {
        0 => Together::Average,
        1 => Together::Sum,
        2 => Together::Min,
        3 => Together::Max,
        other => return Err(format!("it puts its trees together by {other}, which is not known")),
    };
    let targets = usize::try_from(node.int("n_targets", 1)).unwrap_or_default();
    let trees = Trees::new(read, targets, together, &[])?;
    numbers_of(trees, Transform::numbered(node.int("post_transform", 0))?, true)
}
