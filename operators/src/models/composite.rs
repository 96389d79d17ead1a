//! Learners made of learners: what all of them share.
//!
//! Members learn the same rows in the same order, each on its own; so what a member says of a row before it learns it
//! depends on that member alone, and members learn a whole batch one after the other. A [`Head`] makes one answer
//! of theirs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_engine::catalogue::{Planned, Problem, Problems};
use millstream_engine::digest::{self, Digest};
use millstream_engine::processes::Helpers;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_bytes::ByteBuf;
use serde_json::Value;

use super::onnx::{self, Expressed, Graph, NotExpressible, Rows};
use super::{Design, Example, Explanation, Happening, Learner, Matrix, Names, Predictor, Shape, Task, Tensor};

/// How many members there may be at most.
pub(super) const MEMBERS_MAX: usize = 100;

/// Under which name [`super::schema`] defines the choice of all learners.
pub(super) const SCHEMA: &str = "Learner";

/// The schema of a member. Only [`super::schema`] knows all learners: this is its place.
#[derive(Debug)]
pub(super) struct Member;

impl JsonSchema for Member {
    fn schema_name() -> Cow<'static, str> {
        SCHEMA.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"title": "learner", "description": "A learner: its name, or its name with its settings.", "type": ["string", "object"]})
    }
}

/// What the members said of some rows.
pub(super) struct Given<'a> {
    /// How many rows.
    pub(super) rows: usize,
    /// Of each member, row after row.
    pub(super) outputs: &'a [Vec<f64>],
    /// How many outputs a row has, of each member.
    pub(super) width: usize,
}

impl<'a> Given<'a> {
    /// What a member said of a row.
    #[inline]
    pub(super) fn of(&self, member: usize, row: usize) -> &'a [f64] {
        &self.outputs[member][row * self.width..][..self.width]
    }
}

/// Makes one answer of those of the members, and learns how.
pub(super) trait Head: Send + 'static {
    /// What a member is taught by these examples.
    fn lesson<'a>(&self, _member: usize, examples: &'a [Example]) -> Cow<'a, [Example]> {
        Cow::Borrowed(examples)
    }

    /// Answers each row as [`Answer::answer`] would just before, and learns it.
    fn learn(&mut self, given: &Given<'_>, examples: &[Example], outputs: &mut Vec<f64>);

    /// See [`Learner::quicken`].
    fn quicken(&mut self, _factor: f64, _examples: f64) {}

    /// An immutable copy of the present state.
    fn frozen(&self) -> Arc<dyn Answer>;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over a state, or says why it cannot.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        if snapshot.is_empty() { Ok(()) } else { Err("it has a state, and this has none".to_owned()) }
    }
}

/// A [`Head`] that does not change any more.
pub(super) trait Answer: Send + Sync + 'static {
    /// One answer for each row.
    fn answer(&self, given: &Given<'_>, outputs: &mut Vec<f64>);

    /// Its own numbers.
    fn tensors(&self) -> Vec<Tensor> {
        Vec::new()
    }

    /// Adds to an ONNX graph what gives the answer, or says why that cannot be.
    fn onnx(&self, graph: &mut Graph, said: &Said<'_>) -> Expressed;

    /// What it says of itself, before its members do.
    fn lines(&self, members: &[String]) -> Vec<String>;

    /// How much a member counts.
    fn share(&self, _member: usize) -> f64 {
        1.0
    }

    /// What [`Head::snapshot`] gave when this was made.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// What the members say of the rows of an ONNX graph.
pub(super) struct Said<'a> {
    still: &'a Still,
    rows: &'a Rows,
}

impl Said<'_> {
    /// How many outputs a row has, of each member.
    pub(super) fn width(&self) -> usize {
        self.still.width
    }

    /// Of a member.
    pub(super) fn of(&self, graph: &mut Graph, member: usize) -> Expressed {
        let named = |reason| NotExpressible::new(format!("{}: {reason}", self.still.names[member]));
        self.still.members[member].onnx(graph, self.rows).map_err(named)
    }

    /// Of all members.
    pub(super) fn all(&self, graph: &mut Graph) -> Result<Vec<onnx::Edge>, NotExpressible> {
        (0..self.still.members.len()).map(|member| self.of(graph, member)).collect()
    }
}

/// The learners that a composite is made of.
pub(super) struct Members {
    pub(super) designs: Vec<Design>,
}

impl Members {
    /// Plans `of: [...]`: all problems at once, each at its path.
    pub(super) fn plan(of: &[Value], tasks: &[Task], kind: &str) -> Planned<Self> {
        let mut problems = Problems::default();
        if !(2..=MEMBERS_MAX).contains(&of.len()) {
            let message = format!("{} are listed, and there have to be 2 to {MEMBERS_MAX}", of.len());
            problems.push(Problem::new("of", "out-of-range", message));
        }
        let mut first: Option<(Task, &str)> = None;
        let mut designs = Vec::with_capacity(of.len());
        for (at, value) in of.iter().enumerate() {
            let path = format!("of.{at}");
            let Some(design) = problems.take_all(planned(&path, value, tasks, kind)) else { continue };
            let (task, name) = *first.get_or_insert((design.task, design.kind));
            if task != design.task {
                let message = format!("`{}` and `{name}` do not learn to tell the same", design.kind);
                problems.push(Problem::new(&path, "other-task", message).help("all have to be classifiers, or none"));
            }
            designs.push(design);
        }
        problems.finish()?;
        Ok(Self { designs })
    }

    /// A design that takes what all members can take.
    pub(super) fn design(
        self,
        kind: &'static str,
        parameters: Value,
        head: impl Fn(&Self, Shape) -> Box<dyn Head> + Send + Sync + 'static,
    ) -> Design {
        let task = self.designs[0].task;
        let classes_max = self.designs.iter().map(|design| design.classes_max).min().unwrap_or(usize::MAX);
        let quickens = self.designs.iter().any(|design| design.quickens);
        let make = Arc::new(move |shape| self.make(shape, head(&self, shape)));
        Design { classes_max, quickens, ..Design::new(kind, task, parameters, make) }
    }

    /// Whether examples can be taken back from all of them.
    pub(super) fn forget(&self) -> bool {
        self.designs.iter().all(|design| design.forgets)
    }

    /// Their settings, defaults included.
    pub(super) fn parameters(&self) -> Value {
        self.designs.iter().map(Design::named).collect()
    }

    fn make(&self, shape: Shape, head: Box<dyn Head>) -> Box<dyn Learner> {
        let members = self.designs.iter().enumerate();
        let members = members.map(|(at, design)| Unit {
            learner: (design.make)(shape),
            name: format!("{at}.{}", design.kind),
            quickens: design.quickens,
        });
        Box::new(Composite::new(members.collect(), head, self.designs[0].task.outputs(shape.classes)))
    }
}

impl Design {
    /// As it stands in a definition, with all settings.
    pub(super) fn named(&self) -> Value {
        serde_json::json!({self.kind: self.parameters})
    }
}

/// Plans a learner within a learner, which has to be for one of these tasks.
pub(super) fn planned(path: &str, value: &Value, tasks: &[Task], kind: &str) -> Planned<Design> {
    let below = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.under(path)).collect::<Vec<_>>();
    let design = super::plan(value).map_err(below)?;
    if !design.learns {
        let message = format!("`{}` learns nothing, and cannot be in a `{kind}`", design.kind);
        let help = "make it a model of its own, beside others in a policy";
        return Err(vec![Problem::new(path, "learns-nothing", message).help(help)]);
    }
    if tasks.contains(&design.task) {
        return Ok(design);
    }
    let message = format!("`{}` cannot be in a `{kind}`", design.kind);
    let names: Vec<&str> = tasks.iter().map(|task| learners_for(*task)).collect();
    Err(vec![Problem::new(path, "other-task", message).help(format!("it takes {}", names.join(" or ")))])
}

fn learners_for(task: Task) -> &'static str {
    match task {
        Task::Classification => "classifiers",
        Task::Regression => "learners of numbers",
        Task::Anomaly => "learners of what is unusual",
        Task::Clustering => "learners of groups",
        Task::Choice => "learners that choose",
    }
}

/// A member at work.
pub(super) struct Unit {
    pub(super) learner: Box<dyn Learner>,
    /// Unique among the members.
    pub(super) name: String,
    pub(super) quickens: bool,
}

/// Members with a head.
pub(super) struct Composite {
    members: Vec<Unit>,
    head: Box<dyn Head>,
    /// How many outputs a row has, of each member.
    width: usize,
    /// What each member said of the batch; reused.
    outputs: Vec<Vec<f64>>,
}

impl Composite {
    pub(super) fn new(members: Vec<Unit>, head: Box<dyn Head>, width: usize) -> Self {
        Self { outputs: vec![Vec::new(); members.len()], members, head, width }
    }
}

impl Learner for Composite {
    fn learn(&mut self, rows: &Matrix, examples: &[Example], outputs: &mut Vec<f64>) {
        for ((at, member), outputs) in self.members.iter_mut().enumerate().zip(&mut self.outputs) {
            member.learner.learn(rows, &self.head.lesson(at, examples), outputs);
        }
        let given = Given { rows: rows.len(), outputs: &self.outputs, width: self.width };
        self.head.learn(&given, examples, outputs);
    }

    fn helped_by(&mut self, helpers: &Helpers) {
        self.members.iter_mut().for_each(|member| member.learner.helped_by(helpers));
    }

    fn forget(&mut self, rows: &Matrix, examples: &[Example]) {
        for (at, member) in self.members.iter_mut().enumerate() {
            member.learner.forget(rows, &self.head.lesson(at, examples));
        }
    }

    fn quicken(&mut self, factor: f64, examples: f64) {
        for member in self.members.iter_mut().filter(|member| member.quickens) {
            member.learner.quicken(factor, examples);
        }
        self.head.quicken(factor, examples);
    }

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(Still {
            members: self.members.iter().map(|member| member.learner.frozen()).collect(),
            names: self.members.iter().map(|member| member.name.clone()).collect(),
            head: self.head.frozen(),
            width: self.width,
        })
    }

    fn digest(&self) -> Digest {
        let members: Vec<Digest> = self.members.iter().map(|member| member.learner.digest()).collect();
        digest::of_value(&(members, self.head.snapshot()))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (members, head): (Vec<ByteBuf>, ByteBuf) =
            postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        if members.len() != self.members.len() {
            return Err(format!("it has {} members, and this has {}", members.len(), self.members.len()));
        }
        for (member, snapshot) in self.members.iter_mut().zip(members) {
            member.learner.restore(&snapshot).map_err(|reason| format!("{}: {reason}", member.name))?;
        }
        self.head.restore(&head)
    }

    fn take_happenings(&mut self) -> Vec<Happening> {
        self.members.iter_mut().flat_map(|member| member.learner.take_happenings()).collect()
    }
}

struct Still {
    members: Vec<Arc<dyn Predictor>>,
    names: Vec<String>,
    head: Arc<dyn Answer>,
    width: usize,
}

impl Predictor for Still {
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        let member = |member: &Arc<dyn Predictor>| {
            let mut outputs = Vec::new();
            member.predict(rows, &mut outputs);
            outputs
        };
        let said: Vec<Vec<f64>> = self.members.iter().map(member).collect();
        self.head.answer(&Given { rows: rows.len(), outputs: &said, width: self.width }, outputs);
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = self.head.tensors();
        for (member, name) in self.members.iter().zip(&self.names) {
            let own = member.tensors().into_iter();
            tensors.extend(own.map(|tensor| Tensor { name: format!("{name}/{}", tensor.name).into(), ..tensor }));
        }
        tensors
    }

    fn onnx(&self, graph: &mut Graph, rows: &Rows) -> Expressed {
        self.head.onnx(graph, &Said { still: self, rows })
    }

    fn snapshot(&self) -> Vec<u8> {
        let members: Vec<ByteBuf> = self.members.iter().map(|member| member.snapshot().into()).collect();
        postcard::to_stdvec(&(members, ByteBuf::from(self.head.state()))).expect("bytes can be written to memory")
    }

    fn explain(&self, names: &Names) -> Explanation {
        let mut lines = self.head.lines(&self.names);
        lines.push("importance: the members' own, each member's adding up to 1, on average".to_owned());
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let shares: f64 = (0..self.members.len()).map(|member| self.head.share(member)).sum();
        for ((at, member), name) in self.members.iter().enumerate().zip(&self.names) {
            let own = member.explain(names);
            lines.push(format!("{name}:"));
            lines.extend(own.lines.iter().map(|line| format!("  {line}")));
            let total: f64 = own.importances.iter().map(|(_, importance)| importance.abs()).sum();
            if self.head.share(at) > 0.0 && total > 0.0 && total.is_finite() {
                let share = self.head.share(at) / shares;
                for (feature, importance) in own.importances {
                    *sums.entry(feature).or_default() += importance.abs() / total * share;
                }
            }
        }
        let mut importances: Vec<(String, f64)> = sums.into_iter().collect();
        importances.sort_by(|a, b| b.1.total_cmp(&a.1));
        Explanation { importances, lines }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::Random;
    use super::super::{KINDS, plan, schema};
    use super::*;

    fn nested() -> Value {
        json!({"stack": {"of": [
            {"vote": {"of": ["logistic_regression", {"logistic_regression": {"update": "sgd"}}]}},
            {"champion": {"of": ["logistic_regression", {"mean": {"of": ["logistic_regression", "logistic_regression"]}}]}},
        ]}})
    }

    fn rows(shape: Shape, len: usize) -> (Matrix, Vec<Example>) {
        let mut random = Random::seeded(5);
        let mut rows = Matrix::new(shape);
        rows.resize(len);
        for column in 0..shape.dense {
            rows.set_dense(column, (0..len).map(|_| random.normal()));
        }
        let examples = (0..len).map(|row| {
            let [a, b, ..] = rows.row(row).dense else { panic!("two columns") };
            Example {
                weight: random.below(3) as f64,
                ..Example::of(f64::from(u8::from(a + 0.3 * random.normal() > *b)))
            }
        });
        let examples = examples.collect();
        (rows, examples)
    }

    fn bits(outputs: &[f64]) -> Vec<u64> {
        outputs.iter().map(|output| output.to_bits()).collect()
    }

    #[test]
    fn learners_of_learners_answer_alike_asked_or_learned_whole_or_in_parts() {
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
        let design = plan(&nested()).expect("a valid model");
        let (all, examples) = rows(shape, 600);
        let mut whole = Vec::new();
        (design.make)(shape).learn(&all, &examples, &mut whole);
        let (mut learner, mut parts) = ((design.make)(shape), Vec::new());
        let mut one = Matrix::new(shape);
        for row in 0..600 {
            one.copy_row(&all, row);
            let (mut asked, mut learned) = (Vec::new(), Vec::new());
            learner.frozen().predict(&one, &mut asked);
            learner.learn(&one, &examples[row..=row], &mut learned);
            assert_eq!(bits(&asked), bits(&learned), "row {row}");
            parts.extend(learned);
            if row % 100 == 50 {
                let snapshot = learner.snapshot();
                learner = (design.make)(shape);
                learner.restore(&snapshot).expect("it is its own");
                assert_eq!(learner.snapshot(), snapshot);
            }
        }
        assert_eq!(bits(&whole), bits(&parts));
        let right = (300..600).filter(|row| (parts[*row] > 0.5) == (examples[*row].target > 0.5)).count();
        assert!(right > 260, "{right} of 300");
        let names: Vec<String> =
            learner.frozen().tensors().into_iter().map(|tensor| tensor.name.into_owned()).collect();
        for name in
            ["final/weights", "0.vote/1.logistic_regression/weights", "1.champion/1.mean/0.logistic_regression/bias"]
        {
            assert!(names.iter().any(|known| known == name), "{names:?}");
        }
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        let explained = learner.frozen().explain(&Names { dense: vec!["a".into(), "b".into()], ..Names::default() });
        let sum: f64 = explained.importances.iter().map(|(_, importance)| importance).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{explained:?}");
    }

    #[test]
    fn states_of_others_are_refused() {
        let shape = Shape { dense: 2, active: 0, categories: 0, classes: 2 };
        let make = |value: Value| (plan(&value).expect("a valid model").make)(shape);
        let two = make(json!({"vote": {"of": ["logistic_regression", "logistic_regression"]}})).snapshot();
        let error =
            make(json!({"vote": {"of": ["logistic_regression", "logistic_regression", "logistic_regression"]}}))
                .restore(&two)
                .unwrap_err();
        assert_eq!(error, "it has 2 members, and this has 3");
        let mut other = make(json!({"stack": {"of": ["logistic_regression", "logistic_regression"]}}));
        assert!(other.restore(&two).unwrap_err().starts_with("final: "));
        assert!(other.restore(&two[..5]).is_err());
    }

    #[test]
    fn problems_of_members_are_found_all_at_once_at_their_places() {
        let problems = |value: Value| -> Vec<(String, &'static str)> {
            let problems = plan(&value).err().expect("problems");
            problems.into_iter().map(|problem| (problem.path.join("."), problem.code)).collect()
        };
        let found = problems(json!({"vote": {"of": [
            "logistic_regresion",
            {"logistic_regression": {"update": {"sgd": {"learning_rate": 0}}}},
            {"mean": {"of": ["logistic_regression", "linear_regression"], "weights": [1]}},
            "linear_regression",
        ]}}));
        let want = [
            ("vote.of.0", "unknown-model"),
            ("vote.of.1.logistic_regression.update.sgd.learning_rate", "out-of-range"),
            ("vote.of.2.mean.of.1", "other-task"),
            ("vote.of.2.mean.weights", "bad-value"),
            ("vote.of.3", "other-task"),
        ];
        assert_eq!(found, want.map(|(path, code)| (path.to_owned(), code)));
        assert_eq!(
            problems(json!({"vote": {"of": ["logistic_regression"]}})),
            [("vote.of".to_owned(), "out-of-range")]
        );
        assert_eq!(
            problems(json!({"champion": {"of": ["linear_regression", "linear_regression"], "alpha": 2}})).len(),
            1
        );
        let found = problems(json!({"one_vs_rest": {"of": {"logistic_regression": {"update": "x"}}}}));
        assert_eq!(found[0].0, "one_vs_rest.of.logistic_regression.update");
    }

    #[test]
    fn what_members_can_is_what_the_whole_can() {
        let design = plan(&nested()).expect("a valid model");
        assert_eq!((design.task, design.classes_max, design.forgets), (Task::Classification, 2, false));
        let many = plan(&json!({"one_vs_rest": {"of": nested()}})).expect("a valid model");
        assert_eq!(many.classes_max, usize::MAX);
        // With its own settings written out it is the same model.
        let again =
            plan(&design.named()).map_err(|problems| format!("{problems:?}")).expect("its settings are settings");
        assert_eq!(again.parameters, design.parameters);
    }

    #[test]
    fn the_schema_refers_to_itself_and_to_nothing_that_is_not_there() {
        let mut generator = SchemaGenerator::default();
        let whole = schema(&mut generator).to_value();
        assert_eq!(whole["$ref"], "#/$defs/Learner");
        let definitions = Value::Object(generator.take_definitions(false));
        let text = definitions.to_string();
        for reference in text.split("\"#/$defs/").skip(1) {
            let name = reference.split('"').next().expect("it ends");
            assert!(!definitions[name].is_null(), "{name}");
        }
        let forms = definitions[SCHEMA]["oneOf"].as_array().expect("forms");
        assert_eq!(forms.len(), KINDS.len() + 1);
        let vote = forms.iter().find(|form| form["required"][0] == "vote").expect("it is a learner");
        assert_eq!(vote["properties"]["vote"]["properties"]["of"]["items"]["$ref"], "#/$defs/Learner");
        assert!(!forms[0]["enum"].as_array().expect("names").contains(&json!("vote")), "it needs settings");
    }
}
