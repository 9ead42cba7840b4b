//! Identities by prefix, the longest of those that hold an address being right. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

/// A table with few lengths: a lookup costs one probe for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prefixes {
    rows: HashMap<IpNet, u32>,
    /// How many rows each length has, the longest first.
    lengths: BTreeMap<Reverse<u8>, usize>,
}

impl Prefixes {
    /// `None` takes the prefix out.
    pub(crate) fn set(&mut self, prefix: IpNet, identity: Option<u32>) {
        let (prefix, length) = (prefix.trunc(), Reverse(prefix.prefix_len()));
        let before = match identity {
            Some(identity) => self.rows.insert(prefix, identity),
            None => self.rows.remove(&prefix),
        };
        match (before, identity) {
            (None, Some(_)) => *self.lengths.entry(length).or_default() += 1,
            (Some(_), None) => {
                let count = self.lengths.entry(length).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn get(&self, address: IpAddr) -> Option<u32> {
        self.lengths.keys().find_map(|Reverse(length)| {
            // Lengths of the other family that this one cannot have.
            let prefix = IpNet::new(address, *length).ok()?;
            self.rows.get(&prefix.trunc()).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_right_in_both_families() {
        let mut table = Prefixes::default();
        let rows = [
            ("0.0.0.0/0", 9),
            ("::/0", 10),
            ("10.20.0.0/16", 3),
            ("10.20.0.7/32", 300),
            ("fd20::/48", 3),
            ("fd20::7/128", 300),
        ];
        for (prefix, identity) in rows {
            table.set(prefix.parse().expect(prefix), Some(identity));
        }
        let found = |table: &Prefixes, address: &str| table.get(address.parse().expect(address));
        for (address, identity) in [
            ("192.0.2.1", 9),
            ("2001:db8::1", 10),
            ("10.20.0.8", 3),
            ("10.20.0.7", 300),
            ("fd20::8", 3),
            ("fd20::7", 300),
        ] {
            assert_eq!(found(&table, address), Some(identity), "{address}");
        }
        table.set("10.20.0.7/32".parse().expect("prefix"), Some(301));
        assert_eq!(found(&table, "10.20.0.7"), Some(301));
        for (prefix, _) in rows {
            table.set(prefix.parse().expect(prefix), None);
            table.set(prefix.parse().expect(prefix), None);
        }
        assert_eq!((found(&table, "10.20.0.7"), table.rows.len(), table.lengths.len()), (None, 0, 0));
    }
}
