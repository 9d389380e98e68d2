//! Fair shares: how many replicas of a collection each node should hold, given weights, and that no node holds two replicas of
//! a shard and no zone more of them than it must. Called by `placement`.

use super::Node;
use std::collections::BTreeMap;

/// The least number of replicas of a shard that some zone must hold, when `copies` of them are spread over the zones as evenly as
/// their nodes allow.
pub(super) fn zone_max(nodes: &[Node], copies: usize) -> usize {
    let sizes: Vec<usize> = zones(nodes).values().map(Vec::len).collect();
    let room = |level: usize| sizes.iter().map(|size| level.min(*size)).sum::<usize>();
    (1..copies).find(|level| room(*level) >= copies).unwrap_or(copies)
}

/// The share of each node in `replicas` replicas of `shards` shards; 0 of those without one. They are proportional to weight
/// as far as the bounds allow, between zones first and then within each.
pub(super) fn shares(nodes: &[Node], zone_max: usize, shards: usize, replicas: usize) -> Vec<f64> {
    let zones: Vec<Vec<usize>> = zones(nodes).into_values().collect();
    let weight = |node: &usize| f64::from(nodes[*node].weight);
    let bins = zones.iter().map(|members| Bin {
        weight: members.iter().map(weight).sum(),
        size: (shards * zone_max.min(members.len())) as f64,
    });
    let by_zone = pour(replicas as f64, &bins.collect::<Vec<_>>());
    let mut shares = vec![0.0; nodes.len()];
    for (members, amount) in zones.iter().zip(by_zone) {
        let bins: Vec<Bin> = members.iter().map(|node| Bin { weight: weight(node), size: shards as f64 }).collect();
        for (node, share) in members.iter().zip(pour(amount, &bins)) {
            shares[*node] = share;
        }
    }
    shares
}

/// The nodes that have a share, by zone.
fn zones(nodes: &[Node]) -> BTreeMap<usize, Vec<usize>> {
    let mut zones: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, node) in nodes.iter().enumerate().filter(|(_, node)| node.has_share()) {
        zones.entry(node.zone).or_default().push(place);
    }
    zones
}

struct Bin {
    weight: f64,
    size: f64,
}

/// Pours `amount` into bins in proportion to their weights; what a full bin cannot take goes to the others. What no bin can take
/// is left out.
fn pour(amount: f64, bins: &[Bin]) -> Vec<f64> {
    let mut poured = vec![0.0; bins.len()];
    let mut open: Vec<usize> = (0..bins.len()).collect();
    let mut left = amount;
    loop {
        let weight: f64 = open.iter().map(|bin| bins[*bin].weight).sum();
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|bin| left * bins[**bin].weight / weight >= bins[**bin].size);
        if full.is_empty() {
            rest.iter().for_each(|bin| poured[*bin] = left * bins[*bin].weight / weight);
            return poured;
        }
        for bin in full {
            poured[bin] = bins[bin].size;
            left -= bins[bin].size;
        }
        open = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::*;

    fn nodes(zones_and_weights: &[(usize, u32)]) -> Vec<Node> {
        let node = |(id, (zone, weight)): (u64, &(usize, u32))| Node {
            id,
            zone: *zone,
            weight: *weight,
            standing: Standing::Active,
        };
        (1..).zip(zones_and_weights).map(node).collect()
    }

    #[test]
    fn zones_hold_no_more_than_they_must() {
        let of = |zones: &[usize]| nodes(&zones.iter().map(|zone| (*zone, 1)).collect::<Vec<_>>());
        assert_eq!(zone_max(&of(&[0, 1, 2, 2]), 3), 1);
        assert_eq!(zone_max(&of(&[0, 1, 1]), 3), 2, "two zones, three copies");
        assert_eq!(zone_max(&of(&[0, 0, 0]), 3), 3);
        assert_eq!(zone_max(&of(&[0, 1, 1, 1]), 4), 3, "the small zone cannot hold more than one");
    }

    #[test]
    fn shares_follow_weights_within_bounds() {
        assert_eq!(shares(&nodes(&[(0, 1), (0, 1), (0, 2)]), 1, 8, 8), [2.0, 2.0, 4.0]);
        assert_eq!(shares(&nodes(&[(0, 1), (0, 1), (0, 9)]), 2, 8, 16), [4.0, 4.0, 8.0], "no more than every shard");
        let lonely = shares(&nodes(&[(0, 1), (1, 1), (1, 1), (2, 1)]), 1, 12, 36);
        assert_eq!(lonely, [12.0, 6.0, 6.0, 12.0], "each zone holds every shard");
        assert_eq!(shares(&nodes(&[(0, 1)]), 1, 4, 12), [4.0], "what has no place is left out");
        assert_eq!(shares(&[], 1, 4, 12), [0.0; 0]);
    }
}
