//! Lists that depend on pods, because their rules name ports of destinations.

use super::{Compiler, list::Naming, pods::Stir};

impl Compiler {
    /// Lists whose rows may be others because of the pods that came, went or changed.
    pub(super) fn note_named(&mut self) {
        let concerned = match std::mem::take(&mut self.dirty.stir) {
            Stir::Nothing => return,
            Stir::Addresses => Naming::Addressed,
            Stir::Ports => Naming::Selected,
        };
        let lists = self.lists.iter().filter(|(_, list)| list.naming >= concerned);
        self.dirty.lists.extend(lists.map(|(id, _)| *id));
    }
}
