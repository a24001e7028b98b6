//! A dashboard in few words, and the JSON of Grafana that comes of it: places are counted, ids are given, and what every
//! panel must have is asked for by the types.

use chroma_exporter::findings::Code;
use serde_json::{Map, Value, json};

/// One dashboard.
pub struct Dashboard {
    pub uid: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    /// Titles and uids of those that it leads to.
    pub others: &'static [(&'static str, &'static str)],
    /// Whether it opens with one instance and one store instead of all.
    pub one: bool,
    pub items: Vec<Item>,
}

/// What stands below what stands before it.
pub enum Item {
    /// A heading; what follows can be folded away.
    Row(&'static str),
    /// A heading with what follows folded away: Grafana asks nothing for it until somebody unfolds it.
    Folded(&'static str),
    Panel(Panel),
}

/// One panel.
pub struct Panel {
    kind: &'static str,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    /// Of 24 columns.
    width: u64,
    height: u64,
    targets: Vec<Value>,
    defaults: Map<String, Value>,
    overrides: Vec<Value>,
    options: Value,
    transformations: Value,
}

impl Panel {
    fn new(
        kind: &'static str,
        title: &'static str,
        unit: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            kind,
            title,
            description,
            unit,
            width: 12,
            height: 8,
            targets: Vec::new(),
            defaults: Map::new(),
            overrides: Vec::new(),
            options: json!({}),
            transformations: json!([]),
        }
    }

    /// Curves over time.
    pub fn curves(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        let mut panel = Self::new("timeseries", title, unit, description);
        panel.options = json!({
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
            "tooltip": {"mode": "multi", "sort": "desc"},
        });
        panel.custom(json!({
            "drawStyle": "line", "fillOpacity": 10, "lineWidth": 1, "showPoints": "never",
            "spanNulls": false, "axisSoftMin": 0,
        }))
    }

    /// Areas on top of each other.
    pub fn areas(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::curves(title, unit, description)
            .custom(json!({"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}))
    }

    /// One number on a ground of its colour.
    pub fn number(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        let mut panel = Self::new("stat", title, unit, description);
        panel.options = json!({
            "colorMode": "background", "graphMode": "none", "justifyMode": "center", "textMode": "value",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
        });
        panel.size(4, 4)
    }

    /// One bar for each of several things, each in the colour of its state.
    pub fn states(title: &'static str, description: &'static str) -> Self {
        let mut panel = Self::new("state-timeline", title, "none", description);
        panel.options = json!({
            "alignValue": "left", "mergeValues": true, "rowHeight": 0.85, "showValue": "auto",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": false},
            "tooltip": {"mode": "single", "sort": "none"},
        });
        panel.custom(json!({"fillOpacity": 80, "lineWidth": 0, "spanNulls": false}))
    }

    /// A row for each of many things.
    pub fn table(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        let mut panel = Self::new("table", title, unit, description).size(24, 10);
        panel.options = json!({"cellHeight": "sm", "showHeader": true, "footer": {"enablePagination": true, "show": false, "reducer": ["sum"]}});
        panel.transformations = json!([{"id": "merge", "options": {}}]);
        panel.custom(json!({"align": "auto", "filterable": true}))
    }

    pub fn size(mut self, width: u64, height: u64) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// A question over time. `STORE` and `HOST` stand for the matchers of the variables.
    pub fn ask(mut self, expr: &str, legend: &str) -> Self {
        let target = self.target(expr, json!({"legendFormat": legend, "range": true}));
        self.targets.push(target);
        self
    }

    /// A question of this moment.
    pub fn now(mut self, expr: &str) -> Self {
        let format = if self.kind == "table" { "table" } else { "time_series" };
        let more = json!({"format": format, "instant": true, "range": false, "legendFormat": ""});
        let target = self.target(expr, more);
        self.targets.push(target);
        self
    }

    fn target(&self, expr: &str, more: Value) -> Value {
        let letter = char::from(b'A' + u8::try_from(self.targets.len()).expect("few"));
        let expr = expr
            .replace("STORE", "job=~\"$job\", instance=~\"$instance\", store=~\"$store\"")
            .replace("HOST", "job=~\"$job\", instance=~\"$instance\"");
        let mut target = json!({"datasource": datasource(), "editorMode": "code", "expr": expr, "refId": letter.to_string()});
        merge(&mut target, more);
        target
    }

    /// From which value on which colour; the first is the ground.
    pub fn levels(mut self, ground: &str, steps: &[(f64, &str)]) -> Self {
        let mut all = vec![json!({"color": ground, "value": null})];
        all.extend(steps.iter().map(|(value, color)| json!({"color": color, "value": value})));
        self.defaults.insert("thresholds".to_owned(), json!({"mode": "absolute", "steps": all}));
        self.defaults.insert("color".to_owned(), json!({"mode": "thresholds"}));
        self
    }

    /// The same as lines across curves that keep colours of their own.
    pub fn marks(self, steps: &[(f64, &str)]) -> Self {
        let mut panel = self
            .levels("transparent", steps)
            .custom(json!({"thresholdsStyle": {"mode": "dashed"}}));
        panel.defaults.insert("color".to_owned(), json!({"mode": "palette-classic"}));
        panel
    }

    /// Words and colours for values.
    pub fn words(mut self, words: &[(i64, &str, &str)]) -> Self {
        self.defaults.insert("mappings".to_owned(), json!([mapping(words)]));
        self
    }

    /// What stands where there is nothing.
    pub fn nothing(mut self, words: &str) -> Self {
        self.defaults.insert("noValue".to_owned(), json!(words));
        self
    }

    fn nothing_or(mut self, words: &str) -> Self {
        self.defaults.entry("noValue").or_insert_with(|| json!(words));
        self
    }

    /// Further settings of the drawing.
    pub fn custom(mut self, more: Value) -> Self {
        let custom = self.defaults.entry("custom").or_insert_with(|| json!({}));
        merge(custom, more);
        self
    }

    /// Curves that may lie below zero too.
    pub fn signed(mut self) -> Self {
        let custom = self.defaults.get_mut("custom").and_then(Value::as_object_mut);
        custom.expect("curves").remove("axisSoftMin");
        self
    }

    /// Settings of one field: a column or a curve.
    pub fn field(mut self, name: &str, properties: &[(&str, Value)]) -> Self {
        let properties: Vec<Value> =
            properties.iter().map(|(id, value)| json!({"id": id, "value": value})).collect();
        self.overrides
            .push(json!({"matcher": {"id": "byName", "options": name}, "properties": properties}));
        self
    }

    /// Names of the columns that the questions give, in the order of these names; other columns are hidden.
    pub fn columns(
        mut self,
        names: &[(&str, &str)],
        hidden: &[&str],
        sorted: &[(&str, bool)],
    ) -> Self {
        let index: Map<String, Value> = names
            .iter()
            .enumerate()
            .map(|(at, (from, _))| ((*from).to_owned(), json!(at)))
            .collect();
        let rename: Map<String, Value> = names
            .iter()
            .filter(|(from, to)| from != to)
            .map(|(from, to)| ((*from).to_owned(), json!(to)))
            .collect();
        let exclude: Map<String, Value> =
            hidden.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
        let organize = json!({"id": "organize", "options": {"excludeByName": exclude, "indexByName": index, "renameByName": rename}});
        self.transformations.as_array_mut().expect("a table").push(organize);
        let sort: Vec<Value> =
            sorted.iter().map(|(name, desc)| json!({"displayName": name, "desc": desc})).collect();
        self.options["sortBy"] = json!(sort);
        self
    }

    fn json(self, id: u64, x: u64, y: u64) -> Value {
        let mut defaults = self.defaults;
        defaults.insert("unit".to_owned(), json!(self.unit));
        defaults.entry("color").or_insert_with(|| json!({"mode": "palette-classic"}));
        let mut panel = json!({
            "datasource": datasource(),
            "description": self.description,
            "fieldConfig": {"defaults": defaults, "overrides": self.overrides},
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "id": id,
            "options": self.options,
            "targets": self.targets,
            "title": self.title,
            "type": self.kind,
        });
        if self.transformations.as_array().is_some_and(|all| !all.is_empty()) {
            panel["transformations"] = self.transformations;
        }
        panel
    }
}

/// Panels of what one collector reads: those that do not say by themselves why they may be empty say that.
pub fn read_by(collector: &str, items: Vec<Item>) -> Vec<Item> {
    let why = format!(
        "No reading: the collector {collector} is off or fails, or the exporter does not answer"
    );
    let said = |item| match item {
        Item::Panel(panel) => Item::Panel(panel.nothing_or(&why)),
        row => row,
    };
    items.into_iter().map(said).collect()
}

impl Dashboard {
    pub fn json(self) -> Value {
        let mut links: Vec<Value> = self.others.iter().map(|(title, uid)| json!({
            "asDropdown": false, "icon": "dashboard", "includeVars": true, "keepTime": true, "tags": [],
            "targetBlank": false, "title": title, "tooltip": "", "type": "link", "url": format!("/d/{uid}"),
        })).collect();
        links.push(json!({
            "asDropdown": false, "icon": "doc", "includeVars": false, "keepTime": false, "tags": [],
            "targetBlank": true, "title": "Runbooks", "tooltip": "What each finding means and what to do",
            "type": "link", "url": "${runbooks:raw}/",
        }));
        json!({
            "annotations": {"list": [alerts()]},
            "description": self.description,
            "editable": false,
            "graphTooltip": 1,
            "links": links,
            "panels": placed(self.items),
            "refresh": "30s",
            "schemaVersion": 39,
            "tags": ["chroma"],
            "templating": {"list": variables(self.one)},
            "time": {"from": "now-6h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
        })
    }
}

/// From left to right in 24 columns, a new line where the next one does not fit.
fn placed(items: Vec<Item>) -> Vec<Value> {
    let (mut x, mut y, mut line) = (0, 0, 0);
    let mut out: Vec<Value> = Vec::new();
    // Where the folded row begins that takes what follows.
    let mut folded = None;
    for (id, item) in (1..).zip(items) {
        match item {
            Item::Row(title) | Item::Folded(title) => {
                // What is folded away takes no room.
                y = folded.take().unwrap_or(y + line);
                (x, line) = (0, 0);
                let fold = matches!(item, Item::Folded(_));
                out.push(json!({
                    "collapsed": fold, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "id": id, "panels": [],
                    "title": title, "type": "row",
                }));
                y += 1;
                folded = fold.then_some(y);
            }
            Item::Panel(panel) => {
                if x + panel.width > 24 {
                    (x, y, line) = (0, y + line, 0);
                }
                let (width, height) = (panel.width, panel.height);
                let panel = panel.json(id, x, y);
                match out.last_mut() {
                    Some(row) if folded.is_some() => {
                        row["panels"].as_array_mut().expect("a list").push(panel);
                    }
                    _ => out.push(panel),
                }
                x += width;
                line = line.max(height);
            }
        }
    }
    out
}

/// All panels of a dashboard, those that are folded away among them.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let mut out = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        out.push(panel);
        out.extend(panel["panels"].as_array().into_iter().flatten());
    }
    out
}

/// With `one` the first instance and its first store are chosen until somebody chooses: a list without All has no other
/// default. Several can be chosen in both.
fn variables(one: bool) -> Vec<Value> {
    let query = |name: &str, label: &str, query: &str, all: bool| {
        let current = if all {
            json!({"selected": true, "text": ["All"], "value": ["$__all"]})
        } else {
            json!({})
        };
        json!({
            "allValue": ".+", "current": current,
            "datasource": datasource(), "definition": query, "hide": 0, "includeAll": all, "label": label, "multi": true,
            "name": name, "options": [], "query": {"query": query, "refId": name}, "refresh": 2, "regex": "",
            "skipUrlSync": false, "sort": 1, "type": "query",
        })
    };
    vec![
        json!({
            "current": {}, "hide": 0, "includeAll": false, "label": "Data source", "multi": false, "name": "datasource",
            "options": [], "query": "prometheus", "refresh": 1, "regex": "", "skipUrlSync": false, "type": "datasource",
        }),
        query("job", "Job", "label_values(chroma_exporter_build_info, job)", true),
        query(
            "instance",
            "Instance",
            // The first one must have a store to show.
            if one {
                "label_values(chroma_store_info{job=~\"$job\"}, instance)"
            } else {
                "label_values(chroma_exporter_build_info{job=~\"$job\"}, instance)"
            },
            !one,
        ),
        query(
            "store",
            "Store",
            "label_values(chroma_store_info{job=~\"$job\", instance=~\"$instance\"}, store)",
            !one,
        ),
        json!({
            "current": {"selected": true, "text": RUNBOOKS, "value": RUNBOOKS}, "hide": 0, "label": "Runbooks at",
            "name": "runbooks", "options": [{"selected": true, "text": RUNBOOKS, "value": RUNBOOKS}],
            "query": RUNBOOKS, "skipUrlSync": false, "type": "textbox",
        }),
    ]
}

/// Every exporter serves them. deploy/README.md says how to write another address into the files.
const RUNBOOKS: &str = "http://localhost:18000/runbooks";

/// Alerts of the rule file as marks over the curves; those of an exporter have no store.
fn alerts() -> Value {
    json!({
        "datasource": datasource(), "enable": true, "hide": false, "iconColor": "red", "name": "Alerts",
        "expr": "ALERTS{alertname=~\"Chroma.+\", alertstate=\"firing\", severity=~\"critical|warning\", job=~\"$job\", instance=~\"$instance\", store=~\"$store|\"}",
        "step": "60s", "tagKeys": "severity", "textFormat": "{{store}} on {{instance}}", "titleFormat": "{{alertname}}",
        "useValueForTime": false,
    })
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Words and colours for numbers.
pub fn mapping(words: &[(i64, &str, &str)]) -> Value {
    let options: Map<String, Value> = (0..)
        .zip(words)
        .map(|(index, (value, text, color))| {
            (value.to_string(), json!({"color": color, "index": index, "text": text}))
        })
        .collect();
    json!({"type": "value", "options": options})
}

/// For each code what the catalogue says of it.
pub fn catalogue(say: impl Fn(Code) -> String) -> Value {
    let options: Map<String, Value> = Code::ALL
        .iter()
        .enumerate()
        .map(|(index, code)| {
            (code.as_str().to_owned(), json!({"index": index, "text": say(*code)}))
        })
        .collect();
    json!([{"type": "value", "options": options}])
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("an object") };
    into.as_object_mut().expect("an object").extend(more);
}
