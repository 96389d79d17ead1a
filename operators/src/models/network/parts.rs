//! The processor: a mini-batch in parts.
//!
//! Each part goes forward and back alone. The gradients of the parameters are summed in pairs of parts, then in pairs of those, and so
//! on: a tree that follows from how many parts there are. So a model is the same bit for bit whoever computes its parts: threads of
//! this process, or other processes that help, each of which has parts that follow each other and sums as much of the tree as is its own.
//! Products of a mini-batch in one part are shared among threads, too, but with less for each to do.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use millstream_engine::part::Part;
use millstream_engine::processes::{Helper, Helpers, Talk};
use millstream_engine::{Fault, Result as Helped};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::random::Random;
use super::compute::{Categories, Compute, Failed, Inputs, Learning, View};
use super::graph::{Graph, Node};
use super::host::{Host, squares};
use super::numbers::{self, Numbers};
use super::optimizer::{Rule, Step};
use super::product::{WORTH_A_THREAD, on_threads};

/// A part of so many rows is worth to be sent to another process: all parameters go there, and their gradients come back.
const ROWS_WORTH_SENDING: usize = 64;

/// Runs a network on the processors of this process, and of others that help.
#[derive(Default)]
pub(super) struct Parts {
    output: Node,
    /// In how many parts a mini-batch is cut.
    count: usize,
    threads: usize,
    own: Group,
    others: Vec<Other>,
    /// How many of the others have parts of the last rows, and had of the last that went back.
    asked: usize,
    taught: usize,
    outputs: Vec<f32>,
    embeddings: Vec<f32>,
    /// The gradients of the parameters.
    sums: Vec<f32>,
}

/// What is drawn and remembered while a part is learned.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Drawn {
    random: Random,
    statistics: Numbers,
}

/// The sum of the gradients of parts that follow each other: a node of the tree.
#[derive(Debug, Deserialize, Serialize)]
struct Sum {
    parts: Range<usize>,
    gradients: Numbers,
}

impl Parts {
    /// With mini-batches in so many parts, and so many threads.
    pub(super) fn new(output: Node, count: usize, threads: usize) -> Self {
        Self { output, count, threads, ..Self::default() }
    }

    /// Has other processes compute some of the parts from now on.
    pub(super) fn helped_by(&mut self, helpers: &Helpers) {
        if self.count > 1 {
            self.others = helpers.talks().into_iter().map(|talk| Other::new(Some(talk))).collect();
        }
    }

    /// How many processes have computed the last gradient.
    pub(super) fn processes(&self) -> usize {
        1 + self.taught
    }

    /// Does for so many other processes what they would do, by the same words.
    #[cfg(test)]
    pub(super) fn helped_by_none(&mut self, others: usize) {
        self.others = (0..others).map(|_| Other::new(None)).collect();
    }

    /// The gradients of all parameters.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> &[f32] {
        &self.sums
    }
}

impl Compute for Parts {
    fn forward(
        &mut self,
        graph: &Graph,
        weights: View<'_>,
        inputs: Inputs<'_>,
        mut learning: Option<Learning<'_>>,
    ) -> Result<(), Failed> {
        let (rows, parts) = (inputs.rows, self.count.clamp(1, inputs.rows.max(1)));
        let part = |at: usize| inputs.part(rows * at / parts..rows * (at + 1) / parts);
        let inputs: Vec<Inputs<'_>> = (0..parts).map(part).collect();
        let mut drawn = learning.as_mut().map(|learning| draw(graph, learning, parts)).unwrap_or_default();
        let is_worth_it = weights.are_own && rows / parts >= ROWS_WORTH_SENDING;
        self.asked = if is_worth_it { self.others.len().min(parts - 1) } else { 0 };
        let processes = self.asked + 1;
        let share = |process: usize| parts * process / processes..parts * (process + 1) / processes;
        // Nothing is drawn where nothing is learned.
        let of = |range: Range<usize>, drawn: &[Drawn]| if drawn.is_empty() { 0..0 } else { range };
        for (process, other) in (1..).zip(&mut self.others[..self.asked]) {
            let range = share(process);
            other.rows = inputs[range.clone()].iter().map(|inputs| inputs.rows).sum();
            other.ask(&Ask::Forward(Box::new(Forward {
                graph: Cow::Borrowed(graph),
                output: self.output,
                threads: self.threads,
                first: range.start,
                parts,
                values: Cow::Borrowed(weights.values),
                statistics: weights.statistics.to_vec().into(),
                rows: inputs[range.clone()].iter().map(|inputs| Rows::of(inputs, graph)).collect(),
                drawn: drawn[of(range, &drawn)].to_vec(),
            })));
        }
        let range = share(0);
        (self.own.first, self.own.parts, self.own.threads) = (0, parts, self.threads);
        let own_drawn = of(range.clone(), &drawn);
        self.own.forward(graph, self.output, weights, &inputs[range], &mut drawn[own_drawn]);
        self.outputs.clear();
        self.own.outputs(&mut self.outputs);
        for (process, other) in (1..).zip(&mut self.others[..self.asked]) {
            let (outputs, theirs): (Numbers, Vec<Drawn>) = other.answer();
            self.outputs.extend_from_slice(&outputs);
            let range = of(share(process), &drawn);
            drawn[range].clone_from_slice(&theirs);
        }
        if let Some(Learning { random, statistics }) = learning {
            if let [only] = &drawn[..] {
                *random = only.random;
                statistics.copy_from_slice(&only.statistics);
            } else {
                statistics.fill(0.0);
                for (inputs, drawn) in inputs.iter().zip(&drawn) {
                    let share = inputs.rows as f32 / rows as f32;
                    statistics.iter_mut().zip(&*drawn.statistics).for_each(|(mean, of_part)| *mean += share * of_part);
                }
            }
        }
        Ok(())
    }

    fn outputs(&self) -> &[f32] {
        &self.outputs
    }

    fn backward(&mut self, graph: &Graph, weights: View<'_>, gradient: &[f32]) -> Result<f64, Failed> {
        self.taught = self.asked;
        let others = &mut self.others[..self.asked];
        let width = graph.width(self.output);
        let (own, mut rest) = gradient.split_at(self.own.rows.iter().sum::<usize>() * width);
        for other in &mut *others {
            let (theirs, after) = rest.split_at(other.rows * width);
            rest = after;
            other.ask(&Ask::Back(theirs.to_vec().into()));
        }
        self.own.old.push(std::mem::take(&mut self.sums));
        let mut sums = self.own.back(graph, weights, own);
        self.embeddings.clear();
        self.own.embeddings(graph, &mut self.embeddings);
        for other in others {
            let (theirs, embeddings): (Vec<Sum>, Numbers) = other.answer();
            sums.extend(theirs);
            self.embeddings.extend_from_slice(&embeddings);
        }
        self.own.add(&mut sums);
        debug_assert_eq!(sums.len(), 1, "the whole tree is here");
        self.sums = sums.pop().map(|sum| sum.gradients.into()).unwrap_or_default();
        Ok(squares(&self.sums))
    }

    fn embeddings(&self, _: &Graph) -> &[f32] {
        &self.embeddings
    }

    fn update(
        &mut self,
        values: &mut Part<Numbers>,
        moments: &mut Part<Numbers>,
        rule: &Rule,
        step: Step,
        factor: f32,
    ) -> Result<(), Failed> {
        if factor < 1.0 {
            self.sums.iter_mut().for_each(|gradient| *gradient *= factor);
        }
        rule.update(values.edit(), &self.sums, moments.edit(), step);
        Ok(())
    }

    fn read(&mut self, _: &mut Part<Numbers>, _: &mut Part<Numbers>) -> Result<(), Failed> {
        Ok(())
    }

    fn is_device(&self) -> bool {
        false
    }
}

/// What each part begins with: several have random numbers of their own.
fn draw(graph: &Graph, learning: &mut Learning<'_>, parts: usize) -> Vec<Drawn> {
    let statistics = Numbers::from(learning.statistics.to_vec());
    // Where nothing is drawn, what was predicted may be learned without another way forward: then this is not called.
    if parts == 1 || !graph.learns_otherwise() {
        return vec![Drawn { random: *learning.random, statistics }; parts];
    }
    let seed = learning.random.next();
    let drawn = |part| Drawn { random: Random::new(seed, part), statistics: statistics.clone() };
    (0..parts as u64).map(drawn).collect()
}

/// Parts that follow each other, on threads of one process.
#[derive(Default)]
struct Group {
    /// The number of the first one, and how many there are in all processes.
    first: usize,
    parts: usize,
    threads: usize,
    /// How many rows each has.
    rows: Vec<usize>,
    hosts: Vec<Host>,
    /// Gradients that are not needed any more; reused.
    old: Vec<Vec<f32>>,
}

impl Group {
    /// Computes the outputs. Of each part something is drawn, or of none.
    fn forward(&mut self, graph: &Graph, output: Node, weights: View<'_>, inputs: &[Inputs<'_>], drawn: &mut [Drawn]) {
        self.rows.clear();
        self.rows.extend(inputs.iter().map(|inputs| inputs.rows));
        while self.hosts.len() < inputs.len() {
            self.hosts.push(Host::new(graph, output));
        }
        let (threads, of_each) = self.split_threads(graph);
        let mut drawn = drawn.iter_mut();
        let mut all: Vec<_> =
            self.hosts.iter_mut().zip(inputs).map(|(host, inputs)| (host, *inputs, drawn.next())).collect();
        on_threads(threads, &mut all, |(host, inputs, drawn)| {
            let learning = drawn.as_deref_mut();
            let learning = learning.map(|Drawn { random, statistics }| Learning { random, statistics });
            host.compute(graph, weights, *inputs, learning, of_each);
        });
    }

    fn outputs(&self, to: &mut Vec<f32>) {
        self.hosts[..self.rows.len()].iter().for_each(|host| to.extend_from_slice(host.outputs()));
    }

    /// From the gradient of the outputs to those of the parameters, as far as they can be summed here.
    fn back(&mut self, graph: &Graph, weights: View<'_>, gradient: &[f32]) -> Vec<Sum> {
        let (threads, of_each) = self.split_threads(graph);
        let width = gradient.len() / self.rows.iter().sum::<usize>().max(1);
        let mut rest = gradient;
        let mut all: Vec<_> = (self.first..)
            .zip(self.hosts.iter_mut().zip(&self.rows))
            .map(|(part, (host, rows))| {
                let (gradient, after) = rest.split_at(rows * width);
                rest = after;
                (part, host, gradient, self.old.pop().unwrap_or_default())
            })
            .collect();
        on_threads(threads, &mut all, |(_, host, gradient, sums)| host.back(graph, weights, gradient, sums, of_each));
        let sum = |(part, _, _, sums): (usize, _, _, Vec<f32>)| Sum { parts: part..part + 1, gradients: sums.into() };
        let mut sums = all.into_iter().map(sum).collect();
        self.add(&mut sums);
        sums
    }

    /// The gradients of the embeddings that the rows had, one after the other.
    fn embeddings(&self, graph: &Graph, to: &mut Vec<f32>) {
        self.hosts[..self.rows.len()].iter().for_each(|host| to.extend_from_slice(host.embeddings(graph)));
    }

    /// Sums as much of the tree as is there, in the order of the parts.
    fn add(&mut self, sums: &mut Vec<Sum>) {
        let mut size = 1;
        while size < self.parts {
            for at in (0..sums.len().saturating_sub(1)).rev() {
                let (left, right) = (&sums[at].parts, &sums[at + 1].parts);
                let pair = left.start..(left.start + 2 * size).min(self.parts);
                let is_pair = left.start % (2 * size) == 0 && left.len() == size && left.end == right.start;
                if is_pair && right.end == pair.end {
                    let right = sums.remove(at + 1).gradients;
                    sums[at].parts = pair;
                    sums[at].gradients.iter_mut().zip(&*right).for_each(|(sum, gradient)| *sum += gradient);
                    // Others send new ones each time.
                    if self.old.len() < self.hosts.len() {
                        self.old.push(right.into());
                    }
                }
            }
            size *= 2;
        }
    }

    /// On how many threads parts are computed, and on how many each of them.
    fn split_threads(&self, graph: &Graph) -> (usize, usize) {
        let parts = self.rows.len().max(1);
        let worth = self.rows.iter().sum::<usize>() * graph.len() / WORTH_A_THREAD;
        (self.threads.min(parts).min(worth), (self.threads / parts).max(1))
    }
}

/// What another process is asked: first forward, then back.
#[derive(Deserialize, Serialize)]
enum Ask<'a> {
    Forward(Box<Forward<'a>>),
    /// From the gradient of the outputs.
    Back(Numbers),
}

#[derive(Deserialize, Serialize)]
struct Forward<'a> {
    graph: Cow<'a, Graph>,
    output: Node,
    threads: usize,
    first: usize,
    parts: usize,
    #[serde(with = "numbers")]
    values: Cow<'a, [f32]>,
    statistics: Numbers,
    /// Of each part.
    rows: Vec<Rows>,
    drawn: Vec<Drawn>,
}

/// The inputs of a part.
#[derive(Deserialize, Serialize)]
struct Rows {
    len: usize,
    numbers: Numbers,
    embeddings: Numbers,
}

impl Rows {
    fn of(inputs: &Inputs<'_>, graph: &Graph) -> Self {
        let mut embeddings = vec![0.0; inputs.rows * graph.embeddings_width()];
        inputs.embed(graph.embedding(), &mut embeddings);
        Self { len: inputs.rows, numbers: inputs.numbers.to_vec().into(), embeddings: embeddings.into() }
    }

    fn inputs(&self) -> Inputs<'_> {
        let categories = Categories::Embedded(&self.embeddings);
        Inputs { rows: self.len, numbers: &self.numbers, categories }
    }
}

/// Another process.
struct Other {
    /// None when it does not answer any more.
    talk: Option<Talk>,
    /// How many rows its parts have.
    rows: usize,
    /// What it was asked from the last way forward on, and how much of that was answered here.
    asked: Vec<Arc<Vec<u8>>>,
    answered: usize,
    own: Hand,
}

impl Other {
    fn new(talk: Option<Talk>) -> Self {
        Self { talk, rows: 0, asked: Vec::new(), answered: 0, own: Hand::default() }
    }

    fn ask(&mut self, ask: &Ask<'_>) {
        if matches!(ask, Ask::Forward(_)) {
            self.asked.clear();
            self.answered = 0;
        }
        let asked = Arc::new(postcard::to_stdvec(ask).expect("numbers can be written to memory"));
        if let Some(talk) = &mut self.talk {
            talk.ask(asked.clone());
        }
        self.asked.push(asked);
    }

    /// Its answer. When it is gone, the run is about to end; until then it is answered here.
    fn answer<T: DeserializeOwned>(&mut self) -> T {
        let answer = self.talk.as_mut().and_then(Talk::answer).unwrap_or_else(|| {
            self.talk = None;
            let mut answer = Ok(Vec::new());
            for asked in &self.asked[self.answered..] {
                answer = self.own.help(asked);
            }
            self.answered = self.asked.len();
            answer.expect("it was asked here")
        });
        postcard::from_bytes(&answer).expect("the same program has written it")
    }
}

/// Computes parts for another process.
#[derive(Default)]
pub(super) struct Hand {
    group: Group,
    /// What the way back needs.
    graph: Option<Graph>,
    values: Vec<f32>,
    statistics: Numbers,
}

impl Helper for Hand {
    fn help(&mut self, asked: &[u8]) -> Helped<Vec<u8>> {
        let damaged = |why: postcard::Error| Fault::ours("what another process has asked cannot be read").because(why);
        let Self { group, graph, values, statistics } = self;
        let answer = match postcard::from_bytes(asked).map_err(damaged)? {
            Ask::Forward(forward) => {
                let graph = graph.insert(forward.graph.into_owned());
                (*values, *statistics) = (forward.values.into_owned(), forward.statistics);
                (group.first, group.parts, group.threads) = (forward.first, forward.parts, forward.threads);
                let (mut drawn, mut outputs) = (forward.drawn, Vec::new());
                let inputs: Vec<Inputs<'_>> = forward.rows.iter().map(Rows::inputs).collect();
                let weights = View { values, are_own: true, statistics };
                group.forward(graph, forward.output, weights, &inputs, &mut drawn);
                group.outputs(&mut outputs);
                postcard::to_stdvec(&(Numbers::from(outputs), drawn))
            }
            Ask::Back(gradient) => {
                let graph = graph.as_ref().ok_or_else(|| Fault::ours("there is no way back without one forward"))?;
                let mut embeddings = Vec::new();
                let sums = group.back(graph, View { values, are_own: true, statistics }, &gradient);
                group.embeddings(graph, &mut embeddings);
                let answer = postcard::to_stdvec(&(&sums, Numbers::from(embeddings)));
                group.old.extend(sums.into_iter().map(|sum| sum.gradients.into()));
                answer
            }
        };
        answer.map_err(|why| Fault::ours("an answer cannot be written").because(why))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Shape;
    use super::super::super::samples::Random;
    use super::*;

    /// The sums of parts that are shared among processes like this, and how much is left to the one that sums all.
    fn summed(gradients: &[Vec<f32>], ends: &[usize]) -> (Vec<f32>, usize) {
        let (parts, mut start) = (gradients.len(), 0);
        let mut all = Vec::new();
        for end in ends {
            let one = |part: usize| Sum { parts: part..part + 1, gradients: gradients[part].clone().into() };
            let mut own = (start..*end).map(one).collect();
            Group { parts, ..Group::default() }.add(&mut own);
            all.extend(own);
            start = *end;
        }
        let left = all.len();
        Group { parts, ..Group::default() }.add(&mut all);
        let [Sum { parts: of, gradients }] = &all[..] else { panic!("{} sums are left", all.len()) };
        assert_eq!(*of, 0..parts);
        (gradients.to_vec(), left)
    }

    #[test]
    fn sums_do_not_depend_on_who_has_which_parts() {
        let mut random = Random::seeded(3);
        for parts in 1..=17 {
            let gradients: Vec<Vec<f32>> =
                (0..parts).map(|_| (0..20).map(|_| random.normal() as f32).collect()).collect();
            let (whole, _) = summed(&gradients, &[parts]);
            let wanted: Vec<f64> = (0..20).map(|at| gradients.iter().map(|of| f64::from(of[at])).sum()).collect();
            assert!(whole.iter().zip(wanted).all(|(sum, wanted)| (f64::from(*sum) - wanted).abs() < 1e-5));
            for _ in 0..20 {
                let mut ends: Vec<usize> = (0..random.below(4)).map(|_| random.below(parts + 1)).collect();
                ends.push(parts);
                ends.sort_unstable();
                let (shared, _) = summed(&gradients, &ends);
                let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&shared), bits(&whole), "{parts} parts, {ends:?}");
            }
        }
        // Two processes with four parts each send one sum each.
        let ones = vec![vec![1.0]; 8];
        assert_eq!(summed(&ones, &[4, 8]), (vec![8.0], 2));
    }

    #[test]
    fn what_another_process_has_not_answered_is_answered_here() {
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 0 };
        let mut graph = Graph::new(shape, 0);
        let input = graph.inputs();
        let hidden = graph.dense(input, 3, "hidden");
        let output = graph.output(hidden, 1);
        let values = vec![0.5; graph.len()].into();
        let rows = Rows { len: 2, numbers: vec![1.0, 2.0, -1.0, 0.5].into(), embeddings: Numbers::default() };
        let ask = Ask::Forward(Box::new(Forward {
            graph: Cow::Borrowed(&graph),
            output,
            threads: 1,
            first: 1,
            parts: 2,
            values,
            statistics: Numbers::default(),
            rows: vec![rows],
            drawn: Vec::new(),
        }));
        let back = Ask::Back(vec![1.0, -0.5].into());
        let asked = [&ask, &back].map(|ask| postcard::to_stdvec(ask).expect("memory"));
        let mut hand = Hand::default();
        let answers = asked.each_ref().map(|asked| hand.help(asked).expect("it was asked well"));
        let (outputs, _): (Numbers, Vec<Drawn>) = postcard::from_bytes(&answers[0]).expect("an answer");
        assert_eq!(*outputs, [3.0 * 2.0 * 0.5 + 0.5, 3.0 * 0.25 * 0.5 + 0.5]);
        // It is gone when it was asked forward, or after it has answered that.
        for answered in [0, 1] {
            let mut other = Other::new(None);
            other.ask(&ask);
            if answered == 0 {
                let (here, _): (Numbers, Vec<Drawn>) = other.answer();
                assert_eq!(here, outputs);
            }
            other.ask(&back);
            let (sums, _): (Vec<Sum>, Numbers) = other.answer();
            let there: (Vec<Sum>, Numbers) = postcard::from_bytes(&answers[1]).expect("an answer");
            assert_eq!(sums[0].gradients, there.0[0].gradients);
            assert_eq!((sums.len(), sums[0].parts.clone()), (1, 1..2));
        }
        assert!(hand.help(b"\xff\xff").is_err(), "what cannot be read is a fault");
        assert!(Hand::default().help(&asked[1]).is_err(), "there is no way back without one forward");
    }
}
