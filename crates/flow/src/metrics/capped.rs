//! A metric with labels and a most of them: what comes beyond is one more set of labels, "other", and counted. Never grows
//! with what others send.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::{Metric, Registry},
};

/// Values of labels, in the order of their names.
pub(super) type Values<const N: usize> = [Cow<'static, str>; N];
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// The value of every label of what is folded.
pub(super) const OTHER: &str = "other";

/// A metric as it is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec<const N: usize> {
    /// Without the suffix of its type.
    pub name: &'static str,
    pub help: &'static str,
    pub labels: [&'static str; N],
    /// Sets of labels that are told apart.
    pub cap: usize,
}

/// What is counted by metric: values that its cap folded.
pub(super) type Folded = Family<[(&'static str, &'static str); 1], Counter>;

/// One writer's metric; what is registered shares its values.
#[derive(Debug)]
pub(super) struct Capped<M, const N: usize> {
    spec: Spec<N>,
    family: Family<Labels<N>, M, fn() -> M>,
    /// Found without a lock.
    known: HashMap<Values<N>, M>,
    folded: Counter,
}

impl<M: Clone, const N: usize> Capped<M, N> {
    pub(super) fn new(registry: &mut Registry, folded: &Folded, spec: Spec<N>, make: fn() -> M) -> Self
    where
        Family<Labels<N>, M, fn() -> M>: Metric,
    {
        let family = Family::new_with_constructor(make);
        registry.register(spec.name, spec.help, family.clone());
        let folded = folded.get_or_create_owned(&[("metric", spec.name)]);
        Self { spec, family, known: HashMap::new(), folded }
    }

    /// What has these values.
    pub(super) fn get(&mut self, values: Values<N>) -> M {
        if self.known.len() >= self.spec.cap && !self.known.contains_key(&values) {
            self.folded.inc();
            return self.labelled(&[const { Cow::Borrowed(OTHER) }; N]);
        }
        match self.known.entry(values) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => {
                let made = labelled(&self.spec, &self.family, new.key());
                new.insert(made).clone()
            }
        }
    }

    fn labelled(&self, values: &Values<N>) -> M {
        labelled(&self.spec, &self.family, values)
    }
}

fn labelled<M: Clone, const N: usize>(
    spec: &Spec<N>,
    family: &Family<Labels<N>, M, fn() -> M>,
    values: &Values<N>,
) -> M
where
    Labels<N>: Hash + Eq,
{
    let labels = std::array::from_fn(|place| (spec.labels[place], values[place].clone()));
    family.get_or_create_owned(&labels)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    /// Whoever chooses values fills the page up to the cap and no further, and nothing goes uncounted.
    #[test]
    fn what_comes_beyond_the_cap_is_one_and_counted() {
        let (mut registry, folded) = (Registry::default(), Folded::default());
        registry.register("folded", "Folded", folded.clone());
        let spec = Spec { name: "queries", help: "Queries", labels: ["kind", "code"], cap: 8 };
        let mut queries = Capped::new(&mut registry, &folded, spec, Counter::<u64>::default);
        for round in 0..2 {
            for number in 0..100 {
                queries.get([format!("TYPE{number}").into(), "0".into()]).inc();
            }
            assert_eq!(queries.known.len(), 8, "round {round}");
        }
        let mut page = String::new();
        encode(&mut page, &registry).expect("a String takes everything");
        let samples: Vec<&str> = page.lines().filter(|line| line.starts_with("queries_total{")).collect();
        assert_eq!(samples.len(), 9, "{page}");
        let sum: u64 = samples.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
        assert_eq!(sum, 200);
        assert!(page.contains("queries_total{kind=\"TYPE3\",code=\"0\"} 2\n"), "{page}");
        assert!(page.contains("queries_total{kind=\"other\",code=\"other\"} 184\n"), "{page}");
        assert!(page.contains("folded_total{metric=\"queries\"} 184\n"), "{page}");
    }
}
