//! Whatever bytes come, over a socket, a stream or a link: the node lives, answers its peers, and ends what is no link.

use super::*;
use crate::peer::identity::Myself;
use crate::peer::proto::{self, link_request};
use crate::rt::{
    net::dial,
    rng,
    rpc::{Channel, RpcOptions, connect},
};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use rand::{Rng, RngCore};
use tokio::io::AsyncWriteExt;
use tower::Service;

fn random_bytes(rng: &mut rng::Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=most)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A gRPC message in a stream's bytes: flag, length, content.
fn framed(flag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Sends these bytes as the body of a call and reads the answer to its end.
async fn call(channel: &Channel, method: &str, body: Vec<Bytes>) {
    let frames = stream::iter(body.into_iter().map(|bytes| Ok::<_, tonic::Status>(Frame::data(bytes))));
    let request = http::Request::builder()
        .method("POST")
        .uri(format!("/vectorsphere.peer.v1.Peer/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(frames)))
        .expect("a request");
    let answer = time::timeout(PATIENCE, channel.clone().call(request)).await.expect("answered");
    if let Ok(answer) = answer {
        let _ = time::timeout(PATIENCE, answer.into_body().collect()).await.expect("ended");
    }
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let nodes = cluster(2).await;
    let mut rng = rng::stream("garbage");
    let address = nodes[0].address.clone();
    for _ in 0..20 {
        let mut socket = dial(&address).await.expect("somebody listens");
        let _ = socket.write_all(&random_bytes(&mut rng, 10_000)).await;
    }
    let channel = connect(&address, &RpcOptions::default()).expect("an address");
    let stranger = Myself { identity: settings(3, &[], "elsewhere:1").identity, instance: 1 };
    let mut hello = stranger.hello(None);
    hello.peer_set_hash = peer_set_hash([nodes[0].address.as_str(), nodes[1].address.as_str()]);
    let hello = proto::LinkRequest { kind: Some(link_request::Kind::Hello(hello)) }.encode_to_vec();
    for round in 0..300 {
        let method = ["Link", "Propose", "FetchCheckpoint", "Status", "Inspect", "Nothing"][round % 6];
        call(&channel, method, vec![random_bytes(&mut rng, 200).into()]).await;
        call(&channel, method, vec![framed(0, &random_bytes(&mut rng, 200)).into()]).await;
        call(&channel, method, vec![framed(rng.random(), &random_bytes(&mut rng, 20)).into()]).await;
        // After a good Hello: a frame of garbage, a changed Hello, a length that promises more than comes.
        let frame = proto::LinkRequest { kind: Some(link_request::Kind::Frame(random_bytes(&mut rng, 100).into())) };
        call(&channel, "Link", vec![framed(0, &hello).into(), framed(0, &frame.encode_to_vec()).into()]).await;
        let mut changed = hello.clone();
        let at = rng.random_range(0..changed.len());
        changed[at] ^= rng.random_range(1..=255_u8);
        call(&channel, "Link", vec![framed(0, &changed).into(), framed(0, &random_bytes(&mut rng, 50)).into()]).await;
        let mut short = framed(0, &hello);
        short.truncate(rng.random_range(0..short.len()));
        call(&channel, "Link", vec![short.into()]).await;
    }
    let huge = [&[0_u8][..], &u32::MAX.to_be_bytes(), &[1, 2, 3]].concat();
    call(&channel, "Link", vec![huge.clone().into()]).await;
    call(&channel, "Link", vec![framed(0, &hello).into(), huge.into()]).await;

    assert!(nodes.iter().all(|node| node.is_connected_to(3 - node.id)), "the good links stood");
    nodes[1].peers.send(1, vec![message(1, 1, 100)]).unwrap();
    until("heard", || nodes[0].service.received().contains(&(2, message(1, 1, 100)))).await;
    assert!(nodes[0].peers.refusals().len() <= 64);
    stop_all(nodes).await;
}

#[tokio::test]
async fn too_many_messages_in_a_frame_end_the_link() {
    let nodes = cluster(1).await;
    let stranger =
        Myself { identity: settings(3, std::slice::from_ref(&nodes[0].address), "elsewhere:1").identity, instance: 1 };
    let hello = proto::LinkRequest { kind: Some(link_request::Kind::Hello(stranger.hello(None))) }.encode_to_vec();
    let frame = |messages: usize| {
        let frame = proto::Frame { messages: vec![proto::GroupMessage::default(); messages] }.encode_to_vec();
        framed(0, &proto::LinkRequest { kind: Some(link_request::Kind::Frame(frame.into())) }.encode_to_vec())
    };
    let channel = connect(&nodes[0].address, &RpcOptions::default()).expect("an address");
    call(&channel, "Link", vec![framed(0, &hello).into(), frame(2).into(), frame(1_000_000).into(), frame(2).into()])
        .await;
    assert_eq!(nodes[0].service.received().len(), 2, "what came before the bad frame, and nothing after it");
    stop_all(nodes).await;
}
