//! The operators: of the standard set those that models of tables use, and of the set of classical models most.

// Every operator is made in the same way, also one that fits any node.
#![allow(clippy::unnecessary_wraps)]

mod casts;
mod elementwise;
mod functions;
mod linear;
mod matrices;
mod recurrent;
mod reduce;
mod scores;
mod shapes;
mod tables;
mod trees;
mod walk;

pub(super) use matrices::softly;
pub(super) use scores::logistic;

use super::node::{Kernel, Node};
use super::value::Done;

/// The newest sets of operators that are known.
pub(super) const VERSION_MAX: i64 = 26;
pub(super) const ML_VERSION_MAX: i64 = 5;
/// The set of classical models.
pub(super) const ML: &str = "ai.onnx.ml";

/// How an operator is made of its node.
pub(super) type Build = fn(&Node<'_>) -> Done<Kernel>;

/// An operator, if it is known.
pub(super) fn find(domain: &str, name: &str) -> Option<Build> {
    match domain {
        "" | "ai.onnx" => standard(name),
        ML => classical(name),
        _ => None,
    }
}

fn standard(name: &str) -> Option<Build> {
    Some(match name {
        "Gemm" => matrices::gemm,
        "MatMul" => matrices::matmul,
        "BatchNormalization" => matrices::batch_normalization,
        "LayerNormalization" => matrices::layer_normalization,
        "Softmax" => matrices::softmax,
        "LogSoftmax" => matrices::log_softmax,
        "GRU" => recurrent::gru,
        "LSTM" => recurrent::lstm,
        "RNN" => recurrent::rnn,
        "ArgMax" => reduce::arg_max,
        "ArgMin" => reduce::arg_min,
        "TopK" => reduce::top_k,
        "CumSum" => reduce::cumulative_sum,
        "Concat" => shapes::concat,
        "Split" => shapes::split,
        "Slice" => shapes::slice,
        "Gather" => shapes::gather,
        "GatherElements" => shapes::gather_elements,
        "Reshape" => shapes::reshape,
        "Flatten" => shapes::flatten,
        "Squeeze" => shapes::squeeze,
        "Unsqueeze" => shapes::unsqueeze,
        "Transpose" => shapes::transpose,
        "Expand" => shapes::expand,
        "Tile" => shapes::tile,
        "Shape" => shapes::shape,
        "Size" => shapes::size,
        "Identity" | "Dropout" => shapes::identity,
        "Cast" => casts::cast,
        "CastLike" => casts::cast_like,
        "Constant" => shapes::constant,
        "ConstantOfShape" => shapes::constant_of_shape,
        "Range" => shapes::range,
        "DequantizeLinear" => casts::dequantize,
        _ => return elementwise::find(name).or_else(|| reduce::find(name)),
    })
}

fn classical(name: &str) -> Option<Build> {
    Some(match name {
        "TreeEnsembleClassifier" => trees::classifier,
        "TreeEnsembleRegressor" => trees::regressor,
        "TreeEnsemble" => trees::ensemble,
        "LinearClassifier" => linear::classifier,
        "LinearRegressor" => linear::regressor,
        "SVMRegressor" => linear::support_vectors,
        "Scaler" => tables::scaler,
        "Normalizer" => tables::normalizer,
        "Binarizer" => tables::binarizer,
        "Imputer" => tables::imputer,
        "OneHotEncoder" => tables::one_hot,
        "LabelEncoder" => tables::label_encoder,
        "CategoryMapper" => tables::category_mapper,
        "FeatureVectorizer" => tables::vectorizer,
        "ArrayFeatureExtractor" => tables::extractor,
        // A sequence of maps is a tensor here, and its keys are known.
        "ZipMap" => shapes::identity,
        "Cast" => casts::cast,
        _ => return None,
    })
}
