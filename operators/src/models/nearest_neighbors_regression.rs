//! Nearest neighbours: the mean of the numbers of the examples like a row.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, schema_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::learner::Erased;
use super::neighbors::{Config, Window};
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Explanation, Model, ModelKind, Names, Row, Shape, Task, Tensor};

/// Nearest neighbours that tell a number.
pub static KIND: ModelKind = Kind {
    name: "nearest_neighbors_regression",
    about: "A number: the mean of those of the most similar of the last examples.\n\n\
            Follows any curve, and change within a window, but never goes beyond the numbers it has seen. Columns of any scale are taken \
            as they are, and all count alike, so leave out those that say nothing. `nearest_neighbors` tells a class.",
    schema: schema_of::<Config>,
    example: "neighbors: 5\nwindow: 500",
    plan,
};

fn plan(value: &Value) -> Planned<Design> {
    let config = Config::checked(value)?;
    let parameters = serde_json::to_value(config).expect("numbers can be written");
    let make =
        move |shape| Erased::new(Neighbors { window: Window::new(shape, config) }, Task::Regression, shape).boxed();
    Ok(Design::new(KIND.name, Task::Regression, parameters, Arc::new(make)))
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Neighbors {
    window: Window,
}

impl Model for Neighbors {
    fn predict(&self, row: Row<'_>, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        let (mut sum, mut all) = (0.0, 0.0);
        self.window.ask(row, scratch, |target, votes| {
            sum += votes * target;
            all += votes;
        });
        outputs[0] = if all > 0.0 { sum / all } else { 0.0 };
    }

    fn learn(&mut self, row: Row<'_>, example: Example, outputs: &mut [f64], scratch: &mut Vec<f64>) {
        self.predict(row, outputs, scratch);
        self.window.push(row, example);
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.window.tensors()
    }

    fn explain(&self, names: &Names) -> Explanation {
        let mut lines = self.window.lines(names);
        lines.push("importance: squared correlation with the target, within the window".to_owned());
        Explanation { importances: self.window.importances(names), lines }
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        if self.window.len() == 0 {
            return Ok(rows.repeat(graph, &[0.0]));
        }
        let (votes, nearest) = self.window.onnx(graph, rows);
        let targets: Vec<f64> = self.window.targets_newest_first().collect();
        let targets = graph.doubles(&[targets.len()], &targets);
        let theirs = graph.gather(targets, nearest);
        let counted = graph.multiply(theirs, votes);
        let sum = graph.reduce("ReduceSum", counted, 1, true);
        let all = graph.reduce("ReduceSum", votes, 1, true);
        Ok(graph.divide(sum, all))
    }

    fn fits(&self, shape: Shape) -> bool {
        self.window.fits(shape)
    }
}
