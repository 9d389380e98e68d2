//! What happens to the nodes: [`victim`] is one node with its life cycle, [`fleet`] all of them and the clients' machine;
//! [`nemesis`] carries out the plan's faults with [`disk`] and [`network`]; [`control`] strikes at who runs the cluster, and [`operator`] is whoever does; [`auditor`] asks whether replicas are equal;
//! [`upgrade`] gives nodes other programs; [`finale`] is the end of a run of several.
pub mod auditor;
pub mod control;
mod disk;
pub mod finale;
pub mod fleet;
pub mod nemesis;
mod network;
pub mod operator;
pub mod upgrade;
pub mod victim;
