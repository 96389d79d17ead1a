//! Training: folds a stream into a model.
