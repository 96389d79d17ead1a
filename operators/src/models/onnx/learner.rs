//! A model that others have trained, which answers and learns nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use millstream_engine::catalogue::{Kind, Planned, configuration, schema_of};
use millstream_engine::digest::{self, Digest};
use millstream_engine::part::Part;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{Design, Example, Explanation, Learner, Matrix, ModelKind, Names, Predictor, Row, Shape, Tensor};
use super::answers::{Feed, Fitting, Gives, Output, Tell, feeds, tell};
use super::program::Program;
use super::read::read;
use super::{Expressed, Graph, NotExpressible, Rows};

/// A model from an ONNX file.
pub static KIND: ModelKind = Kind {
    name: "onnx",
    about: "A model that others have trained, from its ONNX file: scikit-learn (skl2onnx), PyTorch, and others.\n\n\
            It needs `from: {file: model.onnx}` and `learns: false`. Its inputs take the features: one input all of them in their \
            order, or each its own by its name. Answers have the same bits on every machine, and do not depend on which rows come \
            together. Operators that are not known, and whatever else does not fit, are refused at the start, all at once; a row for \
            which the file gives no number gets an error answer. Rows may be judged by labels.",
    schema: schema_of::<Config>,
    example: "{gives: probabilities}",
    plan,
};

/// Settings of a model of others.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What its output says, and so what the model tells: one of some classes, a number, what is unusual, groups, or actions.
    gives: Gives,
    /// The output that says it, where that does not follow from shapes and usual names.
    output: Option<String>,
    /// Which features go into which input, where that does not follow from their names and numbers: `{numbers: [a, b], words: [c]}`.
    #[serde(default)]
    inputs: BTreeMap<String, Vec<String>>,
    /// For features that go into an input of texts: the texts that their whole numbers stand for, from 0 on, as `ordinal_category`
    /// lists them.
    #[serde(default)]
    texts: BTreeMap<String, Vec<String>>,
}

fn plan(value: &Value) -> Planned<Design> {
    let config: Config = configuration(value)?;
    let parameters = json!(config);
    let (task, config) = (config.gives.task(), Arc::new(config));
    let make = move |shape| -> Box<dyn Learner> { Box::new(Imported { config: config.clone(), shape, bound: None }) };
    Ok(Design { learns: false, ..Design::new(KIND.name, task, parameters, Arc::new(make)) })
}

/// A model of others, or a place for one.
#[derive(Clone)]
struct Imported {
    config: Arc<Config>,
    shape: Shape,
    bound: Option<Arc<Bound>>,
}

/// A file that fits.
struct Bound {
    stored: Part<Stored>,
    program: Program,
    feeds: Vec<Feed>,
    tell: Tell,
    /// How many rows go through the graph at a time.
    chunk: usize,
    width: usize,
    /// What is told of it.
    lines: Vec<String>,
}

/// What there is of it in a state.
#[derive(Deserialize, Serialize)]
struct Stored {
    fitting: Fitting,
    #[serde(with = "serde_bytes")]
    file: Vec<u8>,
}

/// How many numbers a run may have in all its slots, so that they stay near the processor.
const NUMBERS: usize = 1 << 20;
/// How many rows go through a graph at once, at most.
const ROWS_MAX: usize = 256;
/// How many rows are made up to try a graph.
const TRIED: usize = 5;

impl Bound {
    fn new(config: &Config, shape: Shape, stored: Stored) -> Result<Self, String> {
        let model = read(&stored.file)?;
        let about = format!("{} {}", model.producer_name, model.producer_version);
        let program = Program::new(model)?;
        let feeds = feeds(&program, &config.inputs, &config.texts, &stored.fitting)?;
        let tried = tried(shape, &stored.fitting);
        let (mut tell, mut why) = (None, String::new());
        for row in 0..TRIED {
            match outputs(&program, &feeds, &tried, row, config, &stored.fitting) {
                Ok(found) => {
                    tell = Some(found?);
                    break;
                }
                Err(error) => why = error,
            }
        }
        let tell = tell.ok_or_else(|| format!("it fails for any row that is made up to try it: {why}"))?;
        let width = config.gives.task().outputs(shape.classes);
        let mut bound = Self { stored: Part::new(stored), program, feeds, tell, chunk: 1, width, lines: Vec::new() };
        bound.program.keep(&bound.tell.outputs());
        bound.fit(&tried, config)?;
        bound.lines = bound.describe(about.trim());
        Ok(bound)
    }

    /// Finds out how many rows may go through at once: as many as do not change what is said of each.
    fn fit(&mut self, tried: &Matrix, config: &Config) -> Result<(), String> {
        let mut alone = vec![f64::NAN; TRIED * self.width];
        // A number that is no probability, for a row that the inputs can hold, says that the output is something else.
        let (mut is_other, takes_any) = (false, !matches!(config.gives, Gives::Probabilities | Gives::Choices));
        for (row, out) in alone.chunks_exact_mut(self.width).enumerate() {
            let fits = self.try_rows(tried, (row, row + 1), out) == Ok(true);
            is_other |= fits && !takes_any && !out[0].is_finite();
        }
        if is_other || alone.iter().all(|value| !value.is_finite()) {
            let help = match config.gives {
                Gives::Probabilities => ": are these `logits`?",
                Gives::Labels => ": its labels are not those of the definition",
                _ => "",
            };
            let output = &self.program.outputs[self.tell.outputs()[0]].0;
            return Err(format!(
                "its output `{output}` gives nothing of the kind for rows that are made up to try it{help}"
            ));
        }
        let each = self.program.elements().max(1);
        let same = |to: usize| {
            let mut together = vec![f64::NAN; to * self.width];
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            self.try_rows(tried, (0, to), &mut together).is_ok() && bits(&together) == bits(&alone[..to * self.width])
        };
        if same(2) && same(TRIED) {
            self.chunk = (NUMBERS / each).clamp(1, ROWS_MAX);
        }
        Ok(())
    }

    /// What it says of some rows, and whether its inputs can hold all of them; or why it says nothing of at least one.
    fn try_rows(&self, rows: &Matrix, range: (usize, usize), out: &mut [f64]) -> Result<bool, String> {
        let mut unfit = Vec::new();
        let fill = |slots: &mut [super::value::Value]| {
            self.feeds.iter().for_each(|feed| feed.fill(rows, range, slots, &mut unfit));
        };
        self.program.run(fill, |seen| {
            let output = |at: usize| seen.value(self.program.outputs[at].1);
            self.tell.read(range.1 - range.0, output, out)
        })??;
        for row in &unfit {
            out[row * self.width..][..self.width].fill(f64::NAN);
        }
        // Numbers are all there, or none of a row's.
        for out in out.chunks_exact_mut(self.width) {
            if out.iter().any(|value| !value.is_finite()) {
                out.fill(f64::NAN);
            }
        }
        Ok(unfit.is_empty())
    }

    fn say(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        outputs.resize(rows.len() * self.width, 0.0);
        for (at, out) in outputs.chunks_mut(self.chunk * self.width).enumerate() {
            let from = at * self.chunk;
            let to = from + out.len() / self.width;
            if self.try_rows(rows, (from, to), out).is_ok() {
                continue;
            }
            // One row's failure is not another's.
            for (row, out) in (from..to).zip(out.chunks_exact_mut(self.width)) {
                if self.try_rows(rows, (row, row + 1), out).is_err() {
                    out.fill(f64::NAN);
                }
            }
        }
    }

    fn describe(&self, about: &str) -> Vec<String> {
        let by = if about.is_empty() { String::new() } else { format!(", written by {about}") };
        let counts: Vec<String> =
            self.program.operators().into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        let nodes = self.program.nodes();
        vec![
            format!("an ONNX file of {} bytes{by}", self.stored.file.len()),
            format!("{nodes} nodes: {}", counts.join(", ")),
            format!("rows at once: {}", self.chunk),
        ]
    }
}

/// Rows that are made up: numbers around 0, and any categories.
fn tried(shape: Shape, fitting: &Fitting) -> Matrix {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32
    };
    let mut rows = Matrix::new(shape);
    let firsts: Vec<u32> = {
        let mut firsts = vec![0; shape.active];
        for (_, slot) in &fitting.features {
            if let super::answers::Slot::Category(slot, first) = slot
                && let Some(place) = firsts.get_mut(*slot)
            {
                *place = *first;
            }
        }
        firsts
    };
    for row in 0..TRIED {
        // Whole numbers, too: they are what some inputs take.
        let number = |next: u64| if row % 2 == 0 { (next % 3) as f64 } else { next as f64 / f64::from(1 << 30) - 2.0 };
        let dense: Vec<f64> = (0..shape.dense).map(|_| number(next())).collect();
        let active: Vec<u32> = (0..shape.active)
            .map(|slot| {
                let end = firsts.get(slot + 1).copied().unwrap_or(shape.categories as u32);
                firsts[slot] + next() as u32 % end.saturating_sub(firsts[slot]).max(1)
            })
            .collect();
        rows.push(Row { dense: &dense, active: &active });
    }
    rows
}

/// Which output says what is wanted, from those of a row; or why there are none of that row.
fn outputs(
    program: &Program,
    feeds: &[Feed],
    tried: &Matrix,
    row: usize,
    config: &Config,
    fitting: &Fitting,
) -> Result<Result<Tell, String>, String> {
    let fill = |slots: &mut [super::value::Value]| {
        feeds.iter().for_each(|feed| feed.fill(tried, (row, row + 1), slots, &mut Vec::new()));
    };
    program.run(fill, |seen| {
        let outputs: Vec<Output<'_>> = program
            .outputs
            .iter()
            .filter_map(|(name, at)| seen.value(*at).map(|value| Output { name, width: value.dims.elements(), value }))
            .collect();
        tell(&outputs, config.gives, config.output.as_deref(), fitting, &program.classes)
    })
}

impl Learner for Imported {
    fn learn(&mut self, rows: &Matrix, _: &[Example], outputs: &mut Vec<f64>) {
        self.predict(rows, outputs);
    }

    fn forget(&mut self, _: &Matrix, _: &[Example]) {}

    fn quicken(&mut self, _: f64, _: f64) {}

    fn frozen(&self) -> Arc<dyn Predictor> {
        Arc::new(self.clone())
    }

    fn digest(&self) -> Digest {
        digest::of_value(&self.bound.as_ref().map(|bound| &bound.stored))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let stored: Option<Stored> = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        self.bound = match stored {
            Some(stored) => Some(Arc::new(Bound::new(&self.config, self.shape, stored)?)),
            None => None,
        };
        Ok(())
    }

    fn take_file(&mut self, file: &[u8], fitting: &Fitting) -> Result<(), String> {
        let stored = Stored { fitting: fitting.clone(), file: file.to_vec() };
        self.bound = Some(Arc::new(Bound::new(&self.config, self.shape, stored)?));
        Ok(())
    }
}

impl Predictor for Imported {
    fn predict(&self, rows: &Matrix, outputs: &mut Vec<f64>) {
        if let Some(bound) = &self.bound {
            return bound.say(rows, outputs);
        }
        outputs.clear();
        outputs.resize(rows.len() * self.config.gives.task().outputs(self.shape.classes), f64::NAN);
    }

    fn tensors(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn explain(&self, _: &Names) -> Explanation {
        let lines = self.bound.as_ref().map_or_else(|| vec!["nothing".to_owned()], |bound| bound.lines.clone());
        Explanation { importances: Vec::new(), lines }
    }

    fn onnx(&self, _: &mut Graph, _: &Rows) -> Expressed {
        Err(NotExpressible::new("it is a file of its own already"))
    }

    fn file(&self) -> Option<&[u8]> {
        self.bound.as_ref().map(|bound| &*bound.stored.file)
    }

    fn snapshot(&self) -> Vec<u8> {
        let stored = self.bound.as_ref().map(|bound| &bound.stored);
        postcard::to_stdvec(&stored).expect("texts and bytes can be written to memory")
    }
}

impl fmt::Debug for Imported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Imported").field("config", &self.config).finish_non_exhaustive()
    }
}
