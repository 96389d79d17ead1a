//! Nearest neighbours: the class that most of the examples like a row are in.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bayes;
use super::learner::Erased;
use super::neighbors::{Config, Window};
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Nearest neighbours that tell a class.
pub static KIND: ModelKind = Kind {
    name: "nearest_neighbors",
    about: "The probability of each class: its share among the most similar of the last examples (Cover and Hart, 1967).\n\n\
            Follows any shape of classes, and change within a window. Columns of any scale are taken as they are, and all count \
            alike, so leave out those that say nothing. `nearest_neighbors_regression` tells a number.",
    schema: schema_of::<Config>,
    example: "neighbors: 5\nwindow: 500",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config = Config::checked(value)?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make = move |shape| Erased::new(Neighbors::new(shape, config), Task::Classification, shape).boxed();
    Ok(Design::new(KIND.name, Task::Classification, parameters, Arc::new(make)))
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Neighbors {
    classes: usize,
    window: Window,
}

impl Neighbors {
    fn new(shape: Shape, config: Config) -> Self {
        Self { classes: bayes::classes(shape), window: Window::new(shape, config) }
    }

    /// The class of a target.
    fn class(&self, target: f64) -> usize {
        (target.max(0.0) as usize).min(self.classes - 1)
    }
}

impl Model for Neighbors {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        if self.window.len() == 0 {
            return bayes::uniform(outputs);
        }
        outputs.fill(0.0);
        let (mut all, binary) = (0.0, outputs.len() == 1);
        self.window.ask(row, scratch, |target, votes| {
            all += votes;
            match self.class(target) {
                0 if binary => {}
                class => outputs[if binary { 0 } else { class }] += votes,
            }
        });
        outputs.iter_mut().for_each(|output| *output /= all);
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.window.push(row, example);
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.window.tensors()
    }

    fn explain(&self, names: &Names) -> Explanation {
        let mut counts = vec![0_u64; self.classes];
        self.window.targets().iter().for_each(|target| counts[self.class(*target)] += 1);
        let mut lines = self.window.lines(names);
        lines.push("importance: squared correlation with the class's number, within the window".to_owned());
        let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        lines.extend(
            counted.map(|(class, count)| format!("class {}: {count} examples", bayes::class_name(names, class))),
        );
        Explanation { importances: self.window.importances(names), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.window.len() == 0 {
            return Ok(bayes::uniform_onnx(graph, rows, self.classes));
        }
        let (votes, nearest) = self.window.onnx(graph, rows);
        let mut classes = vec![0.0; self.window.len() * self.classes];
        for (at, target) in self.window.targets_newest_first().enumerate() {
            classes[at * self.classes + self.class(target)] = 1.0;
        }
        let classes = graph.doubles(&[self.window.len(), self.classes], &classes);
        let theirs = graph.gather(classes, nearest);
        let each = graph.widen(votes, 2);
        let counted = graph.multiply(theirs, each);
        let sums = graph.sum(counted, 1);
        let all = graph.reduce("ReduceSum", votes, 1, true);
        let probabilities = graph.divide(sums, all);
        Ok(graph.outputs(probabilities, self.classes))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.classes == bayes::classes(shape) && self.window.fits(shape)
    }
}
