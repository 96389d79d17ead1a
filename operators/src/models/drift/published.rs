//! All detectors on the sequences of River's documentation, where the indices are published at which its own find a change, and what holds for each.
//! The sequences and indices come from `published_sequences.py`. Four bits are one hexadecimal digit.

use serde_json::{Value, json};

use super::super::samples::Random;
use super::{Detector, KINDS, Level, Watcher, plan};

/// 1000 values of 0 or 1 (seed 12345 of Python's generator).
const BEFORE: &str = "222aa8771deb7322f655c8c3590c849e39621e8722181576e36149015fd9c4fcc85bf744ae42ffe7036322178ab8793e09c6\
    ec5cd4062f61aec3cfc385de66aa80f28a830440e5e0c5162f97462f674f2fce128367cf93cf374e9cff5c02d1a6be3fbe05\
    31022abebe89e1571121b5878a2675b0c3bbd884f1c14aedfb";

/// Then 1000 of 4 to 7, less 4.
const AFTER: &str = "2cb4be36b8ac8c8555c0fc6a3a9048992c3fdffe247bc8dc8fa11257f434c91ec197e2aa7f42c666fd032d3cf50d5f57c1fd\
    0d13627ea1f50cc610716079624910a6db55bd7948115f7447b50edf2120afb59583c0dd32ed0f8732362dc2606012242887\
    1dc7d51eea147f95fe6eeeb7789072493c598e79273c6591f2ee5ac7980c5809168c50afda3edd69fb5d39e6e175f2e71271\
    4e6443d30e7ecad9ae34d07c965fef9ba1a8d373a2927180f180c8a855c73edf5e9b98ead8a846652068a0d992b7b1db02c9\
    7e75624bf3f234a92218dd948557daa0d8902c9a0e246b765a0574563b4be185c61988b171cc997302510a4c9c4e4d173caf";

/// 1000 values, half of them 1, then 1000 of which 70 % are (seed 42).
const ERRORS: &str = "8e136c8fdf80874fc1a8b318f746b6f1cc65334459360e205be053cf74cb74931cfac5a61b1f1e35f5eb486ba8b57c980f46\
    19b8252c65fff1e0991f1dc10940b1be1b6c6b762ded9692595d2aa0c702eb0a4ae9bc826fde33c07e5b0d7178ed66cb6bd7\
    32c6bb9ea97ce79b47341c643b756ff993eb2fd5f1cc44e8237cfa535094fdbef93fbebba9fbfe9ffb3babf1babb457d3f3e\
    bf5f8effe675fff1e75f2fdffffcc5daeebffbe76ad96f363cbb4daff3fb7d87af7ffbdfbb7d9fff3cdbdeff17dfbfdc3f6e\
    bf3fde37ef0d7fbafffadbf67f6f7fbfba97e3dfe51f3f3aeddafdefaff57e27bd23d9fa8fe6d765f7f5affff70f5bc3657f";

fn digits(text: &str) -> impl Iterator<Item = u32> {
    text.chars().filter_map(|digit| digit.to_digit(16))
}

fn shift() -> Vec<f64> {
    let before = digits(BEFORE).flat_map(|digit| [3, 2, 1, 0].map(|bit| f64::from(digit >> bit & 1)));
    before.chain(digits(AFTER).flat_map(|digit| [digit >> 2, digit & 3].map(|two| f64::from(4 + two)))).collect()
}

fn errors() -> Vec<f64> {
    digits(ERRORS).flat_map(|digit| [3, 2, 1, 0].map(|bit| f64::from(digit >> bit & 1))).collect()
}

fn falling() -> Vec<f64> {
    errors().into_iter().rev().collect()
}

/// Where a detector finds changes, and where it begins to warn: at first, and anew after each change.
fn found(detector: &Value, values: &[f64]) -> (Vec<usize>, Vec<usize>) {
    let mut detector = plan(detector).expect("valid settings");
    let (mut changes, mut warnings, mut warned) = (Vec::new(), Vec::new(), false);
    for (at, value) in values.iter().enumerate() {
        match detector.update(*value) {
            Level::Change => (changes.push(at), warned = false).1,
            Level::Warning if !warned => (warnings.push(at), warned = true).1,
            _ => {}
        }
    }
    (changes, warnings)
}

#[test]
fn published_sequences_are_told_as_published() {
    let case = |detector: Value, values: &[f64], changes: &[usize], warnings: &[usize]| {
        assert_eq!(found(&detector, values), (changes.to_vec(), warnings.to_vec()), "{detector}");
    };
    case(json!("adwin"), &shift(), &[1023], &[]);
    // River's draws older values by chance, with seed 42.
    case(json!({"kswin": {"alpha": 0.0001}}), &shift(), &[1016], &[]);
    case(json!("page_hinkley"), &shift(), &[1006], &[]);
    case(json!({"page_hinkley": {"threshold": 10}}), &errors(), &[823, 1099, 1675], &[]);
    case(json!({"page_hinkley": {"threshold": 10}}), &falling(), &[335, 644, 850, 1006, 1082, 1391], &[]);
    case(json!("ddm"), &errors(), &[1334], &[1084, 1492]);
    case(json!({"eddm": {"warning": 0.8, "change": 0.75}}), &errors(), &[1278], &[1059]);
    case(
        json!("eddm"),
        &errors(),
        &[103, 255, 328, 618, 690, 745, 798, 942, 1014, 1068],
        &[61, 202, 319, 443, 797, 850, 1004, 1108],
    );
    case(json!("hddm_a"), &errors(), &[1206], &[451]);
    case(json!("hddm_w"), &errors(), &[1077], &[451]);
    case(json!({"hddm_a": {"both": true}}), &falling(), &[1020], &[984]);
    case(json!({"hddm_w": {"both": true}}), &falling(), &[1010, 1509], &[984, 1506, 1617]);
}

fn all() -> impl Iterator<Item = Watcher> {
    let both = [
        json!({"hddm_a": {"both": true}}),
        json!({"hddm_w": {"both": true}}),
        json!({"kswin": {"window": 4, "newest": 2, "alpha": 0.3}}),
    ];
    let names = KINDS.iter().map(|kind| json!(kind.name));
    names.chain(both).map(|detector| plan(&detector).expect("valid settings"))
}

#[test]
fn a_restored_detector_goes_on_as_the_original() {
    for mut detector in all() {
        let (mut random, fresh, mut changes) = (Random::seeded(4), detector.clone(), 0);
        for row in 0..6000 {
            if row % 97 == 0 {
                let snapshot = postcard::to_stdvec(&detector).unwrap();
                let restored: Watcher = postcard::from_bytes(&snapshot).unwrap();
                assert_eq!(restored, detector, "row {row}");
                detector = restored;
            }
            let level = detector.update(random.flip(if row % 2000 < 1000 { 0.1 } else { 0.9 }));
            changes += usize::from(level == Level::Change);
            assert!(detector.is_sound() && (0.0..=1.0).contains(&detector.mean()), "row {row}: {detector:?}");
        }
        assert!(changes >= 1 || matches!(detector, Watcher::PageHinkley(_)), "{changes} changes: {detector:?}");
        detector.reset();
        assert_eq!(detector, fresh);
    }
}

#[test]
fn numbers_stay_finite() {
    for mut detector in all() {
        let mut random = Random::seeded(3);
        for row in 0..5000 {
            detector.update(match random.below(5) {
                0 => f64::MAX,
                1 => -f64::MAX,
                2 => -0.0,
                _ => random.normal(),
            });
            assert!(detector.mean().is_finite() && detector.is_sound(), "row {row}: {detector:?}");
        }
    }
}

#[test]
fn kswin_is_the_definition_written_down_naively() {
    let (mut random, mut window, mut changes) = (Random::seeded(9), Vec::new(), 0);
    let mut detector = plan(&json!({"kswin": {"alpha": 0.01, "window": 40, "newest": 15}})).unwrap();
    for row in 0..4000 {
        let value = if row % 500 < 250 { random.normal() } else { 3.0 * random.below(3) as f64 };
        window.push(value);
        window.drain(..window.len().saturating_sub(40));
        let mut change = false;
        if window.len() == 40 {
            let share =
                |values: &[f64], x: f64| values.iter().filter(|y| **y <= x).count() as f64 / values.len() as f64;
            let (older, newest) = window.split_at(25);
            let distance = window.iter().map(|x| (share(older, *x) - share(newest, *x)).abs()).fold(0.0, f64::max);
            change = distance > (-libm::log(0.01) / 15.0).sqrt();
        }
        if change {
            window.drain(..25);
            changes += 1;
        }
        assert_eq!(detector.update(value) == Level::Change, change, "row {row}");
    }
    assert!(changes > 5, "{changes}");
}

#[test]
fn settings_are_checked_with_their_paths() {
    let case = |detector: Value, path: &str, code: &str| {
        let problems = plan(&detector).expect_err("problems");
        assert_eq!((problems[0].path.join(".").as_str(), problems[0].code), (path, code), "{problems:?}");
    };
    case(json!("adwyn"), "", "unknown-detector");
    case(json!(["adwin"]), "", "bad-value");
    case(json!({"adwin": {"delta": 0}}), "adwin.delta", "out-of-range");
    case(json!({"kswin": {"newest": 80}}), "kswin.newest", "out-of-range");
    case(json!({"kswin": {"newest": 9}}), "kswin.newest", "out-of-range");
    case(json!({"page_hinkley": {"treshold": 50}}), "page_hinkley.treshold", "bad-value");
    case(json!({"ddm": {"warning": 4}}), "ddm.change", "out-of-range");
    case(json!({"eddm": {"change": 0.99}}), "eddm.change", "out-of-range");
    case(json!({"hddm_a": {"change": 0.1}}), "hddm_a.change", "out-of-range");
    case(json!({"hddm_w": {"fading": 2}}), "hddm_w.fading", "out-of-range");
}

#[test]
#[ignore = "prints times"]
fn times() {
    let mut random = Random::seeded(1);
    let values: Vec<f64> = (0..1_000_000).map(|_| random.flip(0.3)).collect();
    for kind in KINDS {
        let mut detector = plan(&json!(kind.name)).unwrap();
        let start = millstream_engine::time::Stopwatch::start();
        let changes = values.iter().filter(|value| detector.update(**value) == Level::Change).count();
        println!("{}: {:.1} ns each, {changes} changes", kind.name, start.seconds() * 1e9 / 1e6);
    }
}
