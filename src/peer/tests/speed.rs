//! What a message costs over a link; run by hand: `cargo test --release --lib peer::tests::speed -- --ignored --nocapture`.

use super::*;
use crate::rt::Runtime;

/// Sends `count` messages of `length` bytes in batches and answers the seconds until all were received.
async fn run(from: &TestNode, to: &TestNode, count: usize, batch: usize, length: usize) -> f64 {
    let before = to.service.received.lock().unwrap().len();
    let one = message(1, 7, length);
    let began = time::now();
    let mut sent = 0;
    while sent < count {
        match from.peers.send(to.id, vec![one.clone(); batch]) {
            Ok(()) => sent += batch,
            Err(_) => time::sleep(MS).await,
        }
        crate::rt::yield_now().await;
    }
    while to.service.received.lock().unwrap().len() < before + sent {
        crate::rt::yield_now().await;
    }
    began.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement: cargo test --release --lib peer::tests::speed -- --ignored --nocapture"]
fn messages_a_second() {
    let runtime = Runtime::new(2).unwrap();
    runtime.block_on(async {
        let nodes = cluster(2).await;
        for (batch, length, count) in
            [(1, 256, 200_000), (16, 256, 800_000), (256, 256, 1_600_000), (1, 1 << 20, 1_000)]
        {
            run(&nodes[0], &nodes[1], count / 10, batch, length).await;
            nodes[1].service.received.lock().unwrap().clear();
            let seconds = run(&nodes[0], &nodes[1], count, batch, length).await;
            nodes[1].service.received.lock().unwrap().clear();
            let (rate, each) = (count as f64 / seconds, seconds * 1e6 / count as f64);
            println!("batches of {batch}, {length} bytes: {rate:.0} messages/s, {each:.2} us each");
        }
        // One at a time, there and seen: what a message that waits for nothing takes.
        let mut took: Vec<f64> = Vec::new();
        for _ in 0..2_000 {
            took.push(run(&nodes[0], &nodes[1], 1, 1, 256).await * 1e6);
        }
        took.sort_by(f64::total_cmp);
        println!("one way, alone: median {:.1} us, 99th {:.1} us", took[1_000], took[1_980]);
        let proposals = time::now();
        for _ in 0..2_000 {
            let proposal = Proposal {
                group: 1,
                data: Bytes::from(vec![1; 256]),
                ack: crate::types::Ack::Quorum,
                deadline: time::now() + PATIENCE,
            };
            let _ = nodes[0].peers.propose(2, proposal).await;
        }
        println!("forwarded proposal, alone: {:.1} us", proposals.elapsed().as_secs_f64() * 1e6 / 2_000.0);
        stop_all(nodes).await;
    });
}
