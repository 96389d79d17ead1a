//! From rows of features to a graph's inputs, and from its outputs to what a model says.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::{Matrix, Task};
use super::operators::{logistic, softly};
use super::program::{Classes, Input, Program, labels};
use super::proto;
use super::value::{Data, Dims, Done, Value};

/// What an output says.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Gives {
    /// How probable each class is, or of two classes the second one (yes).
    Probabilities,
    /// The same before a softmax, or before the logistic function.
    Logits,
    /// Only which class it is.
    Labels,
    /// A number.
    Number,
    /// How unusual a row is: the larger, the more.
    Score,
    /// Which group a row belongs to, and how far it is from its centre, or from all centres.
    Clusters,
    /// With which probability each action is to be chosen.
    Choices,
}

impl Gives {
    pub(super) fn task(self) -> Task {
        match self {
            Self::Probabilities | Self::Logits | Self::Labels => Task::Classification,
            Self::Number => Task::Regression,
            Self::Score => Task::Anomaly,
            Self::Clusters => Task::Clustering,
            Self::Choices => Task::Choice,
        }
    }
}

/// Where a feature is in a row.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum Slot {
    /// This one of the numbers.
    Number(usize),
    /// This one of the categories, counted from the first category of the column.
    Category(usize, u32),
}

/// What a model of others has to fit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fitting {
    /// The features' names in the model's order, and where they are.
    pub features: Vec<(String, Slot)>,
    /// The names of the classes or actions.
    pub classes: Vec<String>,
    /// Whether the classes are just yes and no.
    pub is_yes_or_no: bool,
}

/// An input, and what goes into it.
#[derive(Debug)]
pub(super) struct Feed {
    slot: usize,
    kind: i32,
    /// Whether rows have one number each, and no columns.
    is_flat: bool,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    from: Slot,
    /// What its whole numbers stand for, where the input takes texts.
    texts: Arc<[Arc<str>]>,
}

/// A problem with what a graph takes, once for each.
fn refuse<T>(problems: &[String], value: T) -> Done<T> {
    if problems.is_empty() { Ok(value) } else { Err(problems.join("; ")) }
}

/// The features that go into each input, by the features' numbers.
fn assigned(inputs: &[Input], named: &BTreeMap<String, Vec<String>>, fitting: &Fitting) -> Done<Vec<Vec<usize>>> {
    let features: Vec<&str> = fitting.features.iter().map(|(name, _)| name.as_str()).collect();
    let find = |name: &str| features.iter().position(|feature| *feature == name);
    let listed = || inputs.iter().map(describe).collect::<Vec<_>>().join(", ");
    if !named.is_empty() {
        let mut problems = Vec::new();
        let mut assigned = Vec::new();
        for input in inputs {
            let Some(names) = named.get(&input.name) else {
                problems.push(format!("`inputs` does not say what goes into `{}`", input.name));
                continue;
            };
            let found = names.iter().filter_map(|name| {
                let found = find(name);
                found.is_none().then(|| problems.push(format!("`inputs` names `{name}`, which is no feature")));
                found
            });
            assigned.push(found.collect());
        }
        let others = named.keys().filter(|name| inputs.iter().all(|input| input.name != **name));
        problems.extend(others.map(|name| format!("it has no input `{name}`; there are: {}", listed())));
        return refuse(&problems, assigned);
    }
    // An input that had the name of an output has an underscore behind it.
    let by_name: Option<Vec<Vec<usize>>> = inputs
        .iter()
        .map(|input| find(&input.name).or_else(|| find(input.name.trim_end_matches('_'))).map(|at| vec![at]))
        .collect();
    if let Some(by_name) =
        by_name.filter(|_| inputs.len() == features.len() && inputs.iter().all(|input| input.width() != Some(0)))
    {
        return Ok(by_name);
    }
    if inputs.len() == 1 {
        return Ok(vec![(0..features.len()).collect()]);
    }
    let widths: Option<Vec<usize>> = inputs.iter().map(Input::width).collect();
    match widths {
        Some(widths) if widths.iter().sum::<usize>() == features.len() && widths.iter().any(|width| *width > 1) => {
            let mut from = 0;
            let mut next = |width: &usize| {
                from += width;
                (from - width..from).collect()
            };
            Ok(widths.iter().map(&mut next).collect())
        }
        _ => Err(format!(
            "its inputs are {}, and the features are `{}`; name features as inputs, or say under `inputs` what goes where",
            listed(),
            features.join("`, `")
        )),
    }
}

/// An input for people.
fn describe(input: &Input) -> String {
    let shape = match &input.shape {
        None => "of any shape".to_owned(),
        Some(shape) => {
            let lengths: Vec<String> =
                shape.iter().map(|length| length.map_or_else(|| "?".to_owned(), |length| length.to_string())).collect();
            format!("[{}]", lengths.join(", "))
        }
    };
    format!("`{}` {} {shape}", input.name, kind_name(input.kind))
}

/// A type as ONNX calls it.
fn kind_name(kind: i32) -> &'static str {
    match kind {
        proto::FLOAT => "float",
        proto::DOUBLE => "double",
        proto::INT64 => "int64",
        proto::INT32 => "int32",
        proto::BOOL => "bool",
        proto::TEXT => "string",
        _ => "of another type",
    }
}

impl Input {
    /// How many columns it takes, if that is known.
    fn width(&self) -> Option<usize> {
        match self.shape.as_deref() {
            Some([_]) => Some(1),
            Some([_, width]) => *width,
            _ => None,
        }
    }
}

/// What goes into each input, or all that does not fit.
pub(super) fn feeds(
    program: &Program,
    named: &BTreeMap<String, Vec<String>>,
    texts: &BTreeMap<String, Vec<String>>,
    fitting: &Fitting,
) -> Done<Vec<Feed>> {
    let assigned = assigned(&program.inputs, named, fitting)?;
    let (mut problems, mut feeds) = (Vec::new(), Vec::new());
    let mut is_used = vec![false; fitting.features.len()];
    for (input, features) in program.inputs.iter().zip(assigned) {
        let takes_texts = input.kind == proto::TEXT;
        let is_known = [proto::FLOAT, proto::DOUBLE, proto::INT64, proto::INT32, proto::BOOL, proto::TEXT];
        if !is_known.contains(&input.kind) || input.shape.as_ref().is_some_and(|shape| !(1..=2).contains(&shape.len()))
        {
            let message = "rows of float, double, int64, int32, bool or string can be given";
            problems.push(format!("its input {} takes something else than rows: {message}", describe(input)));
        }
        if input.width().is_some_and(|width| width != features.len()) {
            let names: Vec<&str> = features.iter().map(|at| fitting.features[*at].0.as_str()).collect();
            let given = names.join("`, `");
            problems.push(format!(
                "its input {} does not take the {} features `{given}`",
                describe(input),
                names.len()
            ));
        }
        let mut columns = Vec::new();
        for at in features {
            is_used[at] = true;
            let (name, from) = &fitting.features[at];
            let own = texts.get(name);
            if takes_texts && own.is_none() {
                let message = "say under `texts` which texts its whole numbers stand for";
                problems.push(format!("its input `{}` takes texts, and `{name}` is a number: {message}", input.name));
            }
            if !takes_texts && own.is_some() {
                problems.push(format!("`texts` has some for `{name}`, and its input `{}` takes none", input.name));
            }
            let texts = own.into_iter().flatten().map(|text| Arc::from(text.as_str())).collect();
            columns.push(Column { from: *from, texts });
        }
        let is_flat = input.shape.as_ref().is_some_and(|shape| shape.len() == 1);
        feeds.push(Feed { slot: input.slot as usize, kind: input.kind, is_flat, columns });
    }
    let unused = fitting.features.iter().zip(is_used).filter(|(_, is_used)| !is_used);
    problems.extend(unused.map(|((name, _), _)| format!("the feature `{name}` goes into no input")));
    let unknown = texts.keys().filter(|name| fitting.features.iter().all(|(feature, _)| feature != *name));
    problems.extend(unknown.map(|name| format!("`texts` names `{name}`, which is no feature")));
    refuse(&problems, feeds)
}

impl Feed {
    /// Fills in some rows. Those that the input cannot hold, a fraction where it takes whole numbers, go to `unfit`.
    pub(super) fn fill(&self, rows: &Matrix, (from, to): (usize, usize), slots: &mut [Value], unfit: &mut Vec<usize>) {
        let (dense, active) = rows.rows(from, to);
        let (count, width) = (to - from, self.columns.len());
        let lengths: &[usize] = if self.is_flat { &[count] } else { &[count, width] };
        let dims = Dims::of(lengths).expect("there are as many numbers in the rows already");
        let (numbers, categories) = (dense.len() / count.max(1), active.len() / count.max(1));
        let number = |row: usize, column: &Column| match column.from {
            Slot::Number(slot) => dense[row * numbers + slot],
            Slot::Category(slot, first) => f64::from(active[row * categories + slot] - first),
        };
        let value = &mut slots[self.slot];
        let each = |put: &mut dyn FnMut(usize, f64, &Column)| {
            for (at, column) in self.columns.iter().enumerate() {
                (0..count).for_each(|row| put(row * width + at, number(row, column), column));
            }
        };
        match self.kind {
            proto::FLOAT => {
                let out = value.shaped::<f32>(dims);
                if self.is_plain() && width == numbers {
                    return out.iter_mut().zip(dense).for_each(|(out, x)| *out = *x as f32);
                }
                each(&mut |at, number, _| out[at] = number as f32);
            }
            proto::DOUBLE => {
                let out = value.shaped::<f64>(dims);
                each(&mut |at, number, _| out[at] = number);
            }
            proto::BOOL => {
                let out = value.shaped::<bool>(dims);
                each(&mut |at, number, _| out[at] = number != 0.0);
            }
            proto::TEXT => {
                let out = value.shaped::<Arc<str>>(dims);
                // What stands for no text is none that a model has seen.
                let text = |number: f64, column: &Column| {
                    let place = if number >= 0.0 && number.fract() == 0.0 { number as usize } else { usize::MAX };
                    column.texts.get(place).cloned().unwrap_or_default()
                };
                each(&mut |at, number, column| out[at] = text(number, column));
            }
            _ => {
                let out = value.shaped::<i64>(dims);
                let most = if self.kind == proto::INT32 { f64::from(i32::MAX) } else { 2.0_f64.powi(63) };
                each(&mut |at, number, _| {
                    if number.fract() != 0.0 || number.abs() >= most {
                        unfit.push(at / width);
                    }
                    out[at] = number as i64;
                });
            }
        }
    }

    /// Whether all columns are the numbers, in their order.
    fn is_plain(&self) -> bool {
        (0..).zip(&self.columns).all(|(at, column)| matches!(column.from, Slot::Number(slot) if slot == at))
    }
}

/// What is told of an output.
#[derive(Debug)]
pub(super) enum Tell {
    /// Of two classes only the second one's.
    Yes {
        at: usize,
        is_logit: bool,
    },
    /// Of all classes, with the place in the output where each is.
    Classes {
        at: usize,
        is_logit: bool,
        places: Vec<usize>,
    },
    /// The texts of the classes.
    Labels {
        at: usize,
        classes: Vec<Vec<String>>,
    },
    Number {
        at: usize,
    },
    Clusters {
        at: usize,
        distances: Option<usize>,
    },
    Choices {
        at: usize,
    },
}

/// Of an output: its name, how many elements there are for a row, and whether these are fractions.
pub(super) struct Output<'a> {
    pub(super) name: &'a str,
    pub(super) width: usize,
    pub(super) value: &'a Value,
}

impl Output<'_> {
    fn is_fraction(&self) -> bool {
        matches!(self.value.data, Data::F32(_) | Data::F64(_))
    }

    fn describe(&self) -> String {
        format!("`{}` {} {:?}", self.name, self.value.kind(), self.value.dims)
    }
}

/// How yes and no are written.
const NO: [&str; 5] = ["0", "false", "False", "no", "-1"];
const YES: [&str; 5] = ["1", "true", "True", "yes", "+1"];

/// Finds the output that says what is wanted.
pub(super) fn tell(
    outputs: &[Output<'_>],
    gives: Gives,
    named: Option<&str>,
    fitting: &Fitting,
    classes: &Classes,
) -> Done<Tell> {
    let listed = || outputs.iter().map(Output::describe).collect::<Vec<_>>().join(", ");
    let count = fitting.classes.len();
    let find = |what: &str, fits: &dyn Fn(&Output<'_>) -> bool, usual: &[&str]| -> Done<Option<usize>> {
        if let Some(name) = named {
            let found = outputs.iter().position(|output| output.name == name && fits(output));
            return found.map(Some).ok_or_else(|| {
                format!("`output: {name}` is none that gives {what}; for a row there are: {}", listed())
            });
        }
        let found: Vec<usize> = (0..outputs.len()).filter(|at| fits(&outputs[*at])).collect();
        let is_usual = |at: &&usize| usual.contains(&outputs[**at].name);
        match (&found[..], found.iter().filter(is_usual).collect::<Vec<_>>().as_slice()) {
            ([], _) => Ok(None),
            ([one], _) => Ok(Some(*one)),
            (_, [one]) => Ok(Some(**one)),
            _ => Err(format!("more than one of its outputs may give {what}; say which under `output`: {}", listed())),
        }
    };
    let none = |what: String| format!("none of its outputs gives {what}; for a row there are: {}", listed());
    match gives {
        Gives::Probabilities | Gives::Logits => {
            let is_logit = gives == Gives::Logits;
            let what = format!("{} of {count} classes", if is_logit { "logits" } else { "probabilities" });
            let all = |output: &Output<'_>| output.is_fraction() && output.width == count;
            let one = |output: &Output<'_>| count == 2 && output.is_fraction() && output.width == 1;
            let usual = ["probabilities", "output_probability"];
            let either = |output: &Output<'_>| all(output) || (named.is_some() && one(output));
            let found = match find(&what, &either, &usual)? {
                Some(found) => found,
                None => find(&what, &one, &["probability"])?.ok_or_else(|| none(what))?,
            };
            if outputs[found].width == 1 {
                return Ok(Tell::Yes { at: found, is_logit });
            }
            Ok(Tell::Classes { at: found, is_logit, places: places(fitting, classes)? })
        }
        Gives::Choices => {
            let what = format!("probabilities of {count} actions");
            let found = find(&what, &|output| output.is_fraction() && output.width == count, &["probabilities"])?;
            found.map(|at| Tell::Choices { at }).ok_or_else(|| none(what))
        }
        Gives::Labels => {
            let what = "labels".to_owned();
            let found = find(&what, &|output| !output.is_fraction() && output.width == 1, &["label", "prediction"])?;
            let at = found.ok_or_else(|| none(what))?;
            let texts = |classes: &[&str]| classes.iter().map(ToString::to_string).collect();
            let own = || fitting.classes.iter().map(|class| vec![class.clone()]).collect();
            let classes = if fitting.is_yes_or_no { vec![texts(&NO), texts(&YES)] } else { own() };
            Ok(Tell::Labels { at, classes })
        }
        Gives::Number | Gives::Score => {
            let what = "one number".to_owned();
            let usual = ["prediction", "variable", "score", "scores"];
            let is_one = |output: &Output<'_>| output.width == 1 && !matches!(output.value.data, Data::Text(_));
            let fraction = |output: &Output<'_>| is_one(output) && (named.is_some() || output.is_fraction());
            let found = match find(&what, &fraction, &usual)? {
                Some(found) => Some(found),
                None => find(&what, &is_one, &usual)?,
            };
            found.map(|at| Tell::Number { at }).ok_or_else(|| none(what))
        }
        Gives::Clusters => {
            let what = "the number of a group".to_owned();
            let is_whole = |output: &Output<'_>| matches!(output.value.data, Data::I64(_)) && output.width == 1;
            let at = find(&what, &is_whole, &["cluster", "label"])?.ok_or_else(|| none(what))?;
            let distances = outputs.iter().position(Output::is_fraction);
            Ok(Tell::Clusters { at, distances })
        }
    }
}

/// Where each class is among those that a graph names.
fn places(fitting: &Fitting, classes: &Classes) -> Done<Vec<usize>> {
    let own = &fitting.classes;
    let as_listed = || (0..own.len()).collect::<Vec<_>>();
    let mut found = classes.iter().filter(|names| names.len() == own.len());
    let (Some(names), None) = (found.next(), found.next()) else { return Ok(as_listed()) };
    if fitting.is_yes_or_no {
        let (first, second) = (names[0].as_str(), names[1].as_str());
        return match (NO.contains(&first) && YES.contains(&second), YES.contains(&first) && NO.contains(&second)) {
            (true, _) => Ok(vec![0, 1]),
            (_, true) => Ok(vec![1, 0]),
            _ => Err(format!("its classes are `{first}` and `{second}`: list them under `classes`")),
        };
    }
    let places: Option<Vec<usize>> = own.iter().map(|name| names.iter().position(|other| other == name)).collect();
    if let Some(places) = places {
        return Ok(places);
    }
    if names.iter().enumerate().all(|(at, name)| *name == at.to_string()) {
        return Ok(as_listed());
    }
    Err(format!("its classes are `{}`, and under `classes` there are `{}`", names.join("`, `"), own.join("`, `")))
}

/// What is a little beyond is rounding.
fn probability(value: f64) -> f64 {
    if (-1e-6..=1.0 + 1e-6).contains(&value) { value.clamp(0.0, 1.0) } else { f64::NAN }
}

impl Tell {
    /// The numbers of the outputs that are needed.
    pub(super) fn outputs(&self) -> Vec<usize> {
        match self {
            Self::Yes { at, .. }
            | Self::Classes { at, .. }
            | Self::Labels { at, .. }
            | Self::Number { at }
            | Self::Choices { at } => vec![*at],
            Self::Clusters { at, distances } => std::iter::once(*at).chain(*distances).collect(),
        }
    }

    /// What the outputs say of some rows: what is no number, or no probability, becomes NaN.
    pub(super) fn read<'a>(&self, rows: usize, output: impl Fn(usize) -> Option<&'a Value>, out: &mut [f64]) -> Done {
        let given = |at: usize| output(at).ok_or("an output is missing");
        let numbers = |at: usize, width: usize| -> Done<Vec<f64>> {
            let numbers = given(at)?.doubles()?;
            let of_rows = numbers.len() == rows * width;
            if of_rows { Ok(numbers) } else { Err(format!("it gives {} numbers for {rows} rows", numbers.len())) }
        };
        match self {
            Self::Yes { at, is_logit } => {
                let to = if *is_logit { logistic } else { probability };
                out.iter_mut().zip(numbers(*at, 1)?).for_each(|(out, x)| *out = to(x));
            }
            Self::Number { at } => out.copy_from_slice(&numbers(*at, 1)?),
            Self::Classes { at, is_logit, places } => {
                let mut scores = numbers(*at, places.len())?;
                let mut row = vec![0.0; places.len()];
                let width = if places.len() == 2 { 1 } else { places.len() };
                for (scores, out) in scores.chunks_exact_mut(places.len()).zip(out.chunks_exact_mut(width)) {
                    if *is_logit {
                        softly(scores, &mut row, (0, places.len(), 1), false);
                    } else {
                        row.copy_from_slice(scores);
                    }
                    let first = places.len() - width;
                    out.iter_mut().zip(&places[first..]).for_each(|(out, at)| *out = probability(row[*at]));
                }
            }
            Self::Choices { at } => {
                let numbers = numbers(*at, out.len() / rows.max(1))?;
                out.iter_mut().zip(numbers).for_each(|(out, x)| *out = probability(x));
            }
            Self::Labels { at, classes } => {
                let given = labels(given(*at)?);
                if given.len() != rows {
                    return Err(format!("it gives {} labels for {rows} rows", given.len()));
                }
                let width = if classes.len() == 2 { 1 } else { classes.len() };
                for (label, out) in given.iter().zip(out.chunks_exact_mut(width)) {
                    let class = classes.iter().position(|names| names.contains(label));
                    let share = |at: usize| class.map_or(f64::NAN, |class| f64::from(u8::from(class == at)));
                    let first = classes.len() - width;
                    out.iter_mut().enumerate().for_each(|(at, out)| *out = share(first + at));
                }
            }
            Self::Clusters { at, distances } => {
                let groups = numbers(*at, 1)?;
                let all = distances.map(|at| given(at)?.doubles()).transpose()?.unwrap_or_default();
                let width = all.len() / rows.max(1);
                for (row, (group, out)) in groups.into_iter().zip(out.chunks_exact_mut(2)).enumerate() {
                    let of = &all[row * width..][..width];
                    let distance = if width == 1 { of.first() } else { of.get(group as usize) };
                    (out[0], out[1]) = (group, distance.copied().unwrap_or_default());
                }
            }
        }
        Ok(())
    }
}
