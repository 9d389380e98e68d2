//! What administrators are refused.

use super::*;
use crate::cluster::{SelfTold, plan::NodeView};

#[test]
fn nothing_is_moved_by_hand_to_a_node_that_holds_all_it_can() {
    let name = |text: &str| CollectionName::new(text).unwrap();
    let node = |id| {
        let record = MemberRecord::joined(SelfTold::default(), 0, true);
        (id, NodeView { record, away: Duration::ZERO, report: Arc::default() })
    };
    let mut view = View { nodes: [1, 2, 3].map(node).into(), ..View::default() };
    view.table.add_collection(&name("full"), Some(1), &vec![vec![2]; limits::SHARDS_PER_NODE_MAX]);
    view.table.add_collection(&name("t"), Some(1), &[vec![1]]);
    let shard = limits::SHARDS_PER_NODE_MAX as ShardId + 1;
    assert_eq!(check_transfer(&view, shard, 1, 2).unwrap_err().code(), "too_many_shards_here");
    assert_eq!(check_transfer(&view, shard, 1, 3).unwrap_err().code(), "shard_without_leader", "there is room");
}
