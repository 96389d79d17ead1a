"""Trains the models of the bench `onnx`, and measures onnxruntime with one thread: prints the CPU seconds of a call.

    python3 benches/peers/onnx_runtime.py FOLDER make
    python3 benches/peers/onnx_runtime.py FOLDER MODEL ROWS       # the bench does both
"""

import pathlib
import sys
import time

import numpy
import onnxruntime

COLUMNS, BATCHES = 39, 512


def make(folder):
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.neural_network import MLPRegressor

    random = numpy.random.default_rng(1)
    x = (random.random((5000, COLUMNS)) - 0.5).astype(numpy.float32)
    y = x[:, 0] + numpy.sin(6 * x[:, 1]) * x[:, 2] + 0.1 * random.normal(size=len(x))
    models = {
        "forest": RandomForestRegressor(n_estimators=100, max_depth=10, random_state=1, n_jobs=1),
        "boosted": GradientBoostingRegressor(n_estimators=100, max_depth=4, random_state=1),
        "network": MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=20, random_state=1),
    }
    for name, model in models.items():
        made = to_onnx(model.fit(x, y), x[:1], target_opset={"": 21, "ai.onnx.ml": 3})
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
        print(name)


def measure(folder, model, count):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / f"{model}.onnx", options, providers=["CPUExecutionProvider"])
    # No processor may learn by heart which way they go.
    random, name = numpy.random.default_rng(2), session.get_inputs()[0].name
    batches = [{name: (random.random((count, COLUMNS)) - 0.5).astype(numpy.float32)} for _ in range(BATCHES)]
    for rows in batches:
        session.run(None, rows)
    calls, start = 0, time.process_time()
    while time.process_time() - start < 0.2:
        for rows in batches:
            session.run(None, rows)
        calls += BATCHES
    print((time.process_time() - start) / calls)


def main():
    folder = pathlib.Path(sys.argv[1])
    if sys.argv[2] == "make":
        make(folder)
    else:
        measure(folder, sys.argv[2], int(sys.argv[3]))


main()
