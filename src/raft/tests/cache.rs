//! What the groups of a node keep of their logs in memory together: bounded, however many they are, and given back at their end.

use super::ledger::Memo;
use super::*;
use futures_util::future::join_all;
use std::sync::Arc;

const GROUPS: u64 = 10;
const NODE_BYTES: usize = 64 << 10;

#[test]
fn all_groups_together_keep_no_more_of_their_logs_than_the_node_may() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = (open_log(directory.path()), Arc::from(directory.path()));
        let options = RaftOptions { cache_node_bytes_max: NODE_BYTES, ..options() };
        let raft = MultiRaft::start(NODE, log, None, Arc::new(Nobody), path, options);
        let mut groups = Vec::new();
        for group in 1..=GROUPS {
            groups.push(raft.open(group, &[NODE], Memo::default()).await.unwrap());
        }
        let mut most = 0;
        for _ in 0..50 {
            let written = join_all(groups.iter().map(|group| group.propose(Bytes::from(vec![0; 4 << 10])))).await;
            for written in written {
                written.unwrap();
            }
            most = most.max(raft.cached_bytes());
        }
        assert!(most > NODE_BYTES / 2, "it is used: {most}");
        // One entry of each group may not have been looked at yet.
        let not_yet = GROUPS as usize * (5 << 10);
        assert!(most <= 2 * NODE_BYTES + not_yet, "{most} bytes in memory, of 50 rounds of {not_yet}");
        for group in &groups {
            group.propose(Bytes::from_static(b"each of them is looked at again")).await.unwrap();
        }
        assert!(raft.cached_bytes() <= NODE_BYTES + not_yet, "{}", raft.cached_bytes());
        raft.stop().await;
        assert_eq!(raft.cached_bytes(), 0, "closed groups keep nothing");
    });
}
