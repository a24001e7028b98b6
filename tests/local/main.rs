//! Tests of the whole program that need nothing but cargo: one module for each subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_truth;
mod alerts;
mod arrows;
mod backup;
mod backups_served;
mod cli;
mod damage_served;
mod dashboards;
mod differential;
mod docs;
mod email;
mod faults;
mod fuzz;
mod golden;
mod guard;
mod http;
mod http_descriptors;
mod metrics;
mod neighbours;
mod notify;
mod packaging;
mod permissions;
mod receivers;
mod recover_instead;
mod revision;
mod rules;
mod secrets;
mod serve;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod trials;
mod verify;
mod verify_hostile;
mod web_config;
