//! Tables against what is asked of them: shares follow the weights, and little moves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HASHES: u64 = 20_000;

const BOTH: [BalancingPolicy; 2] = [BalancingPolicy::RingHash, BalancingPolicy::Maglev];

fn table(policy: BalancingPolicy, targets: &[(u64, u32)], previous: Option<&HashTable>) -> HashTable {
    let identities = targets.iter().map(|(number, _)| mix(*number)).collect();
    let weights = targets.iter().map(|(_, weight)| *weight).collect();
    HashTable::of(policy, identities, weights, previous).expect("a table")
}

/// The number of the target of each hash.
fn all(table: &HashTable, targets: &[(u64, u32)]) -> Vec<u64> {
    let find = |hash| targets[table.find(mix(hash), |_| true).expect("a target")].0;
    (0..HASHES).map(find).collect()
}

fn shares(found: &[u64]) -> BTreeMap<u64, u64> {
    let mut shares = BTreeMap::new();
    for target in found {
        *shares.entry(*target).or_default() += 1;
    }
    shares
}

fn targets() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let target = (0..1_000_000_u64, prop_oneof![1 => Just(0_u32), 6 => 1..6_u32]);
    proptest::collection::btree_map(0..1_000_000_u64, target.prop_map(|(_, weight)| weight), 2..30)
        .prop_map(|targets| targets.into_iter().collect::<Vec<_>>())
        .prop_filter("one takes requests", |targets| targets.iter().filter(|(_, weight)| *weight > 0).count() > 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every target gets its share: of a table nearly to the letter, of a ring as its points fall.
    #[test]
    fn shares_follow_the_weights(targets in targets()) {
        let total: u64 = targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let heaviest = targets.iter().map(|(_, weight)| *weight).max().expect("there are some");
        for policy in BOTH {
            let shares = shares(&all(&table(policy, &targets, None), &targets));
            for (number, weight) in &targets {
                let got = shares.get(number).copied().unwrap_or_default();
                let right = HASHES * u64::from(*weight) / total;
                let error = (got as f64 - right as f64).abs();
                let points = 128 * *weight / heaviest.next_power_of_two();
                // Six standard deviations.
                let tolerance = if policy == BalancingPolicy::Maglev { 0.15 } else { 6.0 / f64::from(points.max(1)).sqrt() };
                prop_assert!(error <= tolerance * right as f64 + 60.0, "{policy:?}: {got} in place of {right}");
                prop_assert!(*weight > 0 || got == 0);
            }
        }
    }

    /// When a target goes, the others keep what they have: of a ring all of it, of a table nearly all.
    #[test]
    fn little_moves_when_a_target_comes_or_goes(targets in targets(), which in any::<prop::sample::Index>()) {
        // The heaviest stays, or else the weights mean something else.
        let heaviest = targets.iter().map(|(_, weight)| *weight).max();
        let which = which.index(targets.len());
        let is_other_heaviest = |(place, target): (usize, &(u64, u32))| place != which && Some(target.1) == heaviest;
        prop_assume!(targets.iter().enumerate().any(is_other_heaviest));
        let mut fewer = targets.clone();
        let (gone, _) = fewer.remove(which);
        for (policy, tolerance) in BOTH.into_iter().zip([0, HASHES / 10]) {
            let (with, without) =
                (all(&table(policy, &targets, None), &targets), all(&table(policy, &fewer, None), &fewer));
            let moved = with.iter().zip(&without).filter(|(with, without)| **with != gone && with != without).count();
            prop_assert!(moved as u64 <= tolerance, "{policy:?}: {moved} moved");
        }
    }

    /// Neither the order of the list nor what was there before makes a difference.
    #[test]
    fn a_table_depends_on_its_targets_alone(before in targets(), after in targets(), weight in 1..9_u32) {
        let mut more = after.clone();
        more.extend(before.iter().skip(1).filter(|(number, _)| after.iter().all(|(other, _)| other != number)));
        let mut other_weight = more.clone();
        other_weight[0].1 = weight;
        for policy in BOTH {
            let mut previous = table(policy, &before, None);
            for targets in [&after, &more, &other_weight, &before] {
                let next = table(policy, targets, Some(&previous));
                let reversed: Vec<_> = targets.iter().rev().copied().collect();
                prop_assert_eq!(all(&next, targets), all(&table(policy, &reversed, None), &reversed));
                previous = next;
            }
        }
    }

    /// What a target cannot take goes elsewhere, and nothing else moves; also where hardly any target will do.
    #[test]
    fn only_what_a_target_cannot_take_moves(targets in targets(), out in proptest::collection::vec(any::<bool>(), 30)) {
        let will_do = |target: usize| targets[target].1 > 0 && !out[target];
        for policy in BOTH {
            let table = table(policy, &targets, None);
            for hash in (0..2_000).map(mix) {
                let whole = table.find(hash, |_| true).expect("a target");
                match table.find(hash, will_do) {
                    Some(found) => prop_assert!(will_do(found) && (!will_do(whole) || found == whole)),
                    None => prop_assert!(!(0..targets.len()).any(will_do)),
                }
            }
            let last = (0..targets.len()).rfind(|target| targets[*target].1 > 0).expect("one with a weight");
            prop_assert_eq!(table.find(7, |target| target == last), Some(last));
        }
    }
}

#[test]
fn nobody_is_found_where_nobody_is() {
    for policy in BOTH {
        for targets in [&[][..], &[(1, 0)][..]] {
            assert_eq!(table(policy, targets, None).find(7, |_| true), None);
        }
    }
}

/// Of what is a fact about a released version: nodes of two versions must agree.
#[test]
fn hashes_stay_as_they_are() {
    assert_eq!(hash(b"user-1"), 0xf16d_8d44_0fbb_25d5);
    assert_eq!(identity(&"http://10.0.0.1:80".parse().expect("a target")), 0xe365_feea_4370_fed4);
}
