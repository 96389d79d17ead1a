"""Prints the sequences and the indices in `published.rs`, from River's own detectors (pip install river==0.26.1)."""

import random

from river import drift

rng = random.Random(12345)
shift = rng.choices([0, 1], k=1000) + rng.choices(range(4, 8), k=1000)
rng = random.Random(42)
errors = rng.choices([0, 1], k=1000) + rng.choices([0, 1], k=1000, weights=[0.3, 0.7])


def digits(numbers, bits):
    step = 4 // bits
    groups = [numbers[at : at + step] for at in range(0, len(numbers), step)]
    return "".join("%x" % sum(x << bits * (step - 1 - at) for at, x in enumerate(group)) for group in groups)


def found(detector, values):
    changes, warnings = [], []
    for at, value in enumerate(values):
        detector.update(value)
        warned = getattr(detector, "warning_detected", False)
        if warned and (not warnings or (changes and changes[-1] > warnings[-1])):
            warnings.append(at)
        if detector.drift_detected:
            changes.append(at)
    return changes, warnings


print("BEFORE", digits(shift[:1000], 1))
print("AFTER", digits([value - 4 for value in shift[1000:]], 2))
print("ERRORS", digits(errors, 1))
binary = drift.binary
for name, detector, values in [
    ("adwin", drift.ADWIN(), shift),
    ("kswin", drift.KSWIN(alpha=0.0001, seed=42), shift),
    ("page_hinkley", drift.PageHinkley(), shift),
    ("page_hinkley threshold 10", drift.PageHinkley(threshold=10), errors),
    ("ddm", binary.DDM(), errors),
    ("eddm", binary.EDDM(), errors),
    ("eddm 0.8 0.75", binary.EDDM(alpha=0.8, beta=0.75), errors),
    ("hddm_a", binary.HDDMA(), errors),
    ("hddm_w", binary.HDDMW(), errors),
    ("hddm_a both", binary.HDDMA(two_sided_test=True), errors),
    ("hddm_w both", binary.HDDMW(two_sided_test=True), errors),
    ("hddm_a both, falling", binary.HDDMA(two_sided_test=True), errors[::-1]),
    ("hddm_w both, falling", binary.HDDMW(two_sided_test=True), errors[::-1]),
    ("page_hinkley threshold 10, falling", drift.PageHinkley(threshold=10), errors[::-1]),
]:
    print(name, *found(detector, values))
