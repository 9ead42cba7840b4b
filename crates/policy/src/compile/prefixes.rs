//! Prefixes that rules name, with identities local to the node, and which of them each block covers. Pure.
//!
//! Borders of blocks and of holes are both prefixes of the scope, so that whatever has one prefix as its longest is wholly
//! inside or wholly outside of every block.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry};

use ipnet::IpNet;
use model::IdentityId;

use crate::{
    mutation::{Bug, made},
    spec::Block,
};

/// A block that rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlockId(u32);

#[derive(Debug)]
struct Known {
    block: Block,
    members: BTreeSet<IdentityId>,
    uses: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    all: BTreeMap<IpNet, (IdentityId, usize)>,
    by_id: BTreeMap<IdentityId, IpNet>,
    by_block: HashMap<Block, BlockId>,
    blocks: BTreeMap<BlockId, Known>,
    next_block: u32,
    next_id: u32,
    /// Prefixes that have identities from an earlier process.
    kept: BTreeMap<IpNet, IdentityId>,
    /// Blocks that a prefix entered or left.
    moved: Vec<(BlockId, IdentityId)>,
    /// Prefixes that came or went, with what they are now.
    changed: BTreeMap<IpNet, Option<IdentityId>>,
}

impl Prefixes {
    /// Numbers begin at `first`, so that none is taken that an earlier process gave and the kernel still has; prefixes in `kept`
    /// get theirs again.
    pub(super) fn beginning_at(first: u32, kept: BTreeMap<IpNet, IdentityId>) -> Self {
        Self { next_id: first, kept, ..Self::default() }
    }

    /// The block's id, to be released as often as it is acquired.
    pub(super) fn acquire(&mut self, block: &Block) -> BlockId {
        if let Some(id) = self.by_block.get(block) {
            if let Some(known) = self.blocks.get_mut(id) {
                known.uses += 1;
            }
            return *id;
        }
        for prefix in std::iter::once(&block.cidr).chain(&block.except) {
            self.acquire_prefix(*prefix);
        }
        let id = BlockId(self.next_block);
        self.next_block += 1;
        let inside = self.all.iter().filter(|(prefix, _)| covers(block, prefix));
        let members = inside.map(|(_, (id, _))| *id).collect();
        self.by_block.insert(block.clone(), id);
        self.blocks.insert(id, Known { block: block.clone(), members, uses: 1 });
        id
    }

    pub(super) fn release(&mut self, id: BlockId) {
        let Some(known) = self.blocks.get_mut(&id) else { return };
        known.uses -= 1;
        if known.uses > 0 {
            return;
        }
        if let Some(Known { block, .. }) = self.blocks.remove(&id) {
            for prefix in std::iter::once(&block.cidr).chain(&block.except) {
                self.release_prefix(prefix);
            }
            self.by_block.remove(&block);
        }
    }

    /// The identity of whatever has `prefix` as its longest.
    pub(super) fn acquire_prefix(&mut self, prefix: IpNet) -> IdentityId {
        let id = match self.all.entry(prefix) {
            Entry::Occupied(mut known) => {
                let (id, uses) = known.get_mut();
                *uses += 1;
                return *id;
            }
            Entry::Vacant(free) => {
                let id = self.kept.remove(&prefix).unwrap_or_else(|| {
                    while self.by_id.contains_key(&IdentityId::local(self.next_id)) {
                        self.next_id = self.next_id.wrapping_add(1);
                    }
                    let id = IdentityId::local(self.next_id);
                    self.next_id = self.next_id.wrapping_add(1);
                    id
                });
                free.insert((id, 1)).0
            }
        };
        self.by_id.insert(id, prefix);
        self.changed.insert(prefix, Some(id));
        for (block, known) in &mut self.blocks {
            if covers(&known.block, &prefix) && known.members.insert(id) {
                self.moved.push((*block, id));
            }
        }
        id
    }

    pub(super) fn release_prefix(&mut self, prefix: &IpNet) {
        let Some((id, uses)) = self.all.get_mut(prefix) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let id = *id;
        self.all.remove(prefix);
        self.by_id.remove(&id);
        self.changed.insert(*prefix, None);
        for (block, known) in &mut self.blocks {
            if known.members.remove(&id) {
                self.moved.push((*block, id));
            }
        }
    }

    /// Prefixes within the block and none of its holes.
    pub(super) fn members(&self, id: BlockId) -> impl Iterator<Item = IdentityId> {
        self.blocks.get(&id).into_iter().flat_map(|known| known.members.iter().copied())
    }

    pub(super) fn matches(&self, id: BlockId, prefix: IdentityId) -> bool {
        self.blocks.get(&id).is_some_and(|known| known.members.contains(&prefix))
    }

    pub(super) fn block(&self, id: BlockId) -> Option<&Block> {
        self.blocks.get(&id).map(|known| &known.block)
    }

    pub(super) fn take_moved(&mut self) -> Vec<(BlockId, IdentityId)> {
        std::mem::take(&mut self.moved)
    }

    pub(super) fn take_changed(&mut self) -> BTreeMap<IpNet, Option<IdentityId>> {
        std::mem::take(&mut self.changed)
    }
}

fn covers(block: &Block, prefix: &IpNet) -> bool {
    if made(Bug::ExceptIgnored) {
        return block.cidr.contains(prefix);
    }
    if made(Bug::LongerPrefixInheritsNothing) {
        return block.cidr == *prefix;
    }
    block.contains(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("prefix")
    }

    #[test]
    fn a_longer_prefix_is_in_all_blocks_that_contain_it_but_not_through_their_holes() {
        let mut prefixes = Prefixes::default();
        let wide = prefixes.acquire(&Block { cidr: net("10.0.0.0/8"), except: vec![net("10.1.0.0/16")] });
        let narrow = prefixes.acquire(&Block { cidr: net("10.1.2.0/24"), except: vec![] });
        let id = |prefixes: &Prefixes, text| prefixes.all[&net(text)].0;
        let (hole, inner) = (id(&prefixes, "10.1.0.0/16"), id(&prefixes, "10.1.2.0/24"));
        assert!(!prefixes.matches(wide, hole) && !prefixes.matches(wide, inner));
        assert!(prefixes.matches(narrow, inner) && !prefixes.matches(narrow, hole));
        let other = prefixes.acquire(&Block { cidr: net("10.2.0.0/16"), except: vec![] });
        let inner = id(&prefixes, "10.2.0.0/16");
        assert_eq!(prefixes.take_moved(), [(wide, inner)]);
        prefixes.release(other);
        assert_eq!(prefixes.take_moved(), [(wide, inner)], "who is not asked for any more is not told");
    }

    #[test]
    fn what_is_released_as_often_as_acquired_is_gone() {
        let mut prefixes = Prefixes::beginning_at(7, [(net("10.0.0.0/8"), IdentityId::local(3))].into());
        let block = Block { cidr: net("fd00::/8"), except: vec![net("fd20::/16")] };
        let ids = [prefixes.acquire(&block), prefixes.acquire(&block)];
        assert_eq!(prefixes.all[&block.cidr].0, IdentityId::local(7));
        ids.into_iter().for_each(|id| prefixes.release(id));
        assert!(prefixes.all.is_empty() && prefixes.by_id.is_empty() && prefixes.blocks.is_empty());
        prefixes.acquire(&block);
        assert_eq!(prefixes.all[&block.cidr].0, IdentityId::local(9), "numbers are not given again");
        let earlier = Block { cidr: net("10.0.0.0/8"), except: vec![] };
        let id = prefixes.acquire(&earlier);
        assert_eq!(prefixes.all[&earlier.cidr].0, IdentityId::local(3), "as an earlier process gave it");
        prefixes.release(id);
        prefixes.acquire(&earlier);
        assert_eq!(prefixes.all[&earlier.cidr].0, IdentityId::local(11), "once");
    }
}
