//! `rules`: the rules in force as a rule file for Prometheus.

use clap::Args;

use super::{Ended, to_stderr, to_stdout};
use crate::{
    alert::prometheus::{self, File, Part},
    collectors,
    config::{Config, alerts},
};

/// Flags of `rules`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The Prometheus job that scrapes the exporters; its targets that never answered raise an alert too
    #[arg(long, value_name = "NAME", default_value = "chroma")]
    job: String,
    /// Address of Grafana for links to the dashboards; no links without it
    #[arg(long = "grafana.url", value_name = "URL", default_value = "")]
    grafana: String,
    /// Print only this group; repeatable
    #[arg(long, value_name = "GROUP", value_enum)]
    only: Vec<Part>,
}

/// Prints the file.
pub(super) fn run(config: &Config, options: &Options) -> Ended {
    let rules = alerts::rules(&config.disk, &config.alerts.rules);
    let options = prometheus::Options {
        runbooks: config.alerts.runbook_url.clone(),
        grafana: options.grafana.trim_end_matches('/').to_owned(),
        job: options.job.clone(),
        slowest: collectors::slowest(config),
        parts: match options.only.as_slice() {
            [] => Part::ALL.to_vec(),
            only => Part::ALL.into_iter().filter(|part| only.contains(part)).collect(),
        },
    };
    match File::new(&rules, &options).to_yaml() {
        Ok(yaml) => to_stdout(&format!("{HEAD}{yaml}"), Ended::Well),
        Err(error) => {
            to_stderr(&format!("error: the rules cannot be written as YAML: {error}\n"));
            Ended::Unwritten
        }
    }
}

const HEAD: &str = "# Made by `chroma_exporter rules` from the table that the built-in alerts come from; needs Prometheus 2.42 or newer.\n# Where the alert hooks of the exporters tell the same people, print it with `--only recording --only exporters`.\n";
