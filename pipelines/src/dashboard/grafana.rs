//! The panels as a dashboard that Grafana imports (its JSON model, schema 39: Grafana 11 and later).

use serde_json::{Value, json};

use super::{Panel, Row, Shape, metric, rows};
use crate::plan::Pipeline;

/// How many columns Grafana's grid has.
const WIDTH: usize = 24;

/// The dashboard of a pipeline, as Grafana's `Import` takes it; it asks for the data source at its top.
pub fn dashboard(pipeline: &Pipeline) -> Value {
    let mut grid = Grid::default();
    rows(pipeline).into_iter().for_each(|row| grid.add(row));
    json!({
        // Grafana takes 40 characters.
        "uid": format!("millstream-{:.29}", pipeline.name),
        "title": format!("Millstream: {}", pipeline.name),
        "tags": ["millstream"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables(pipeline)},
        "panels": grid.panels,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn variables(pipeline: &Pipeline) -> Value {
    let variable = |name: &str, family: &str, is_all: bool| {
        let query = format!("label_values({}, {name})", metric(pipeline, family, &[]));
        let mut variable = json!({
            "name": name,
            "label": name,
            "type": "query",
            "datasource": source(),
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
        });
        if is_all {
            variable["multi"] = json!(true);
            variable["includeAll"] = json!(true);
            variable["allValue"] = json!(".*");
            variable["current"] = json!({"text": ["All"], "value": ["$__all"]});
        }
        variable
    };
    json!([
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        variable("instance", "millstream_running", true),
        variable("column", "millstream_column_missing_share", false),
    ])
}

/// Where the next panel lies.
#[derive(Default)]
struct Grid {
    x: usize,
    y: usize,
    /// How high the panels are that lie there.
    height: usize,
    panels: Vec<Value>,
}

impl Grid {
    fn add(&mut self, row: Row) {
        self.place(json!({"type": "row", "title": row.title, "collapsed": false, "panels": []}), (WIDTH, 1));
        for panel in row.panels {
            let size = if panel.shape == Shape::Number { (4, 4) } else { (8, 8) };
            self.place(drawn(panel), size);
        }
        self.next_line();
    }

    fn place(&mut self, mut panel: Value, (width, height): (usize, usize)) {
        if self.x + width > WIDTH {
            self.next_line();
        }
        panel["id"] = json!(self.panels.len() + 1);
        panel["gridPos"] = json!({"x": self.x, "y": self.y, "w": width, "h": height});
        self.panels.push(panel);
        (self.x, self.height) = (self.x + width, height);
    }

    fn next_line(&mut self) {
        (self.x, self.y, self.height) = (0, self.y + self.height, 0);
    }
}

fn drawn(panel: Panel) -> Value {
    let targets: Vec<Value> = panel
        .queries
        .into_iter()
        .zip('A'..)
        .map(|(query, id)| {
            let legend = if query.legend.is_empty() { panel.title } else { query.legend };
            json!({"refId": id, "datasource": source(), "expr": query.expression, "legendFormat": legend})
        })
        .collect();
    let (kind, options) = match panel.shape {
        Shape::Number => {
            ("stat", json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "textMode": "auto"}))
        }
        Shape::Lines => (
            "timeseries",
            json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
        ),
    };
    json!({
        "type": kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source(),
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": options,
        "targets": targets,
    })
}
