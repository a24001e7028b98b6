//! `rules`: the rules in force as a rule file for Prometheus.

use super::{Ended, to_stderr, to_stdout};
use crate::{
    alert::prometheus::File,
    config::{Config, alerts},
};

/// Prints the file.
pub(super) fn run(config: &Config) -> Ended {
    let rules = alerts::rules(&config.collect, &config.alerts.rules);
    match File::new(&rules, &config.alerts.runbook_url).to_yaml() {
        Ok(yaml) => to_stdout(&format!("{HEAD}{yaml}"), Ended::Well),
        Err(error) => {
            to_stderr(&format!("error: the rules cannot be written as YAML: {error}\n"));
            Ended::Unwritten
        }
    }
}

const HEAD: &str = "# Made by `chroma_exporter rules` from the table that the built-in alerts come from. Use either the alert hooks of the\n# exporter or these rules with an Alertmanager, or both: they have the same names.\n";
