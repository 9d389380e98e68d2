//! One consensus group and nothing around it: the product's `raft` room on machines of their own, each with a real log and a
//! real store on the simulated disk, a state machine of a few registers, and a wire between them that may lose, repeat,
//! delay and reorder frames on each link. Its members change all the time. Far cheaper than whole nodes, and ten times as
//! hurried, so that elections, changes of members and power losses meet far more often.
//!
//! [`machine`] is the state machine, [`wire`] the network, [`member`] one machine and its process, [`plan`] what will happen,
//! [`trouble`] makes it happen ([`schedule`] what takes several steps), [`operator`] changes the members, [`clients`] write, read and keep the history.
pub mod clients;
pub mod machine;
pub mod member;
pub mod operator;
pub mod plan;
pub mod schedule;
pub mod trouble;
pub mod wire;

use member::Member;
use plan::GroupPlan;
use std::{rc::Rc, sync::Arc};
use vectorsphere::rt::Shutdown;

/// Identity of a member in its group, from the machine and how often its disk was replaced.
pub type Identity = u64;

/// The machines of a run and what is between them.
pub struct Cluster {
    pub members: Vec<Rc<Member>>,
    pub wire: Arc<wire::Wire>,
    pub plan: GroupPlan,
    /// Faults end early and none begins.
    pub over: Shutdown,
}

impl Cluster {
    /// The machine whose member takes itself for the leader, if any is known to.
    pub fn leader(&self) -> Option<&Rc<Member>> {
        self.members.iter().find(|member| member.inside().is_some_and(|inside| inside.group.is_leader()))
    }

    /// Lets time pass, less of it if the run is over.
    pub async fn pass(&self, for_ms: u64) {
        tokio::select! {
            biased;
            () = self.over.wait() => {}
            () = madsim::time::sleep(std::time::Duration::from_millis(for_ms)) => {}
        }
    }
}
