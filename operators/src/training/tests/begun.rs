//! Models that begin with what others have learned: they go on as if they were those, or say what does not fit.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::inference::STATE;

fn state(fold: &dyn Fold) -> Vec<u8> {
    let files = fold.revision().artefacts().expect("files");
    files.into_iter().find(|(name, _)| name == STATE).expect("a state among them").1
}

fn begun(config: &Value, file: &[u8]) -> Box<dyn Fold> {
    let mut fold = fold(config);
    fold.begin_with(file).expect("it fits");
    fold
}

fn models() -> Vec<Value> {
    let others = [
        json!({"champion": {"of": ["logistic_regression", {"stack": {"of": ["gaussian_naive_bayes", "linear_svm"]}}]}}),
        json!({"adaptive_random_forest": {"trees": 3, "grace_period": 20}}),
        json!({"neural_network": {"training": {"mini_batch": 7, "average": 0.9, "replay": {"rows": 20, "per_batch": 3}}}}),
    ];
    learners().into_iter().chain(others.iter().map(classifier)).collect()
}

#[test]
fn what_begins_with_a_state_goes_on_bit_for_bit_and_is_judged_anew() {
    for config in models() {
        let mut random = Random::seeded(3);
        let (before, after) = (stream(&mut random, 700), stream(&mut random, 500));
        let mut straight = fold(&config);
        learn(&mut *straight, &before);
        let mut other = begun(&config, &state(&*straight));
        assert_eq!((other.examples(), state(&*other)), (straight.examples(), state(&*straight)), "{config}");
        let (said, _) = learn(&mut *straight, &after);
        assert_eq!(learn(&mut *other, &after).0, said, "{config}");
        assert_eq!(state(&*other), state(&*straight), "{config}");
        straight.measure_anew();
        assert_ne!(other.measures(), straight.measures(), "{config}: only what came after is judged");
        assert_ne!(other.snapshot(), straight.snapshot(), "{config}");
    }
}

#[test]
fn what_never_learns_is_judged_and_stays() {
    for config in models() {
        let mut random = Random::seeded(4);
        let mut teacher = fold(&config);
        learn(&mut *teacher, &stream(&mut random, 700));
        let (file, rows) = (state(&*teacher), stream(&mut random, 400));
        let mut pinned = config.clone();
        pinned["learns"] = json!(false);
        let mut pinned = begun(&pinned, &file);
        let changes = pinned.changes();
        let (first, _) = learn(&mut *pinned, &rows);
        let (again, _) = learn(&mut *pinned, &rows);
        assert_eq!(first, again, "{config}: what is said does not change");
        assert_eq!((pinned.examples(), state(&*pinned)), (teacher.examples(), file), "{config}");
        assert_eq!(pinned.changes() - changes, 2 * first.num_rows() as u64, "{config}");
        let name = if config["label"] == "late" { "log_loss" } else { "rmse" };
        let model = value(&pinned.measures(), "model", name);
        teacher.measure_anew();
        assert!(model.is_finite() && model > 0.0, "{config}: {model}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let config = classifier(&json!({"logistic_regression": {"update": "sgd"}}));
    let mut teacher = fold(&config);
    learn(&mut *teacher, &stream(&mut Random::seeded(5), 100));
    let file = state(&*teacher);
    let with = |key: &str, value: Value| {
        let mut other = config.clone();
        other[key] = value;
        other
    };
    let refused = |config: &Value, file: &[u8]| fold(config).begin_with(file).expect_err("refused").message;
    let mut damaged = file.clone();
    *damaged.last_mut().expect("it is not empty") ^= 1;
    let cases = [
        (
            with("learner", json!("linear_svm")),
            &file[..],
            "its learner is \"logistic_regression\", and this one's is \"linear_svm\"",
        ),
        (
            with("learner", json!({"logistic_regression": {"update": {"sgd": {"learning_rate": 0.25}}}})),
            &file,
            "it was learned otherwise: `update.sgd.learning_rate` is 0.05 there and 0.25 here",
        ),
        (
            with("features", json!(["distance", "hour", "carrier"])),
            &file,
            "it was learned otherwise: `features.2` is \"wet (Boolean)\" there and \"carrier (UInt32, 4 categories)\" here, `features.3` is \
             \"carrier (UInt32, 4 categories)\" there and nothing here",
        ),
        (
            with("classes", json!(["true", "false"])),
            &file,
            "it was learned otherwise: `classes.0` is \"false\" there and \"true\" here, `classes.1` is \"true\" there and \"false\" here",
        ),
        (config.clone(), &damaged, "it is damaged, or cut short"),
        (config.clone(), &file[..40], "it is damaged, or cut short"),
        (config.clone(), b"{}", "it is neither a model's state nor safetensors"),
        (config.clone(), b"millstream state 7\n", "it is in a format of another version of this program"),
    ];
    for (config, file, words) in cases {
        let found = refused(&config, file);
        println!("{found}");
        assert!(found.starts_with(words), "{found:?} is not {words:?}");
    }
}

/// Whatever happens to a file, it is refused: nothing of it is taken that was not written so.
#[test]
fn damaged_files_are_refused() {
    let config = classifier(&json!("logistic_regression"));
    let mut teacher = fold(&config);
    learn(&mut *teacher, &stream(&mut Random::seeded(6), 100));
    let file = state(&*teacher);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(fold(&config).begin_with(&damaged).is_err(), "byte {at}");
        assert!(fold(&config).begin_with(&file[..at]).is_err(), "cut at {at}");
    }
}

/// The weights of a model's files, and the same in single precision.
fn weights(fold: &dyn Fold) -> [Vec<u8>; 2] {
    let files: BTreeMap<_, _> = fold.revision().artefacts().expect("files").into_iter().collect();
    let double = files[WEIGHTS].clone();
    let read = SafeTensors::deserialize(&double).expect("safetensors");
    let short = |bytes: &[u8]| -> Vec<u8> {
        bytes.as_chunks().0.iter().flat_map(|bytes| (f64::from_le_bytes(*bytes) as f32).to_le_bytes()).collect()
    };
    let tensors: Vec<_> = read.iter().map(|(name, view)| (name, view.shape().to_vec(), short(view.data()))).collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("of this shape")));
    let single = serialize(views, None).expect("written");
    [double, single]
}

#[test]
fn weights_of_others_answer_as_there_and_are_taught_more() {
    let network = |training: &Value| json!({"neural_network": {"training": training}});
    let cases = [
        ("sgd", classifier(&json!({"logistic_regression": {"update": "sgd"}}))),
        ("sgd", classifier(&json!({"logistic_regression": {"update": {"sgd": {"learning_rate": 0.001}}}}))),
        ("sgd", classifier(&json!({"logistic_regression": {"update": "ftrl"}}))),
        ("sgd", classifier(&json!({"logistic_regression": {"update": "adamw"}}))),
        ("numbers", regression()),
        ("network", classifier(&network(&json!({"mini_batch": 8})))),
        (
            "network",
            classifier(&network(&json!({"mini_batch": 16, "optimizer": {"sgd": {"rate": 0.01}}, "average": 0.9}))),
        ),
    ];
    let teachers =
        BTreeMap::from([("sgd", cases[0].1.clone()), ("numbers", regression()), ("network", cases[5].1.clone())]);
    for (teacher, config) in cases {
        let mut random = Random::seeded(7);
        let (before, asked, after) = (stream(&mut random, 3000), stream(&mut random, 200), stream(&mut random, 3000));
        let mut teacher = fold(&teachers[teacher]);
        learn(&mut *teacher, &before);
        let answer = |fold: &dyn Fold| {
            let answer = fold.revision().answer(&asked, &mut Rejects::default()).expect("an answer");
            answer.column(answer.num_columns() - 1).as_primitive::<Float64Type>().values().to_vec()
        };
        let [double, single] = weights(&*teacher);
        for (file, most) in [(double, 1e-12), (single, 1e-4)] {
            let mut student = begun(&config, &file);
            assert_eq!(student.examples(), 0, "{config}");
            let (said, wanted) = (answer(&*student), answer(&*teacher));
            let scale = wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
            let apart = said.iter().zip(&wanted).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs())) / scale;
            println!("{config}: {apart}");
            assert!(apart <= most, "{config}: {apart}");
            learn(&mut *student, &after);
            let mut anew = fold(&config);
            learn(&mut *anew, &after);
            let name = if config["label"] == "late" { "log_loss" } else { "rmse" };
            let [student, anew] = [&student, &anew].map(|fold| value(&fold.measures(), "model", name));
            assert!(student < anew, "{config}: {student} and {anew}: what was learned before helps");
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_refused_in_words() {
    let config = classifier(&json!("logistic_regression"));
    let refused = |config: &Value, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        let views = tensors.iter().map(|(name, kind, shape, bytes)| {
            (*name, TensorView::new(*kind, shape.clone(), bytes).expect("of this shape"))
        });
        let file = serialize(views, None).expect("written");
        fold(config).begin_with(&file).expect_err("refused").message
    };
    let row = |name, values: &[f64]| {
        (name, Dtype::F64, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    let all = [
        row("weights", &[1.0; 3]),
        row("bias", &[0.5]),
        row("categories", &[0.1; 4]),
        row("means", &[0.0; 3]),
        row("scales", &[1.0; 3]),
        row("rows", &[100.0]),
        row("norms", &[300.0]),
    ];
    let with = |at: usize, other| {
        let mut tensors = all.clone();
        tensors[at] = other;
        tensors.to_vec()
    };
    let cases = [
        (with(0, row("weights", &[1.0; 2])), "it does not fit: `weights` is of [2], and this model's is of [3]"),
        (
            all[1..].to_vec(),
            "it does not fit: `weights` is missing; there are: bias, categories, means, norms, rows, scales",
        ),
        ([&all[..], &[row("more", &[1.0])]].concat(), "it does not fit: this model has no `more`"),
        (with(1, row("bias", &[f64::NAN])), "`bias` holds what is no number"),
        (with(1, row("bias", &[1e200])), "it does not fit: `bias` holds 1"),
        (with(4, row("scales", &[1.0, -1.0, 1.0])), "it does not fit: `scales` holds -1, which is not between 0"),
        (with(0, ("weights", Dtype::U8, vec![3], vec![0; 3])), "`weights` is of U8, and F64, F32"),
    ];
    for (tensors, words) in cases {
        let message = refused(&config, &tensors);
        assert!(message.starts_with(words), "{message:?} is not {words:?}");
    }
    let tree = classifier(&json!("hoeffding_tree"));
    let message = refused(&tree, &all);
    assert_eq!(message, "it does not fit: it begins with a state of its own kind, and not with weights of others");
    for file in
        [&b"\xff\xff\xff\xff\xff\xff\xff\xff{}"[..], b"", b"\x02\0\0\0\0\0\0\0{}trailing", b"\x05\0\0\0\0\0\0\0{\"a\":"]
    {
        let message = fold(&config).begin_with(file).expect_err("refused").message;
        assert!(message.starts_with("it is neither a model's state nor safetensors"), "{message}");
    }
}
