//! The end of a run of several nodes: everything breaks, a majority is healed and asked, then the rest is healed.
use super::{
    fleet::Fleet,
    network::{self, Links},
    victim::Victim,
};
use crate::{
    plan::{Broken, Collapse, Finale, Shape, Way},
    world::{self, log, sometimes},
};
use futures_util::future::join_all;
use madsim::time::{self, Duration};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What is still broken.
pub struct Rest {
    nodes: Vec<usize>,
    links: Links,
    down: bool,
}

/// Breaks everything and heals the core.
pub async fn collapse(fleet: &Fleet, finale: &Finale, seed: u64) -> Rest {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xf1a1e);
    log!("FINALE {:?}, then only {:?} well, the rest {:?}", finale.collapse, finale.core, finale.rest);
    world::count("fault.finale", 1);
    let down = break_all(fleet, finale.collapse, &mut rng).await;
    let nodes: Vec<usize> = (0..fleet.victims.len()).filter(|node| !finale.core.contains(node)).collect();
    let rest = break_rest(fleet, nodes, finale.rest, down, &mut rng).await;
    if down {
        victims(fleet, &finale.core).for_each(Victim::restart);
    }
    sometimes!(down, "every node had to come back");
    rest
}

fn victims<'a>(fleet: &'a Fleet, nodes: &'a [usize]) -> impl Iterator<Item = &'a Victim> {
    nodes.iter().map(|node| &fleet.victims[*node])
}

/// Whether every node is down afterwards.
async fn break_all(fleet: &Fleet, collapse: Collapse, rng: &mut StdRng) -> bool {
    match collapse {
        Collapse::None => {}
        Collapse::Kill => drop(join_all(fleet.victims.iter().map(Victim::kill)).await),
        Collapse::PowerLoss(model) => {
            for victim in &fleet.victims {
                victim.lose_power(model, &mut StdRng::seed_from_u64(rng.random())).await;
            }
        }
        Collapse::CutOff { for_ms } => {
            let mut links = Links::new();
            for node in 0..fleet.victims.len() {
                links.extend(network::partition(fleet, Shape::Away, Way::Out, &[node]));
            }
            fleet.network.cut(&links);
            time::sleep(Duration::from_millis(for_ms)).await;
            fleet.network.heal(&links);
        }
        Collapse::Pause { for_ms } => {
            fleet.victims.iter().for_each(Victim::pause);
            time::sleep(Duration::from_millis(for_ms)).await;
            fleet.victims.iter().for_each(Victim::resume);
        }
    }
    matches!(collapse, Collapse::Kill | Collapse::PowerLoss(_))
}

async fn break_rest(fleet: &Fleet, nodes: Vec<usize>, broken: Broken, down: bool, rng: &mut StdRng) -> Rest {
    let links = match broken {
        Broken::CutOff => network::partition(fleet, Shape::Away, Way::Both, &nodes),
        Broken::Deaf => network::partition(fleet, Shape::Away, Way::In, &nodes),
        _ => Links::new(),
    };
    fleet.network.cut(&links);
    let stays_down = matches!(broken, Broken::Down | Broken::Dark(_));
    for victim in victims(fleet, &nodes) {
        match broken {
            Broken::Down if !down => victim.kill().await,
            Broken::Dark(model) => victim.lose_power(model, rng).await,
            Broken::Paused | Broken::CutOff | Broken::Deaf if down => victim.restart(),
            _ => {}
        }
        if broken == Broken::Paused {
            victim.pause();
        }
    }
    Rest { nodes, links, down: stays_down }
}

/// Heals what [`collapse`] left broken.
pub fn heal(fleet: &Fleet, rest: Rest) {
    log!("HEAL {:?}", rest.nodes);
    fleet.network.heal(&rest.links);
    for victim in victims(fleet, &rest.nodes) {
        victim.resume();
        if rest.down {
            victim.restart();
        }
    }
}
