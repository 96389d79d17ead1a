//! Models of others answer as a runtime of others says, and files that are none are refused.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use prost::Message;
use serde_json::{Value, json};

use super::super::properties::{SHAPE, cases};
use super::super::samples::Random;
use super::super::{Learner, Matrix, Row, Shape, Task, plan};
use super::proto::{self, Attribute};
use super::tests::{all_cases, difference, file, imported};
use super::{Fitting, Slot};

/// A learner for a file whose features are all numbers.
fn learner(settings: &Value, classes: usize, features: usize) -> Box<dyn Learner> {
    let design = plan(&json!({"onnx": settings})).unwrap_or_else(|problems| panic!("{settings}: {problems:?}"));
    (design.make)(Shape { dense: features, active: 0, categories: 0, classes })
}

fn fitting(features: &[&str], classes: &[&str]) -> Fitting {
    let features = features.iter().enumerate().map(|(at, name)| ((*name).to_owned(), Slot::Number(at))).collect();
    let named = if classes.is_empty() { &["false", "true"][..] } else { classes };
    let named = named.iter().map(ToString::to_string).collect();
    Fitting { features, classes: named, is_yes_or_no: classes.is_empty() }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Reads a case, and gives the largest difference of what its model says.
fn check(folder: &Path) -> Result<f64, String> {
    let text = fs::read_to_string(folder.join("case.json")).expect("a case");
    let case: Value = serde_json::from_str(&text).expect("JSON");
    let (features, classes) = (texts(&case["features"]), texts(&case["classes"]));
    let task = plan(&json!({"onnx": case["settings"]})).expect("valid").task;
    let count = if task == Task::Classification { classes.len().max(2) } else { 0 };
    let mut model = learner(&case["settings"], count, features.len());
    let classes = if task == Task::Classification { classes } else { vec!["none"] };
    let name = case["name"].as_str().expect("a name");
    let bytes = fs::read(folder.join("model.onnx")).expect("a file");
    model.take_file(&bytes, &fitting(&features, &classes)).map_err(|why| format!("{name}: {why}"))?;
    let shape = Shape { dense: features.len(), active: 0, categories: 0, classes: count };
    let (mut rows, mut wanted) = (Matrix::new(shape), Vec::new());
    let numbers = |row: &Value| row.as_array().expect("a row").iter().filter_map(Value::as_f64).collect::<Vec<_>>();
    for (row, outputs) in
        case["rows"].as_array().expect("rows").iter().zip(case["outputs"].as_array().expect("outputs"))
    {
        rows.push(Row { dense: &numbers(row), active: &[] });
        wanted.extend(numbers(outputs));
    }
    assert!(rows.len() >= 1000, "{name}");
    let mut got = Vec::new();
    model.frozen().predict(&rows, &mut got);
    let most = difference(&got, &wanted);
    let at = (0..got.len()).find(|at| difference(&got[*at..=*at], &wanted[*at..=*at]) == most).unwrap_or_default();
    if most.is_nan() || most > 1e-5 {
        return Err(format!("{name}: {most} at {at}: {} instead of {}", got[at], wanted[at]));
    }
    // Each row alone has the same bits.
    let mut alone = Vec::new();
    let mut one = Matrix::new(shape);
    for row in 0..50 {
        one.copy_row(&rows, row);
        model.frozen().predict(&one, &mut alone);
        let width = got.len() / rows.len();
        assert_eq!(alone, got[row * width..(row + 1) * width], "{name}, row {row}");
    }
    Ok(most)
}

/// `MILLSTREAM_PYTHON` names a Python with what `tests/clients/requirements.txt` lists.
#[test]
fn models_of_others_answer_as_a_runtime_says() {
    let Ok(python) = env::var("MILLSTREAM_PYTHON") else {
        println!("skipped: MILLSTREAM_PYTHON names no Python");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/onnx_models.py");
    let made = Command::new(python).arg(script).arg(folder.path()).output().expect("Python runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut folders: Vec<_> =
        fs::read_dir(folder.path()).expect("it is there").map(|entry| entry.expect("read").path()).collect();
    folders.sort();
    let outcomes: Vec<_> = folders.iter().map(|folder| check(folder)).collect();
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let most = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).copied().fold(0.0, f64::max);
    println!("{} models, at most {most:.1e} apart", outcomes.len());
    assert!(failed.is_empty() && outcomes.len() > 100, "{failed:#?}");
}

/// What happens to a file that somebody has tampered with: it answers something, or is refused. It must come back.
fn tamper(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match random.below(5) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            bytes.drain(from.min(to)..(from.max(to)).min(from.min(to) + 64));
        }
        2 => {
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            let part = bytes[from..(from + 40).min(bytes.len())].to_vec();
            bytes.splice(to..to, part);
        }
        _ => {
            for _ in 0..=random.below(6) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(4) {
                    0 => 0xff,
                    1 => 0,
                    2 => bytes[at] ^ (1 << random.below(8)),
                    _ => random.below(256) as u8,
                };
            }
        }
    }
    bytes
}

/// The same one level up: messages whose fields say something else, in a file that can be read.
fn disturb(random: &mut Random, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut model = proto::Model::decode(bytes).ok()?;
    let graph = model.graph.as_mut()?;
    let wild = [0, 1, -1, 2, 3, 7, 1 << 20, 1 << 40, i64::MAX, i64::MIN];
    let number = |random: &mut Random| wild[random.below(wild.len())];
    let nodes = graph.node.len();
    let at = random.below(nodes);
    match random.below(8) {
        0 => {
            let other = graph.node[random.below(nodes)].op_type.clone();
            graph.node[at].op_type = other;
        }
        1 => graph.node.swap(at, random.below(nodes)),
        2 => {
            let names: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
            let node = &mut graph.node[at];
            let input = random.below(node.input.len().max(1));
            *node.input.get_mut(input)? = names[random.below(names.len())].clone();
        }
        3 => {
            let node = &mut graph.node[at];
            match random.below(3) {
                0 => drop(node.input.pop()),
                1 => drop(node.output.pop()),
                _ => node.output.push("more".to_owned()),
            }
        }
        4 | 5 => {
            let attributes = &mut graph.node[at].attribute;
            let attribute = random.below(attributes.len().max(1));
            let attribute = attributes.get_mut(attribute)?;
            attribute.i = Some(number(random));
            attribute.f = Some(number(random) as f32);
            let place = random.below(attribute.ints.len().max(1));
            if let Some(one) = attribute.ints.get_mut(place) {
                *one = number(random);
            }
            if let Some(tensor) = &mut attribute.t {
                let place = random.below(tensor.raw_data.len().max(1));
                tensor.raw_data.get_mut(place).into_iter().for_each(|byte| *byte ^= 0xff);
            }
        }
        6 => {
            let tensor = random.below(graph.initializer.len().max(1));
            let tensor = graph.initializer.get_mut(tensor)?;
            if tensor.data_type == proto::INT64 && !tensor.raw_data.is_empty() {
                let place = random.below(tensor.raw_data.len() / 8) * 8;
                tensor.raw_data[place..place + 8].copy_from_slice(&number(random).to_le_bytes());
            } else if let Some(length) = tensor.dims.first_mut() {
                *length = number(random);
            }
        }
        _ => {
            let operators = [
                "Gather",
                "Slice",
                "TopK",
                "Split",
                "Expand",
                "Tile",
                "Range",
                "ConstantOfShape",
                "GRU",
                "ArgMax",
                "Reshape",
            ];
            graph.node[at].op_type = operators[random.below(operators.len())].to_owned();
            graph.node[at].attribute.push(Attribute::int("axis", number(random)));
        }
    }
    Some(model.encode_to_vec())
}

#[test]
fn files_that_were_tampered_with_are_refused_or_answer() {
    let seed = env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("SEED={seed}");
    let mut random = Random::seeded(seed);
    let mut outcomes = [0, 0];
    let mut all = all_cases();
    all.truncate(cases(SHAPE).len() + 30);
    for case in all {
        let mut model = case.learner();
        let stream = case.stream(&mut random, 60, false);
        model.learn(&stream.rows, &stream.examples, &mut Vec::new());
        let Ok(bytes) = file(&case, &*model.frozen()) else { continue };
        let (fitting, _) = imported(&case);
        for round in 0..24 {
            let changed = if round % 2 == 0 { Some(tamper(&mut random, &bytes)) } else { disturb(&mut random, &bytes) };
            let Some(changed) = changed else { continue };
            let (_, mut other) = imported(&case);
            let taken = other.take_file(&changed, &fitting);
            if taken.is_ok() {
                let mut outputs = Vec::new();
                other.frozen().predict(&stream.rows, &mut outputs);
                assert_eq!(outputs.len(), stream.rows.len() * case.outputs(), "{}", case.name);
            }
            outcomes[usize::from(taken.is_ok())] += 1;
        }
    }
    println!("{} refused, {} answered", outcomes[0], outcomes[1]);
    assert!(outcomes.iter().all(|count| *count > 50), "{outcomes:?}");
}

/// A node with its inputs and outputs.
fn node(operator: &str, input: &[&str], output: &[&str], attribute: Vec<Attribute>) -> proto::Node {
    let named = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    proto::Node {
        op_type: operator.to_owned(),
        input: named(input),
        output: named(output),
        attribute,
        ..Default::default()
    }
}

/// A file with an input of so many columns and an output `y`.
fn written(columns: i64, kind: i32, node: Vec<proto::Node>, initializer: Vec<proto::Tensor>) -> Vec<u8> {
    let dim = |dim_value| proto::Dimension { dim_value, dim_param: None };
    let info = |name: &str, dims: Vec<proto::Dimension>| {
        let shape = Some(proto::Dimensions { dim: dims });
        let tensor_type = Some(proto::TensorType { elem_type: kind, shape });
        proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type }) }
    };
    let input = vec![info("x", vec![dim(None), dim(Some(columns))])];
    let graph = proto::Graph { node, initializer, input, output: vec![info("y", vec![])], ..Default::default() };
    let set = proto::OperatorSet { domain: String::new(), version: 18 };
    proto::Model { ir_version: 8, graph: Some(graph), opset_import: vec![set], ..Default::default() }.encode_to_vec()
}

fn constant(name: &str, dims: Vec<i64>, values: &[i64]) -> proto::Tensor {
    let (name, int64_data) = (name.to_owned(), values.to_vec());
    proto::Tensor { name, dims, data_type: proto::INT64, int64_data, ..Default::default() }
}

#[test]
fn what_does_not_fit_is_refused_with_all_its_reasons() {
    let sum = || vec![node("ReduceSum", &["x", "axis"], &["y"], vec![Attribute::int("keepdims", 1)])];
    let axis = || vec![constant("axis", vec![1], &[1])];
    let number = json!({"gives": "number"});
    let refused = [
        (
            written(3, proto::FLOAT, sum(), axis()),
            &number,
            "its input `x` float [?, 3] does not take the 2 features `a`, `b`",
        ),
        (
            written(2, proto::FLOAT, sum(), axis()),
            &json!({"gives": "probabilities"}),
            "gives nothing of the kind for rows that are made up to try it: are these `logits`?",
        ),
        (
            written(2, proto::FLOAT, sum(), axis()),
            &json!({"gives": "labels"}),
            "none of its outputs gives labels; for a row there are: `y` float [1, 1]",
        ),
        (
            written(2, proto::FLOAT, sum(), axis()),
            &json!({"gives": "number", "output": "z"}),
            "`output: z` is none that gives one number",
        ),
        (
            written(2, proto::FLOAT, sum(), axis()),
            &json!({"gives": "number", "inputs": {"x": ["a", "c"], "w": ["b"]}}),
            "`inputs` names `c`, which is no feature; it has no input `w`",
        ),
        (written(2, proto::TEXT, sum(), axis()), &number, "`a` is a number: say under `texts`"),
        (written(2, 14, sum(), axis()), &number, "takes something else than rows"),
        (
            written(
                2,
                proto::FLOAT,
                vec![node("Loop", &["x"], &["a"], vec![]), node("Conv", &["z"], &["y"], vec![])],
                vec![],
            ),
            &number,
            "operators that are not known here: Conv, Loop; Conv `y` takes `z`, which is nothing that comes before it",
        ),
        (
            written(
                2,
                proto::FLOAT,
                vec![node("Add", &["x", "b"], &["a"], vec![]), node("Add", &["x", "a"], &["b"], vec![])],
                vec![],
            ),
            &number,
            "Add `a` takes `b`, which is nothing that comes before it",
        ),
        (
            written(
                2,
                proto::FLOAT,
                vec![node("ConstantOfShape", &["big"], &["y"], vec![])],
                vec![constant("big", vec![2], &[1 << 40, 1 << 40])],
            ),
            &number,
            "ConstantOfShape `y`: its shape [1099511627776, 1099511627776] has more than",
        ),
        (
            written(
                2,
                proto::FLOAT,
                vec![node("ConstantOfShape", &["none"], &["y"], vec![])],
                vec![constant("none", vec![3], &[0, 1 << 40, 1 << 40])],
            ),
            &number,
            "ConstantOfShape `y`: its shape [0, 1099511627776, 1099511627776] has more than",
        ),
        (
            written(2, proto::FLOAT, sum(), vec![constant("axis", vec![2], &[1])]),
            &number,
            "the constant `axis`: its shape is [2], and it has 1 elements",
        ),
        (b"nothing of the kind".to_vec(), &number, "it is no ONNX file"),
        (Vec::new(), &number, "it is no ONNX file: it has no graph"),
    ];
    for (bytes, settings, wanted) in refused {
        let classes = if settings["gives"] == "number" { 0 } else { 2 };
        let got = learner(settings, classes, 2).take_file(&bytes, &fitting(&["a", "b"], &[])).expect_err(wanted);
        assert!(got.contains(wanted), "{got}\nwanted: {wanted}");
    }
}

#[test]
fn a_row_is_answered_as_if_it_were_alone() {
    // A mean over the rows that happen to come together.
    let nodes = vec![
        node("ReduceMean", &["x"], &["m"], vec![Attribute::ints("axes", vec![0]), Attribute::int("keepdims", 1)]),
        node("Sub", &["x", "m"], &["d"], vec![]),
        node("Add", &["d", "x"], &["s"], vec![]),
        node("ReduceSum", &["s", "axis"], &["y"], vec![]),
    ];
    let bytes = written(2, proto::FLOAT, nodes, vec![constant("axis", vec![1], &[1])]);
    let mut model = learner(&json!({"gives": "number"}), 0, 2);
    model.take_file(&bytes, &fitting(&["a", "b"], &[])).expect("it fits");
    let mut rows = Matrix::new(Shape { dense: 2, active: 0, categories: 0, classes: 0 });
    [[1.0, 2.0], [5.0, -3.0], [0.5, 0.25]].iter().for_each(|row| rows.push(Row { dense: row, active: &[] }));
    let mut outputs = Vec::new();
    model.frozen().predict(&rows, &mut outputs);
    assert_eq!(outputs, [3.0, 2.0, 0.75]);
}

#[test]
fn one_row_that_fails_spoils_no_other() {
    let table = constant("table", vec![3], &[10, 20, 30]);
    let nodes = vec![node("Gather", &["table", "x"], &["y"], vec![])];
    let bytes = written(1, proto::INT64, nodes, vec![table]);
    let mut model = learner(&json!({"gives": "number"}), 0, 1);
    model.take_file(&bytes, &fitting(&["a"], &[])).expect("it fits");
    let mut rows = Matrix::new(Shape { dense: 1, active: 0, categories: 0, classes: 0 });
    [0.0, 7.0, 2.0, 0.5, 1.0].iter().for_each(|value| rows.push(Row { dense: &[*value], active: &[] }));
    let mut outputs = Vec::new();
    model.frozen().predict(&rows, &mut outputs);
    let said: Vec<Option<f64>> = outputs.iter().map(|value| value.is_finite().then_some(*value)).collect();
    assert_eq!(said, [Some(10.0), None, Some(30.0), None, Some(20.0)]);
}
