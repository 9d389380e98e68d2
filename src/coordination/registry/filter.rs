//! Which nodes somebody looks for. Called by `registry`.

use super::NodeRecord;
use std::collections::BTreeSet;

/// A node passes if it passes every part that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these.
    pub nodes: Option<BTreeSet<u64>>,
    /// All of these tags.
    pub tags: BTreeSet<String>,
    /// Exactly this version.
    pub version: Option<String>,
    /// Of this group.
    pub group: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// Of this mode.
    pub mode: Option<String>,
    /// A health score of at least this.
    pub health_min: u8,
}

impl Filter {
    /// Whether `node` passes.
    pub fn passes(&self, node: &NodeRecord) -> bool {
        let is = |wanted: &Option<String>, got: &String| wanted.as_ref().is_none_or(|wanted| wanted == got);
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(&node.node))
            && self.tags.is_subset(&node.tags)
            && is(&self.version, &node.version)
            && is(&self.group, &node.group)
            && is(&self.zone, &node.zone)
            && is(&self.mode, &node.mode)
            && node.health.score >= self.health_min
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;

    #[test]
    fn every_part_must_hold() {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let node = NodeRecord {
            node: 3,
            tags: texts(&["gpu", "ssd"]),
            version: "1.2.0".into(),
            group: "blue".into(),
            health: Health { score: 60, reasons: Vec::new() },
            ..NodeRecord::default()
        };
        let any = Filter::default();
        let passing = [
            any.clone(),
            Filter { tags: texts(&["ssd"]), ..any.clone() },
            Filter { version: Some("1.2.0".into()), group: Some("blue".into()), health_min: 60, ..any.clone() },
            Filter { nodes: Some([2, 3].into()), ..any.clone() },
        ];
        let failing = [
            Filter { tags: texts(&["ssd", "hdd"]), ..any.clone() },
            Filter { version: Some("1.2.1".into()), ..any.clone() },
            Filter { group: Some("green".into()), ..any.clone() },
            Filter { zone: Some("a".into()), ..any.clone() },
            Filter { mode: Some("gateway".into()), ..any.clone() },
            Filter { health_min: 61, ..any.clone() },
            Filter { nodes: Some([2].into()), ..any },
        ];
        assert!(passing.iter().all(|filter| filter.passes(&node)));
        assert!(failing.iter().all(|filter| !filter.passes(&node)));
    }
}
