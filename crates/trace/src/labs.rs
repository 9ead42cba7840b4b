//! The two labs under trace: brought up together and taken down again whatever happens, or running ones used as they are.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use lab::{
    Lab, LabName, Options, Progress, Up, UpError,
    edge::HealthCheckTiming,
    manifest::{Manifest, Problem},
    remove,
};
use model::Plane;

use crate::bench::{Bench, CANCELLED};

/// One lab per plane, iptables first.
#[derive(Debug)]
pub struct Labs {
    pub benches: Vec<Bench>,
    /// Taken down when dropped.
    ours: Vec<LabName>,
}

/// Why there are no labs to trace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All that failed; what came up is gone again.
    #[error("bring up labs")]
    Up(#[source] Box<UpError>),
    #[error("bring up lab {0}: the manifests have errors")]
    Manifests(LabName, Vec<Problem>),
    #[error("open lab {name} (a pair comes from: twinplane lab up --dataplane both --name {pair})")]
    Open {
        name: LabName,
        pair: LabName,
        #[source]
        source: Box<lab::Error>,
    },
    #[error("name the lab of the {plane} plane after {pair}: the name gets too long")]
    Name { pair: LabName, plane: Plane },
    #[error("open lab {name}: it runs the {found} plane, not {wanted}")]
    Plane { name: LabName, found: Plane, wanted: Plane },
    #[error("find this program's own file")]
    Program(#[source] std::io::Error),
}

/// What both labs are to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pair: LabName,
    pub manifests: Vec<Manifest>,
    pub health_check: HealthCheckTiming,
}

impl Labs {
    /// Brings both labs up at once.
    ///
    /// # Errors
    /// Either fails; the other one is taken down again.
    pub fn up(plan: &Plan, progress: &dyn Progress) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::Program)?;
        let names = names(&plan.pair)?;
        let options = Plane::ALL.into_iter().zip(&names).map(|(plane, name)| Options {
            group: Some(plan.pair.clone()),
            manifests: plan.manifests.clone(),
            health_check: plan.health_check,
            ..Options::new(name.clone(), plane)
        });
        let options = options.collect::<Vec<_>>();
        let together = Together { progress, failures: Mutex::default() };
        // Made first, so that whatever fails, what came up goes down.
        let mut labs = Self { benches: vec![], ours: vec![] };
        let results = thread::scope(|scope| {
            let runs = options.iter().map(|options| scope.spawn(|| together.up(options))).collect::<Vec<_>>();
            let joined = runs.into_iter().map(|run| run.join());
            joined.map(|run| run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
        });
        let mut refused = None;
        for up in results.into_iter().flatten() {
            labs.ours.push(up.lab.name().clone());
            if !up.problems.is_empty() {
                refused = Some(Error::Manifests(up.lab.name().clone(), up.problems));
            }
            labs.benches.push(Bench::new(up.lab, program.clone()));
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        match together.cause() {
            Some(cause) => Err(Error::Up(Box::new(cause))),
            None => Ok(labs),
        }
    }

    /// Uses the pair of running labs called `NAME-iptables` and `NAME-ebpf`.
    ///
    /// # Errors
    /// Either does not exist, or runs another plane than its name says.
    pub fn open(pair: &LabName) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::Program)?;
        let open = |(wanted, name): (Plane, LabName)| {
            let failed =
                |error| Error::Open { name: name.clone(), pair: pair.clone(), source: Box::new(error) };
            let lab = Lab::open(&name).map_err(failed)?;
            match lab.topology().plane {
                found if found != wanted => Err(Error::Plane { name, found, wanted }),
                _ => Ok(Bench::new(lab, program.clone())),
            }
        };
        let benches = Plane::ALL.into_iter().zip(names(pair)?).map(open).collect::<Result<_, _>>()?;
        Ok(Self { benches, ours: vec![] })
    }

    /// Leaves the labs running when this is dropped.
    pub fn keep(&mut self) {
        self.ours.clear();
    }

    /// Whether they outlive this run.
    pub fn outlive(&self) -> bool {
        self.ours.is_empty()
    }
}

impl Drop for Labs {
    fn drop(&mut self) {
        thread::scope(|scope| {
            for name in &self.ours {
                scope.spawn(move || {
                    if let Err(error) = remove::remove(name) {
                        eprintln!("error: {error}\n\n  try again with: twinplane lab down --name {name}");
                    }
                });
            }
        });
    }
}

/// Labs that come up at once: when one fails, the other is called off.
struct Together<'a> {
    progress: &'a dyn Progress,
    /// In the order they happened: the first is the cause.
    failures: Mutex<Vec<UpError>>,
}

impl Together<'_> {
    fn up(&self, options: &Options) -> Option<Up> {
        match Lab::up(options, self) {
            Ok(up) => Some(up),
            Err(error) => {
                self.failures().push(error);
                None
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, Vec<UpError>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cause(self) -> Option<UpError> {
        self.failures.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().next()
    }
}

impl Progress for Together<'_> {
    fn step(&self, lab: &LabName, step: &str) {
        self.progress.step(lab, step);
    }

    fn waiting(&self, lab: &LabName, what: &str) {
        self.progress.waiting(lab, what);
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled() || !self.failures().is_empty()
    }
}

fn names(pair: &LabName) -> Result<[LabName; 2], Error> {
    let name = |plane| {
        LabName::new(format!("{pair}-{plane}")).map_err(|_| Error::Name { pair: pair.clone(), plane })
    };
    Ok([name(Plane::Iptables)?, name(Plane::Ebpf)?])
}

/// Steps as lines with the seconds since the start.
#[derive(Debug)]
pub struct Lines {
    begun: Instant,
}

impl Lines {
    pub fn new() -> Self {
        Self { begun: Instant::now() }
    }

    pub fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Lines {
    fn step(&self, lab: &LabName, step: &str) {
        self.say(&format!("{lab}: {step}"));
    }

    fn waiting(&self, _lab: &LabName, _what: &str) {}

    fn cancelled(&self) -> bool {
        CANCELLED.load(std::sync::atomic::Ordering::Relaxed)
    }
}
