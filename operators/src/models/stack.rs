//! A learner that learns from what others say.

use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, Problem, Problems, configuration, schema_of};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::composite::{Answer, Given, Head, Member, Members, Said, planned};
use super::onnx::{Expressed, Graph, Rows};
use super::{Design, Example, Learner, Matrix, ModelKind, Names, Predictor, Shape, Task, Tensor};

/// Stacked learners.
pub static KIND: ModelKind = Kind {
    name: "stack",
    about: "Several learners on one stream, and a final one whose features are what they say of each row.\n\n\
            What the final one sees of a row was said before the others learned it (Wolpert, \"Stacked generalization\", \
            1992; a stream needs no cross-validation for that).",
    schema: schema_of::<Config>,
    example: "{of: [logistic_regression, {logistic_regression: {update: ftrl}}], final: logistic_regression}",
    plan,
};

/// Settings of a stack.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The learners, 2 to 100 of them: all classifiers, or all of numbers.
    #[schemars(with = "Vec<Member>", length(min = 2, max = 100))]
    of: Vec<Value>,
    /// Learns from what they say, to tell the same as they do. Without it, a linear model: `linear_regression` of
    /// numbers, `logistic_regression` of two classes, and one of those against the rest for each of more classes.
    #[schemars(with = "Option<Member>")]
    r#final: Option<Value>,
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let mut problems = Problems::default();
    let tasks = [Task::Classification, Task::Regression];
    let members = problems.take_all(Members::plan(&config.of, &tasks, KIND.name));
    let last = config.r#final.as_ref().and_then(|last| problems.take_all(planned("final", last, &tasks, KIND.name)));
    if let (Some(members), Some(last)) = (&members, &last)
        && members.designs[0].task != last.task
    {
        let message = format!("`{}` and `{}` do not learn to tell the same", last.kind, members.designs[0].kind);
        problems.push(Problem::new("final", "other-task", message));
    }
    problems.finish()?;
    let members = members.expect("what is missing has left a problem");
    let task = members.designs[0].task;
    let last = last.map_or_else(|| defaults(task), |last| Last { few: last.clone(), more: last });
    let parameters = json!({
        "of": members.parameters(), "final": config.r#final.is_some().then(|| last.few.named()),
    });
    let (most, quickens) = (last.more.classes_max, last.few.quickens || last.more.quickens);
    let design =
        members.design(KIND.name, parameters, move |members, shape| Box::new(Stack::new(&last, members, shape)));
    Ok(Design { classes_max: design.classes_max.min(most), quickens: design.quickens || quickens, ..design })
}

/// The final learner of at most two classes (or a number), and of more.
struct Last {
    few: Design,
    more: Design,
}

fn defaults(task: Task) -> Last {
    let of = |value: Value| super::plan(&value).unwrap_or_else(|_| unreachable!("these are all their defaults"));
    if task == Task::Regression {
        let last = of(json!("linear_regression"));
        return Last { few: last.clone(), more: last };
    }
    Last { few: of(json!("logistic_regression")), more: of(json!({"one_vs_rest": {"of": "logistic_regression"}})) }
}

struct Stack {
    last: Box<dyn Learner>,
    name: &'static str,
    quickens: bool,
    shape: Shape,
    /// What the members said; reused.
    rows: Matrix,
}

impl Stack {
    fn new(last: &Last, members: &Members, shape: Shape) -> Self {
        let last = if shape.classes <= 2 { &last.few } else { &last.more };
        let width = last.task.outputs(shape.classes);
        let shape = Shape { dense: members.designs.len() * width, active: 0, categories: 0, classes: shape.classes };
        let rows = Matrix::new(shape);
        Self { last: (last.make)(shape), name: last.kind, quickens: last.quickens, shape, rows }
    }
}

/// What the members said of a row is a row.
fn fill(rows: &mut Matrix, given: &Given<'_>) {
    rows.resize(given.rows);
    for (member, said) in given.outputs.iter().enumerate() {
        for at in 0..given.width {
            rows.set_dense(member * given.width + at, said.iter().skip(at).step_by(given.width).copied());
        }
    }
}

impl Head for Stack {
    fn learn(&mut self, given: &Given<'_>, examples: &[Example], outputs: &mut Vec<f64>) {
        fill(&mut self.rows, given);
        self.last.learn(&self.rows, examples, outputs);
    }

    fn quicken(&mut self, factor: f64, examples: f64) {
        if self.quickens {
            self.last.quicken(factor, examples);
        }
    }

    fn frozen(&self) -> Arc<dyn Answer> {
        Arc::new(Still { last: self.last.frozen(), name: self.name, shape: self.shape })
    }

    fn snapshot(&self) -> Vec<u8> {
        self.last.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.last.restore(snapshot).map_err(|reason| format!("final: {reason}"))
    }
}

struct Still {
    last: Arc<dyn Predictor>,
    name: &'static str,
    shape: Shape,
}

impl Answer for Still {
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>) {
        let mut rows = Matrix::new(self.shape);
        fill(&mut rows, given);
        self.last.predict(&rows, outputs);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let own = self.last.tensors().into_iter();
        own.map(|tensor| Tensor { name: format!("final/{}", tensor.name).into(), ..tensor }).collect()
    }

    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed {
        let members = said.all(graph)?;
        let numbers = Some(graph.beside(&members));
        self.last.onnx(graph, &Rows { numbers, active: None, shape: self.shape })
    }

    fn state(&self) -> Vec<u8> {
        self.last.snapshot()
    }

    fn lines(&self, members: &[String]) -> Vec<String> {
        let width = self.shape.dense / members.len();
        let dense = members.iter().flat_map(|name| {
            (0..width).map(move |at| if width == 1 { name.clone() } else { format!("{name}, class {at}") })
        });
        let names = Names { dense: dense.collect(), ..Names::default() };
        let mut lines = vec![format!("{} of what {} say:", self.name, members.join(", "))];
        lines.extend(self.last.explain(&names).lines.iter().map(|line| format!("  {line}")));
        lines
    }
}
