//! The whole program beside real Chroma, Prometheus, Alertmanager and a browser, which `tests/run` installs: one module for
//! each subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alertmanager;
mod alerts;
mod backup;
mod backup_tools;
mod catalogue;
mod compare;
mod damage;
mod dashboards;
mod decay;
mod drill;
mod dump;
mod endurance;
mod faults;
mod faults_live;
mod given_up;
mod guard;
mod hang;
mod harmless;
mod holders;
mod index;
mod ledger;
mod load;
mod load_way;
mod many;
mod mounts;
mod overflow;
mod packaging;
mod page;
mod places;
mod pm2;
mod prometheus;
mod pushes;
mod recover;
mod recover_backup;
mod recover_cut;
mod recover_files;
mod recover_rows;
mod recover_writers;
mod release;
mod remedies;
mod restore;
mod rules;
mod salvage;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod textfile;
mod verify;
mod view;
mod written;
