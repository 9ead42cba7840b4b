//! Lists that depend on pods, because their rules name ports of destinations.

use ipnet::IpNet;

use super::{Compiler, pods::Stir, policies::Source};

impl Compiler {
    /// Lists whose rows may be others because of the pods that came, went or changed.
    pub(super) fn note_named(&mut self) {
        let stir = std::mem::take(&mut self.dirty.stir);
        if stir.is_empty() {
            return;
        }
        let concerned = |sources: &[Source]| sources.iter().any(|source| self.is_stirred(*source, &stir));
        let lists = self.lists.iter().filter(|(_, list)| concerned(&list.naming)).map(|(id, _)| *id);
        let lists: Vec<_> = lists.collect();
        self.dirty.lists.extend(lists);
    }

    fn is_stirred(&self, source: Source, stir: &Stir) -> bool {
        match source {
            Source::Anyone | Source::Pods => !stir.identities.is_empty(),
            Source::Selected(matcher) => stir.identities.iter().any(|id| self.matchers.matches(matcher, *id)),
            Source::Block(block) => {
                let block = self.prefixes.block(block);
                let within = |address| block.is_some_and(|block| block.contains(&IpNet::from(address)));
                stir.addresses.iter().any(|address| within(*address))
            }
        }
    }
}
