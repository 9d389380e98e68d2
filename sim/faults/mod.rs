//! What happens to the node: [`victim`] is the node with its life cycle, [`nemesis`] carries out the plan's faults.
pub mod nemesis;
pub mod victim;
