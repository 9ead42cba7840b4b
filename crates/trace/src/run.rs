//! Traces the layers, both planes at the same time, and compares what they showed.

use std::{panic, thread};

use model::{Plane, ServiceName};

use crate::{
    bench::{self, Bench},
    compare::{self, Side},
    labs::Lines,
    layers::{self, Found},
    report::{Capture, Facts, Layer, LayerId, PlaneFacts, SCHEMA, Trace},
    subject::Subject,
};

/// What failed, on which layer and plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("trace {layer} on the {plane} plane")]
    Layer {
        layer: LayerId,
        plane: Plane,
        #[source]
        source: bench::Error,
    },
    #[error("read the Service to trace on the {plane} plane")]
    Subject {
        plane: Plane,
        #[source]
        source: bench::Error,
    },
    #[error("find a Service to trace in lab {lab}: no forwarding rule (want a Service of type LoadBalancer)")]
    NoService { lab: lab::LabName },
}

/// A plane's Service while it is traced.
struct Traced<'a> {
    bench: &'a Bench,
    /// As it was before anything was changed.
    found: Subject,
    subject: Subject,
}

/// Traces `layers`, in their own order, on every bench.
///
/// # Errors
/// The first that failed; the layers before it are lost.
pub fn trace(benches: &[Bench], layers: &[LayerId], restore: bool, lines: &Lines) -> Result<Trace, Error> {
    let mut traced = benches.iter().map(Traced::new).collect::<Result<Vec<_>, _>>()?;
    both(&mut traced, |one| {
        let plane = one.bench.plane;
        one.subject.spread(one.bench).map_err(|source| Error::Subject { plane, source })
    })?;
    let (mut done, mut changed) = (vec![], false);
    for id in LayerId::ALL.into_iter().filter(|id| layers.contains(id)) {
        if changed && id >= LayerId::L7 {
            put_back(&mut traced, lines)?;
            changed = false;
        }
        lines.say(&format!("{id}: {}", id.title()));
        changed |= matches!(id, LayerId::L5 | LayerId::L6);
        done.push(layer(id, &mut traced, lines)?);
    }
    if restore && changed {
        put_back(&mut traced, lines)?;
    }
    Ok(Trace { schema: SCHEMA, layers: done })
}

fn put_back(traced: &mut [Traced<'_>], lines: &Lines) -> Result<(), Error> {
    lines.say("put the Services back as they were");
    let restored = both(traced, |one| {
        let plane = one.bench.plane;
        let restored = layers::restore(one.bench, &one.found);
        one.subject = restored.map_err(|source| Error::Subject { plane, source })?;
        Ok(())
    });
    restored.map(drop)
}

fn layer(id: LayerId, traced: &mut [Traced<'_>], lines: &Lines) -> Result<Layer, Error> {
    let mut sides = both(traced, |one| {
        let plane = one.bench.plane;
        one.layer(id).map_err(|source| Error::Layer { layer: id, plane, source })
    })?;
    let identical = match &mut sides[..] {
        [(left, ..), (right, ..)] => {
            compare::mark(left, right);
            compare::identical(left, right)
        }
        _ => false,
    };
    let mut facts = PlaneFacts::default();
    let mut captures: Vec<Capture> = vec![];
    for (one, (side, found, told)) in traced.iter().zip(sides.drain(..)) {
        told.iter().for_each(|line| lines.say(&format!("{id} {}: {line}", one.bench.plane)));
        *facts.of_mut(one.bench.plane) = found;
        captures.extend(side.exhibits.into_iter().map(|exhibit| exhibit.capture));
    }
    Ok(Layer { id, title: id.title().to_owned(), identical, captures, facts })
}

/// Runs `work` for every plane at the same time.
fn both<T: Send>(
    traced: &mut [Traced<'_>],
    work: impl Fn(&mut Traced<'_>) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let work = &work;
    thread::scope(|scope| {
        let runs = traced.iter_mut().map(|one| scope.spawn(move || work(one))).collect::<Vec<_>>();
        let joined = runs.into_iter().map(|run| run.join().unwrap_or_else(|p| panic::resume_unwind(p)));
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

impl<'a> Traced<'a> {
    fn new(bench: &'a Bench) -> Result<Self, Error> {
        let plane = bench.plane;
        let failed = |source| Error::Subject { plane, source };
        let service = service(bench).map_err(failed)?;
        let service = service.ok_or_else(|| Error::NoService { lab: bench.lab.name().clone() })?;
        let found = Subject::read(bench, &service).map_err(failed)?;
        Ok(Self { bench, subject: found.clone(), found })
    }

    /// What one plane shows; what its cluster allotted is learned before and after, because pods come and go.
    fn layer(&mut self, id: LayerId) -> Result<(Side, Facts, Vec<String>), bench::Error> {
        let mut side = Side::default();
        self.subject.teach(self.bench, &mut side.vocabulary)?;
        let Found { exhibits, facts, told } = layers::capture(id, self.bench, &mut self.subject)?;
        self.subject.teach(self.bench, &mut side.vocabulary)?;
        side.exhibits = exhibits;
        Ok((side, facts, told))
    }
}

/// The first load-balanced Service by name: the same on both labs.
fn service(bench: &Bench) -> Result<Option<ServiceName>, bench::Error> {
    let rules = bench.lab.edge_status()?.forwarding_rules;
    let by_name = |service: &ServiceName| (service.namespace.clone(), service.name.clone());
    Ok(rules.into_iter().map(|rule| rule.service).min_by_key(by_name))
}
