"""river on the streams of the bench `learning`: prequential accuracy with default settings, and examples per CPU second.

    cargo bench -p millstream-benches --bench learning -- write
    pip install -r benches/peers/learning_river.txt
    python3 benches/peers/learning_river.py [phishing bananas sea agrawal hyperplane sea_drift dense8 dense30] [--rows N] [--slow]

Ensembles and neighbours are left out of long streams without `--slow`: they take minutes to hours.
"""

import time

from river import ensemble, forest, linear_model, naive_bayes, neighbors, optim, preprocessing, tree

from learning import arguments, rows, table

SLOW = {"kNN", "ARF(10)", "SRP(10)"}


def models():
    return {
        "LR": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "LR, FTRL": preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.FTRLProximal()),
        "Gaussian NB": naive_bayes.GaussianNB(),
        "Hoeffding tree": tree.HoeffdingTreeClassifier(),
        "kNN": preprocessing.StandardScaler() | neighbors.KNNClassifier(),
        "ARF(10)": forest.ARFClassifier(seed=1),
        "SRP(10)": ensemble.SRPClassifier(seed=1),
    }


def run(model, stream):
    right, examples, start = 0, 0, time.process_time()
    for x, y in stream:
        right += model.predict_one(x) == y
        model.learn_one(x, y)
        examples += 1
    return right / examples, examples / (time.process_time() - start)


def main():
    options = arguments(["phishing", "bananas", "sea", "agrawal", "hyperplane"])
    results = []
    for name in options.streams:
        names, columns, classes = rows(name, options.rows)
        stream = [(dict(zip(names, row)), bool(label)) for row, label in zip(columns, classes)]
        for model, learner in models().items():
            if model in SLOW and len(stream) > 10_000 and not options.slow:
                continue
            accuracy, speed = run(learner, stream)
            results.append((name, model, len(stream), f"{100 * accuracy:.2f}", f"{speed:,.0f}"))
            print("  ".join(map(str, results[-1])), flush=True)
    table("river", results)


if __name__ == "__main__":
    main()
