//! (being written)
use super::{Collector, Pace, Turn};
use crate::{
    config::CollectorName,
    findings::Code,
    sample::{Desc, Observation},
    store::Context,
    watch::Wake,
};

/// (being written)
#[derive(Debug)]
pub struct Disk {
    context: Context,
}

impl Disk {
    /// (being written)
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone() }
    }
}

impl Collector for Disk {
    fn name(&self) -> CollectorName {
        CollectorName::Disk
    }
    fn descs(&self) -> &'static [&'static Desc] {
        &[]
    }
    fn codes(&self) -> &'static [Code] {
        &[]
    }
    fn pace(&self) -> Pace {
        let collect = &self.context.config.collect;
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::NONE,
            touches_store: true,
        }
    }
    fn collect(&mut self, _turn: &Turn) -> Observation {
        Observation::default()
    }
}
