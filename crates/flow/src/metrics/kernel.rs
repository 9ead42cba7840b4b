//! The kernel's own counts of events as metrics: by kind and CPU, as they were last read. Never reads them.

use std::sync::{Arc, Mutex, PoisonError};

use abi::{EventCount, EventKind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

/// CPUs that are told apart; those beyond are one.
const MAX_CPUS: usize = 256;

type Counts = Vec<(EventKind, Vec<EventCount>)>;
/// Name, help and what of a count it shows.
type Shown = (&'static str, &'static str, fn(&EventCount) -> u64);

/// Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct KernelEvents(Arc<Mutex<Counts>>);

impl KernelEvents {
    pub fn new(registry: &mut Registry) -> Self {
        let events = Self::default();
        registry.register_collector(Box::new(events.clone()));
        events
    }

    /// Since the kernel began to count, each kind by CPU.
    pub fn set(&self, counts: &[(EventKind, Vec<EventCount>)]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts.to_vec();
    }
}

impl Collector for KernelEvents {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if counts.is_empty() {
            return Ok(());
        }
        let offered = "Events that the datapath had to tell, those that were lost included";
        let lost = "Events that the kernel's ring had no room for";
        let values: [Shown; 2] = [
            ("twinplane_kernel_events", offered, |count| count.offered),
            ("twinplane_kernel_events_lost", lost, |count| count.lost),
        ];
        for (name, help, value) in values {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (kind, cpus) in &counts {
                let (apart, beyond) = cpus.split_at(cpus.len().min(MAX_CPUS));
                let mut add = |cpu: String, count: u64| {
                    let labels = [("kind", kind.name().to_owned()), ("cpu", cpu)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)
                };
                for (cpu, count) in apart.iter().enumerate() {
                    add(cpu.to_string(), value(count))?;
                }
                if !beyond.is_empty() {
                    add(super::capped::OTHER.to_owned(), beyond.iter().map(value).sum())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_beyond_the_cap_are_one() {
        let mut registry = Registry::default();
        let events = KernelEvents::new(&mut registry);
        assert_eq!(super::super::render([&registry]), "# EOF\n", "nothing was read yet");
        events.set(&[(EventKind::New, vec![EventCount { offered: 3, lost: 1 }; MAX_CPUS + 4])]);
        let page = super::super::render([&registry]);
        let of = |name: &str| page.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(of("twinplane_kernel_events_total{"), MAX_CPUS + 1);
        assert!(page.contains("twinplane_kernel_events_total{kind=\"new\",cpu=\"255\"} 3\n"), "{page}");
        assert!(page.contains("twinplane_kernel_events_total{kind=\"new\",cpu=\"other\"} 12\n"), "{page}");
        assert!(
            page.contains("twinplane_kernel_events_lost_total{kind=\"new\",cpu=\"other\"} 4\n"),
            "{page}"
        );
    }
}
