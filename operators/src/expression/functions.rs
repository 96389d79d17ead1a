//! The functions of expressions: those of a row, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, TableReference};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};

/// What the planner may ask for.
pub(super) struct Functions {
    pub(super) by_name: BTreeMap<String, Arc<ScalarUDF>>,
    syntax: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

pub(super) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let names = |function: &ScalarUDF| {
        [function.name()]
            .iter()
            .copied()
            .chain(function.aliases().iter().map(String::as_str))
            .map(str::to_lowercase)
            .collect::<Vec<_>>()
    };
    Functions {
        by_name: datafusion_functions::all_default_functions()
            .into_iter()
            .flat_map(|function| names(&function).into_iter().map(move |name| (name, function.clone())))
            .collect(),
        syntax: vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
        ],
        options: ConfigOptions::default(),
    }
});

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Err(DataFusionError::Plan(format!("there are no tables, so no `{name}`")))
    }
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.syntax
    }
    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.by_name.get(name).cloned()
    }
    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }
    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }
    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        &self.options
    }
    fn udf_names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
