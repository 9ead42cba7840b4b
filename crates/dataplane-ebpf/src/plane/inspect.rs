//! A look at what the plane has put into the kernel, and a run of its programs by hand. Changes nothing.

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions, TestRunResult},
};
use dataplane::Error;
use model::{Family, ServicePortId};

use super::EbpfDataplane;
use crate::{
    events::Events,
    objects::{self, Object},
    report, xdp,
};

impl EbpfDataplane {
    /// The reading end of what the datapath tells of flows.
    ///
    /// # Errors
    /// The maps cannot be opened.
    pub fn events(&self) -> Result<Events, Error> {
        Events::open(&self.pins.maps())
    }

    /// The rows that a Service port has in the maps, in the order the datapath reads them: `MAP key => value`.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn dump_service_rows(&self, id: &ServicePortId) -> Result<Vec<String>, Error> {
        match id.family {
            Family::V4 => report::raw_rows(&self.tables.v4, id),
            Family::V6 => report::raw_rows(&self.tables.v6, id),
        }
    }

    /// Runs one of the plane's programs on a packet, without sending anything (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the packet.
    pub fn test_run(&mut self, program: &str, options: TestRunOptions<'_>) -> Result<TestRunResult, Error> {
        if program == xdp::PROGRAM {
            let accelerator = self.accelerator.as_mut();
            let accelerator = accelerator.ok_or_else(|| Error::new("run program", program, "xdp is off"))?;
            let run = accelerator.program()?.test_run(options);
            return run.map_err(|error| Error::new("run program", program, error));
        }
        let ebpf = if Object::Pod.programs().contains(&program) { &mut self.pod } else { &mut self.uplink };
        let classifier: &mut SchedClassifier = objects::classifier(ebpf, program)?;
        classifier.test_run(options).map_err(|error| Error::new("run program", program, error))
    }

    /// The benchmark's programs over this plane's own maps.
    ///
    /// # Errors
    /// As for [`Self::open`].
    #[doc(hidden)]
    pub fn load_bench(&self) -> Result<Ebpf, Error> {
        objects::load(Object::Bench, &self.pins.maps(), &self.sizes, self.summed)
    }

    /// The clock that entries are stamped with, in jiffies.
    pub(super) fn now(&self) -> Result<u32, Error> {
        let program: &SchedClassifier = self
            .pod
            .program("clock")
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::new("find program", "clock", "not in its object"))?;
        let packet = [0u8; 64];
        let options = TestRunOptions { data_in: Some(&packet), ..Default::default() };
        let run = program.test_run(options).map_err(|error| Error::new("run program", "clock", error))?;
        Ok(run.return_value)
    }
}
