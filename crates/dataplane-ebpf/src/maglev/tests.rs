//! Shares, agreement and disruption of lookup tables.

use std::collections::BTreeSet;

use abi::{Be16, V4, V6};
use proptest::prelude::*;

use super::*;

const SIZE: u32 = 1021;

fn pods(count: usize) -> Vec<u64> {
    let pod = |index: usize| Backend {
        address: V4::from_ip([10, 20, (index / 100) as u8, (index % 100) as u8].into()).expect("v4"),
        port: Be16::new(8080),
        flags: 0,
    };
    (0..count).map(|index| name(&pod(index))).collect()
}

/// Of the entries that neither led to `gone` nor have to, how many lead elsewhere.
fn moved(before: &[u64], after: &[u64], size: TableSize) -> (usize, usize) {
    let lead = |names: &[u64]| -> Vec<u64> {
        table(names, size).into_iter().map(|position| names[usize::from(position)]).collect()
    };
    let kept = lead(before)
        .into_iter()
        .zip(lead(after))
        .filter(|(old, new)| after.contains(old) && before.contains(new));
    kept.fold((0, 0), |(moved, all), (old, new)| (moved + usize::from(old != new), all + 1))
}

proptest! {
    #[test]
    fn shares_differ_by_one_at_most(names in prop::collection::btree_set(any::<u64>(), 1..300)) {
        let names: Vec<u64> = names.into_iter().collect();
        let entries = table(&names, TableSize::default());
        prop_assert_eq!(entries.len(), SIZE as usize);
        let mut shares = vec![0usize; names.len()];
        for position in entries {
            shares[usize::from(position)] += 1;
        }
        let (least, most) = (shares.iter().min().expect("one"), shares.iter().max().expect("one"));
        prop_assert!(most - least <= 1, "{} to {}", least, most);
    }

    /// What is decided is who, not in which order they are listed: but positions follow the list.
    #[test]
    fn one_backend_less_leaves_nearly_all_others_where_they_were(
        names in prop::collection::btree_set(any::<u64>(), 3..120),
        gone in any::<prop::sample::Index>(),
    ) {
        let before: Vec<u64> = names.into_iter().collect();
        let mut after = before.clone();
        after.remove(gone.index(before.len()));
        let (moved, all) = moved(&before, &after, TableSize::default());
        prop_assert!(moved * 4 <= all, "{} of {} with {} backends", moved, all, before.len());
    }

    #[test]
    fn every_prime_and_nothing_else_is_a_size(size in 0u32..200_000) {
        let prime = size > 1 && (2..size).take_while(|f| f * f <= size).all(|f| size % f != 0);
        let fits = (TableSize::MIN..=TableSize::MAX).contains(&size);
        prop_assert_eq!(TableSize::new(size).is_ok(), prime && fits);
    }
}

/// The figures of `ARCHITECTURE.md`: printed with `--nocapture`, and bounded.
#[test]
fn disruption_is_small() {
    for (count, size, bound) in [(3, 1021, 0.02), (10, 1021, 0.05), (100, 1021, 0.12), (100, 16_381, 0.03)] {
        let (names, size) = (pods(count + 1), TableSize::new(size).expect("prime"));
        let (mut changed, mut all) = (0, 0);
        for gone in 0..=count {
            let mut rest = names.clone();
            rest.remove(gone);
            let one = moved(&names, &rest, size);
            (changed, all) = (changed + one.0, all + one.1);
        }
        let share = changed as f64 / all as f64;
        println!(
            "{count} backends and one more or less, {} entries: {:.2} % move needlessly",
            size.get(),
            share * 100.0
        );
        assert!(share < bound, "{count} backends of {}: {share}", size.get());
    }
}

#[test]
fn few_names_more_names_and_none() {
    let size = TableSize::new(251).expect("prime");
    assert!(table(&[], size).is_empty());
    assert_eq!(table(&[7], size), vec![0; 251]);
    let many = table(&pods(400), size);
    assert_eq!(many.iter().collect::<BTreeSet<_>>().len(), 251, "the first ones have an entry each");
}

#[test]
fn sizes_are_primes_in_range() {
    for size in [251, 1021, 65_521, 131_071] {
        assert_eq!(size.to_string().parse::<TableSize>().map(TableSize::get), Ok(size));
    }
    for (text, said) in [("1020", "want a prime from 251"), ("2", "want a prime"), ("many", "invalid digit")]
    {
        let error = text.parse::<TableSize>().expect_err(text);
        assert!(error.contains(said), "{error}");
    }
}

/// Two nodes of different byte order would agree: the numbers are pinned.
#[test]
fn hashes_are_the_same_everywhere() {
    let v4 = V4::from_ip([198, 51, 100, 10].into()).expect("v4");
    let v6 = V6::from_ip("2001:db8:c::10".parse().expect("ip")).expect("v6");
    let found = [
        abi::maglev::hash(v4, 50_000 << 16 | 80, 6),
        abi::maglev::hash(v4, 50_001 << 16 | 80, 6),
        abi::maglev::hash(v6, 50_000 << 16 | 80, 6),
    ];
    assert_eq!(found, [1_937_203_206, 2_015_375_367, 3_306_697_186]);
}

/// Clients of neighbouring addresses and ports spread over a table's entries as chance would have it.
#[test]
fn neighbouring_flows_spread() {
    const BUCKETS: usize = 64;
    let check = |what: &str, hashes: Vec<u32>| {
        let mut buckets = [0u32; BUCKETS];
        for hash in &hashes {
            buckets[abi::maglev::scale(*hash, BUCKETS as u32) as usize] += 1;
        }
        let mean = hashes.len() as f64 / BUCKETS as f64;
        let squares: f64 = buckets.iter().map(|count| (f64::from(*count) - mean).powi(2) / mean).sum();
        // 63 degrees of freedom: above 120 by chance in one of 50,000.
        assert!(squares < 120.0, "{what}: chi squared {squares}");
    };
    let client = |low: u32| V4::from_ip(std::net::Ipv4Addr::from(0xc633_6400 + low).into()).expect("v4");
    check(
        "ports",
        (0..6400).map(|port| abi::maglev::hash(client(10), (40_000 + port) << 16 | 80, 6)).collect(),
    );
    check(
        "even ports",
        (0..6400).map(|port| abi::maglev::hash(client(10), (32_768 + 2 * port) << 16 | 80, 6)).collect(),
    );
    check("clients", (0..6400).map(|low| abi::maglev::hash(client(low), 0, 6)).collect());
    let v6 = |low: u32| {
        V6::from_ip(std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)).into()).expect("v6")
    };
    check("v6 clients", (0..6400).map(|low| abi::maglev::hash(v6(low), 0, 6)).collect());
    let subnet = |high: u32| {
        V6::from_ip(std::net::Ipv6Addr::from((0x2001_0db8_u128 << 32 | u128::from(high)) << 64 | 1).into())
            .expect("v6")
    };
    check("v6 networks", (0..6400).map(|high| abi::maglev::hash(subnet(high), 0, 6)).collect());
}
