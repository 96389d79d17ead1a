"""Runs ONNX files and compares what they give with what is expected.

Each folder below the one that is named as the argument has `model.onnx` and `case.json`: a name, a kind, inputs and outputs by name.
An index of -1 is not compared.
"""

import json
import pathlib
import sys

import numpy
import onnxruntime

LARGEST = 1e-5


def difference(got, want):
    """The largest one, for numbers above 1 as a part of them."""
    got, want = numpy.asarray(got), numpy.asarray(want)
    if got.shape != want.shape or got.dtype.kind != want.dtype.kind or not numpy.isfinite(got).all():
        return numpy.inf
    if want.dtype.kind == "i":
        return float(((got != want) & (want != -1)).any())
    return float((numpy.abs(got - want) / numpy.maximum(1, numpy.abs(want))).max())


def check(folder):
    """A case's name and kind, and its largest difference."""
    case = json.loads((folder / "case.json").read_text())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    column = {"tensor(double)": numpy.float64, "tensor(int64)": numpy.int64}
    inputs = {
        given.name: numpy.array(case["inputs"][given.name], dtype=column[given.type]).reshape(-1, 1)
        for given in session.get_inputs()
    }
    names = [output.name for output in session.get_outputs()]
    if set(names) != set(case["outputs"]) or session.get_modelmeta().producer_name != "millstream":
        return case["name"], case["kind"], numpy.inf
    given = zip(names, session.run(names, inputs))
    return case["name"], case["kind"], max(difference(got, case["outputs"][name]) for name, got in given)


def main():
    kinds, failed = {}, 0
    for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        try:
            name, kind, most = check(folder)
        except Exception as error:
            name, kind, most = json.loads((folder / "case.json").read_text())["name"], "failed", numpy.inf
            print(f"{name}: {error}", file=sys.stderr)
        kinds[kind] = max(kinds.get(kind, 0.0), most)
        if not most <= LARGEST:
            failed += 1
            print(f"{name}: {most}", file=sys.stderr)
    for kind, most in sorted(kinds.items()):
        print(f"{kind}: {most:.1e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
