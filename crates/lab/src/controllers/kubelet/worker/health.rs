//! The probes of a pod's containers, and what their findings do.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::{
    super::{
        super::events::Note,
        image,
        probe::{self, Finding, Kind, Schedule},
        state::{Sandbox, State},
    },
    Worker, spec_of,
};

impl Worker {
    /// Starts the probes of a container that was started.
    pub(super) fn watch(&mut self, spec: &Spec, listens: Option<u16>) {
        self.unwatch(&spec.name);
        if let Some(startup) = &spec.startup_probe {
            let address = self.record.addresses().first().copied();
            let schedule = Schedule::of(startup, spec, address);
            return self.ask(spec, Kind::Startup, schedule, false);
        }
        self.watch_started(spec, listens);
    }

    fn watch_started(&mut self, spec: &Spec, listens: Option<u16>) {
        let address = self.record.addresses().first().copied();
        if let Some(liveness) = &spec.liveness_probe {
            self.ask(spec, Kind::Liveness, Schedule::of(liveness, spec, address), false);
        }
        match (&spec.readiness_probe, address, listens) {
            (Some(probe), _, _) => self.ask(spec, Kind::Readiness, Schedule::of(probe, spec, address), false),
            (None, Some(address), Some(port)) => {
                self.ask(spec, Kind::Readiness, Schedule::accepts(SocketAddr::new(address, port)), true);
            }
            // Nothing to wait for.
            (None, _, _) => self.set_ready(&spec.name, true),
        }
    }

    fn ask(&mut self, spec: &Spec, kind: Kind, schedule: Schedule, once: bool) {
        let Sandbox::Ready { netns, .. } = &self.record.sandbox else { return };
        let about = (spec.name.clone(), kind);
        let asking = probe::keep_asking(schedule, netns.clone(), once, about, self.findings.0.clone());
        self.probes.entry(spec.name.clone()).or_default().push(tokio::spawn(asking).abort_handle());
    }

    pub(super) fn unwatch(&mut self, container: &str) {
        for probe in self.probes.remove(container).into_iter().flatten() {
            probe.abort();
        }
    }

    fn set_ready(&mut self, container: &str, ready: bool) {
        if let Some(container) = self.record.containers.get_mut(container) {
            container.ready = ready && matches!(container.state, State::Running { .. });
        }
    }

    pub(super) async fn found(&mut self, finding: Finding, pod: Option<&Pod>) {
        let Some(pod) = pod else { return };
        let Some(spec) = spec_of(pod, &finding.container) else { return };
        if let Some(failure) = &finding.failure {
            let message = format!("{:?} probe failed: {failure}", finding.kind);
            self.note(pod, &finding.container, Note::warning("Unhealthy", message)).await;
        }
        match (finding.kind, finding.good) {
            (_, None) | (Kind::Liveness, Some(true)) => {}
            (Kind::Readiness, Some(ready)) => self.set_ready(&finding.container, ready),
            (Kind::Startup, Some(true)) => {
                self.unwatch(&finding.container);
                let program = image::program(spec, &self.setting(pod, spec));
                self.watch_started(spec, program.ok().and_then(|program| program.listens));
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let probe = format!("{:?}", finding.kind).to_lowercase();
                let message =
                    format!("Container {} failed {probe} probe, will be restarted", finding.container);
                self.note(pod, &finding.container, Note::normal("Killing", message)).await;
                self.kill(&finding.container);
            }
        }
    }
}
