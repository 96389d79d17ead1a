"""Trains models with scikit-learn, builds others as PyTorch exports them, and says what onnxruntime gives for rows that they have not seen.

Each folder below the one that is named as the argument gets `model.onnx` and `case.json`: a name, the learner's settings, the features'
names, the classes, rows of numbers, and the outputs for each row, as Millstream has them.
"""

import json
import pathlib
import sys
import warnings

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier

ROWS = 1000
RANDOM = numpy.random.default_rng(7)
WORDS = ["cellar", "kitchen", "attic", "roof"]


def table(rows):
    numbers = RANDOM.normal(size=(rows, 6)) * [1, 3, 0.1, 10, 1, 1] + [0, 1, 0, 5, 0, 0]
    numbers = numbers.astype(numpy.float32)
    words = RANDOM.integers(0, 4, size=(rows, 1))
    score = numbers[:, 0] + numpy.sin(numbers[:, 1]) + 0.1 * numbers[:, 3] * (words[:, 0] - 1.5) - 0.5
    noise = RANDOM.normal(size=rows) * 0.3
    return numbers, words, score + noise


LEARN, LEARN_WORDS, LEARN_SCORE = table(2000)
ASK, ASK_WORDS, _ = table(ROWS)
YES = LEARN_SCORE > 0
THREE = numpy.digitize(LEARN_SCORE, [-0.5, 0.7])
NAMES = [f"x{at}" for at in range(6)]


class Writer:
    def __init__(self, folder):
        self.folder, self.count = pathlib.Path(folder), 0

    def write(self, name, model, settings, inputs, output, features=NAMES, rows=ASK, classes=(), tell=None):
        """`inputs` are what onnxruntime gets, `output` is its output's name, and `tell` makes of that what the model says."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (given,) = session.run([output], inputs)
        if tell is None and isinstance(given, list):
            given = numpy.array([list(row.values()) for row in given])
        given = numpy.asarray(given) if tell is None else tell(given)
        if given.ndim == 2 and given.shape[1] == 2 and settings["gives"] in ("probabilities", "logits"):
            given = given[:, 1]
        below = self.folder / f"{self.count:03}"
        below.mkdir()
        (below / "model.onnx").write_bytes(model.SerializeToString())
        case = {
            "name": name,
            "settings": settings,
            "features": list(features),
            "classes": list(classes),
            "rows": numpy.asarray(rows, dtype=numpy.float64).tolist(),
            "outputs": given.reshape(len(rows), -1).astype(numpy.float64).tolist(),
        }
        (below / "case.json").write_text(json.dumps(case))
        self.count += 1


def classifiers(writer):
    models = {
        "logistic regression": LogisticRegression(),
        "scaled logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "gradient boosting": GradientBoostingClassifier(n_estimators=40),
        "random forest": RandomForestClassifier(n_estimators=30, max_depth=8, random_state=1),
        "decision tree": DecisionTreeClassifier(max_depth=6),
        "network": make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(16, 8), max_iter=60, random_state=1)),
        "tanh network": make_pipeline(MinMaxScaler(), MLPClassifier(hidden_layer_sizes=(12,), activation="tanh", max_iter=60, random_state=1)),
        "naive bayes": GaussianNB(),
        "stochastic gradient descent": make_pipeline(RobustScaler(), SGDClassifier(loss="log_loss", random_state=1)),
        "normalized": make_pipeline(Normalizer(), LogisticRegression()),
        "binarized": make_pipeline(Binarizer(threshold=0.3), LogisticRegression()),
    }
    for name, model in models.items():
        for classes, labels in [((), YES.astype(int)), ((0, 1, 2), THREE), (("high", "low", "mid"), None)]:
            words = numpy.array(["low", "mid", "high"])[THREE]
            model.fit(LEARN, words if labels is None else labels)
            for zipmap in (False, True):
                kind = "maps" if zipmap else "tensor"
                made = to_onnx(model, LEARN[:1], options={"zipmap": zipmap}, target_opset={"": 21, "ai.onnx.ml": 3})
                output = made.graph.output[1].name
                # Another order than the file's.
                listed = [str(name) for name in classes]
                order = None
                if labels is None:
                    listed, place = ["low", "mid", "high"], [1, 2, 0]
                    order = lambda given: numpy.asarray(
                        [list(row.values()) for row in given] if isinstance(given, list) else given
                    )[:, place]
                title = f"{name}, {len(classes) or 2} classes, {kind}"
                inputs = {made.graph.input[0].name: ASK}
                writer.write(title, made, {"gives": "probabilities"}, inputs, output, classes=listed, tell=order)


def regressors(writer):
    models = {
        "linear regression": LinearRegression(),
        "ridge": make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge()),
        "gradient boosting regressor": GradientBoostingRegressor(n_estimators=40),
        "random forest regressor": RandomForestRegressor(n_estimators=30, max_depth=9, random_state=1),
        "extra trees": ExtraTreesRegressor(n_estimators=20, max_depth=9, random_state=1),
        "network regressor": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16, 8), max_iter=80, random_state=1)),
        "support vectors": make_pipeline(StandardScaler(), SVR(C=2.0)),
        "polynomial support vectors": make_pipeline(StandardScaler(), SVR(kernel="poly", degree=2)),
    }
    for name, model in models.items():
        model.fit(LEARN, LEARN_SCORE)
        made = to_onnx(model, LEARN[:1], target_opset={"": 21, "ai.onnx.ml": 3})
        inputs = {made.graph.input[0].name: ASK}
        # The runtime adds up hundreds of support vectors in single precision, and is 5e-5 away from the model itself.
        exact = (lambda _: model.predict(ASK.astype(numpy.float64))) if "vectors" in name else None
        writer.write(name, made, {"gives": "number"}, inputs, made.graph.output[0].name, tell=exact)


def columns(writer):
    """Pipelines with texts, and inputs of several columns or of one each."""
    words = numpy.array(WORDS)
    learn = numpy.hstack([LEARN.astype(object), words[LEARN_WORDS]])
    ask = {name: ASK[:, [at]] for at, name in enumerate(NAMES)} | {"room": words[ASK_WORDS]}
    rows = numpy.hstack([ASK, ASK_WORDS])
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    for name, encoder in [("one hot", OneHotEncoder(handle_unknown="ignore")), ("ordinal", OrdinalEncoder())]:
        prepare = ColumnTransformer([("numbers", numbers, list(range(6))), ("words", encoder, [6])])
        for model in (LogisticRegression(max_iter=300), GradientBoostingClassifier(n_estimators=20)):
            pipeline = make_pipeline(prepare, model).fit(learn, YES.astype(int))
            types = [(name, FloatTensorType([None, 1])) for name in NAMES] + [("room", StringTensorType([None, 1]))]
            made = to_onnx(pipeline, initial_types=types, options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
            settings = {"gives": "probabilities", "texts": {"room": WORDS}}
            title = f"{name}, {type(model).__name__}, an input each"
            writer.write(title, made, settings, ask, "probabilities", features=[*NAMES, "room"], rows=rows)
    # Two inputs: numbers together, and codes.
    prepare = ColumnTransformer([("numbers", numbers, list(range(6))), ("codes", OneHotEncoder(), [6])])
    pipeline = make_pipeline(prepare, LogisticRegression(max_iter=300)).fit(numpy.hstack([LEARN, LEARN_WORDS]), YES.astype(int))
    types = [("numbers", FloatTensorType([None, 6])), ("codes", Int64TensorType([None, 1]))]
    made = to_onnx(pipeline, initial_types=types, options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    inputs = {"numbers": ASK, "codes": ASK_WORDS.astype(numpy.int64)}
    for settings in ({}, {"inputs": {"numbers": NAMES, "codes": ["room"]}}):
        features = [*NAMES, "room"]
        writer.write("two inputs", made, {"gives": "probabilities", **settings}, inputs, "probabilities", features=features, rows=rows)


def others(writer):
    target = {"": 21, "ai.onnx.ml": 3}
    kmeans = KMeans(4, n_init=2, random_state=1).fit(LEARN)
    made = to_onnx(kmeans, LEARN[:1], target_opset=target)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    label, distances = session.run(None, {made.graph.input[0].name: ASK})
    groups = numpy.stack([label, distances[numpy.arange(ROWS), label]], axis=1)
    output = made.graph.output[0].name
    writer.write("k-means", made, {"gives": "clusters"}, {made.graph.input[0].name: ASK}, output, tell=lambda _: groups)
    forest = IsolationForest(n_estimators=20, random_state=1).fit(LEARN)
    made = to_onnx(forest, LEARN[:1], target_opset=target)
    output = made.graph.output[1].name
    writer.write("isolation forest", made, {"gives": "score", "output": output}, {made.graph.input[0].name: ASK}, output)
    tree = DecisionTreeClassifier(max_depth=5).fit(LEARN, YES.astype(int))
    made = to_onnx(tree, LEARN[:1], options={"zipmap": False}, target_opset=target)
    writer.write("labels", made, {"gives": "labels"}, {made.graph.input[0].name: ASK}, made.graph.output[0].name)


def weights(*shape):
    return (RANDOM.normal(size=shape) / numpy.sqrt(shape[-1])).astype(numpy.float32)


def graph(nodes, constants, inputs=("input",), output=("output", ["rows", 1]), columns=6, version=18):
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", columns]) for name in inputs]
    told = helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])
    constants = [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "model", given, [told], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def torches(writer):
    """Networks as `torch.onnx.export` writes them."""
    node = helper.make_node
    dense = {"w0": weights(24, 6), "b0": weights(24), "w1": weights(24, 24), "b1": weights(24), "w2": weights(1, 24), "b2": weights(1)}
    for function, settings in [
        ("Relu", {}), ("LeakyRelu", {"alpha": 0.02}), ("Elu", {}), ("Selu", {}), ("Celu", {"alpha": 1.5}), ("Tanh", {}), ("Sigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6}), ("HardSwish", {}), ("Softplus", {}), ("Softsign", {}), ("Mish", {}), ("ThresholdedRelu", {"alpha": 0.3}),
    ]:
        nodes = [
            node("Gemm", ["input", "w0", "b0"], ["h0"], transB=1),
            node(function, ["h0"], ["a0"], **settings),
            node("Gemm", ["a0", "w1", "b1"], ["h1"], transB=1),
            node(function, ["h1"], ["a1"], **settings),
            node("Gemm", ["a1", "w2", "b2"], ["output"], transB=1),
        ]
        model = graph(nodes, dense)
        writer.write(f"dense, {function}", model, {"gives": "number"}, {"input": ASK}, "output")
    sigmoid = lambda given: 1 / (1 + numpy.exp(-given.astype(numpy.float64)))
    writer.write("one logit", model, {"gives": "logits"}, {"input": ASK}, "output", tell=sigmoid)
    # Exact GELU as older exports write it, a layer norm, a residual, batch norm, dropout, and three logits.
    constants = {
        **{key: dense[key] for key in ("w0", "b0")},
        "root": numpy.float32(numpy.sqrt(2)), "one": numpy.float32(1), "half": numpy.float32(0.5),
        "gain": weights(24) + 1, "shift": weights(24), "w1": weights(24, 24), "mean": weights(24), "variance": numpy.abs(weights(24)) + 0.5,
        "w2": weights(24, 3), "b2": weights(3),
    }
    nodes = [
        node("Gemm", ["input", "w0", "b0"], ["h0"], transB=1),
        node("Div", ["h0", "root"], ["g0"]), node("Erf", ["g0"], ["g1"]), node("Add", ["g1", "one"], ["g2"]),
        node("Mul", ["h0", "g2"], ["g3"]), node("Mul", ["g3", "half"], ["g4"]),
        node("LayerNormalization", ["g4", "gain", "shift"], ["n0"], axis=-1),
        node("MatMul", ["n0", "w1"], ["h1"]), node("Add", ["h1", "g4"], ["r0"]),
        node("BatchNormalization", ["r0", "gain", "shift", "mean", "variance"], ["n1"]),
        node("Dropout", ["n1"], ["d0"]), node("MatMul", ["d0", "w2"], ["h2"]), node("Add", ["h2", "b2"], ["output"]),
    ]
    three = graph(nodes, constants, output=("output", ["rows", 3]))

    def soft(given):
        power = numpy.exp(given.astype(numpy.float64) - given.max(axis=1, keepdims=True))
        return power / power.sum(axis=1, keepdims=True)

    classes = ["a", "b", "c"]
    writer.write("normed network", three, {"gives": "logits"}, {"input": ASK}, "output", classes=classes, tell=soft)
    # A sequence of three moments of two numbers, through each recurrent layer.
    units = 5
    for kind, gates, settings in [
        ("RNN", 1, {}), ("GRU", 3, {"linear_before_reset": 1}), ("GRU", 3, {}), ("LSTM", 4, {}), ("LSTM", 4, {"direction": "bidirectional"}),
        ("GRU", 3, {"direction": "reverse", "linear_before_reset": 1}),
    ]:
        count = 2 if settings.get("direction") == "bidirectional" else 1
        constants = {
            "moments": numpy.array([0, 3, 2]), "w": weights(count, gates * units, 2), "r": weights(count, gates * units, units),
            "b": weights(count, 2 * gates * units), "flat": numpy.array([0, -1]), "out": weights(count * units, 1),
        }
        hidden = ["all", "last", "cells"] if kind == "LSTM" else ["all", "last"]
        nodes = [
            node("Reshape", ["input", "moments"], ["steps"]), node("Transpose", ["steps"], ["x"], perm=[1, 0, 2]),
            node(kind, ["x", "w", "r", "b"], hidden, hidden_size=units, **settings),
            node("Transpose", ["last"], ["rows_first"], perm=[1, 0, 2]), node("Reshape", ["rows_first", "flat"], ["state"]),
            node("MatMul", ["state", "out"], ["output"]),
        ]
        writer.write(f"{kind} {settings}", graph(nodes, constants), {"gives": "number"}, {"input": ASK}, "output")
    # Attention over the six numbers, and all kinds of reductions and shapes.
    constants = {"one": numpy.array([2]), "q": weights(1, 4), "k": weights(1, 4), "v": weights(1, 4), "scale": numpy.float32(0.5), "flat": numpy.array([0, 24]), "w": weights(24, 1)}
    nodes = [
        node("Unsqueeze", ["input", "one"], ["x"]), node("MatMul", ["x", "q"], ["qs"]), node("MatMul", ["x", "k"], ["ks"]),
        node("MatMul", ["x", "v"], ["vs"]), node("Transpose", ["ks"], ["kt"], perm=[0, 2, 1]), node("MatMul", ["qs", "kt"], ["s0"]),
        node("Mul", ["s0", "scale"], ["s1"]), node("Softmax", ["s1"], ["s2"], axis=-1), node("MatMul", ["s2", "vs"], ["a"]),
        node("Reshape", ["a", "flat"], ["f"]), node("MatMul", ["f", "w"], ["output"]),
    ]
    writer.write("attention", graph(nodes, constants), {"gives": "number"}, {"input": ASK}, "output")
    constants = {
        "axis": numpy.array([1]), "last": numpy.array([-1]), "starts": numpy.array([5, 0]), "ends": numpy.array([-7, 2**62]),
        "axes": numpy.array([1, 0]), "steps": numpy.array([-2, 1]), "zero": numpy.float32(0), "parts": numpy.array([2, 4]), "two": numpy.array([2]),
        "first": numpy.array(0), "index": numpy.array([0, -1]), "low": numpy.float32(-1), "high": numpy.float32(1), "exponent": numpy.float32(3),
    }
    reductions = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"]
    nodes = [node(name, ["input", "axis"], [f"r{at}"], keepdims=1) for at, name in enumerate(reductions)]
    nodes += [
        node("Slice", ["input", "starts", "ends", "axes", "steps"], ["s0"]), node("ReduceSum", ["s0", "last"], ["s1"]),
        node("Split", ["input", "parts"], ["p0", "p1"], axis=1), node("CumSum", ["p1", "first_axis"], ["c0"]), node("ReduceMax", ["c0", "axis"], ["c1"]),
        node("TopK", ["input", "two"], ["t0", "t1"], axis=1), node("Cast", ["t1"], ["t2"], to=1), node("ReduceSum", ["t2", "axis"], ["t3"]),
        node("ReduceSum", ["t0", "axis"], ["t4"]), node("Gather", ["input", "index"], ["g0"], axis=1), node("ReduceSum", ["g0", "axis"], ["g1"]),
        node("ArgMax", ["input"], ["m0"], axis=1), node("Cast", ["m0"], ["m1"], to=1), node("ArgMin", ["input"], ["m2"], axis=1), node("Cast", ["m2"], ["m3"], to=1),
        node("Greater", ["r1", "zero"], ["w0"]), node("Not", ["w0"], ["w1"]), node("Where", ["w1", "r2", "r3"], ["w2"]),
        node("Clip", ["r0", "low", "high"], ["k0"]), node("Floor", ["r0"], ["k1"]), node("Ceil", ["r1"], ["k2"]), node("Round", ["r0"], ["k3"]), node("Sign", ["r1"], ["k4"]),
        node("Pow", ["k0", "exponent"], ["k5"]), node("Abs", ["r0"], ["k6"]), node("Sqrt", ["k6"], ["k7"]), node("Exp", ["k0"], ["k8"]),
        node("Log", ["k8"], ["k9"]), node("Reciprocal", ["k8"], ["k10"]), node("Neg", ["k8"], ["k11"]), node("LogSoftmax", ["input"], ["l0"], axis=1),
        node("ReduceMin", ["l0", "axis"], ["l1"]), node("Min", ["r0", "r1", "r2"], ["k12"]), node("Max", ["r0", "r1"], ["k13"]), node("Mean", ["r0", "r1"], ["k14"]),
    ]
    constants["first_axis"] = numpy.array(1)
    parts = [f"r{at}" for at in range(len(reductions))] + ["s1", "c1", "t3", "t4", "g1", "m1", "m3", "w2"] + [f"k{at}" for at in range(15)] + ["l1"]
    unused = {"first"}
    constants = {name: value for name, value in constants.items() if name not in unused}
    nodes += [node("Concat", parts, ["c"], axis=1), node("MatMul", ["c", "w"], ["output"])]
    constants["w"] = weights(len(parts), 1) * numpy.float32(0.3)
    asked = ASK / numpy.float32(4)
    writer.write("all kinds", graph(nodes, constants), {"gives": "number"}, {"input": asked}, "output", rows=asked)


def main():
    warnings.filterwarnings("ignore")
    writer = Writer(sys.argv[1])
    classifiers(writer)
    regressors(writer)
    columns(writer)
    others(writer)
    torches(writer)
    print(f"{writer.count} models")


if __name__ == "__main__":
    main()
