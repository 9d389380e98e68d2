//! Streams of requests: several are under way at once, answers go out in the order of the requests, and a request that fails fails
//! alone. Called by the streaming calls of `grpc`.

use super::{Answers, Face, convert, proto, status};
use crate::{
    api::rest::observe,
    types::{Error, WriteOptions},
};
use futures_util::{FutureExt, Stream, future::BoxFuture, stream::StreamExt};
use prost::Message;
use proto::{
    delete_stream_response::Outcome as Deleted, search_stream_response::Outcome as Found,
    upsert_stream_response::Outcome as Upserted,
};
use tonic::{Request, Response, Status, Streaming};

/// Requests of a stream that are under way at once.
const AT_ONCE: usize = 16;

impl Face {
    pub(super) fn upserts(
        &self,
        request: Request<Streaming<proto::UpsertRequest>>,
    ) -> Result<Response<Answers<proto::UpsertStreamResponse>>, Status> {
        let defaults = write_defaults(&request)?;
        let handle = move |face: Face, one| async move { face.upserted(one, defaults).await }.boxed();
        let answer = |answer: Result<_, Error>| {
            let outcome = answer.map_or_else(|error| Upserted::Failure(convert::failure(&error)), Upserted::Answer);
            proto::UpsertStreamResponse { outcome: Some(outcome) }
        };
        Ok(self.stream("vectorsphere.v1.VectorService/UpsertStream", request, handle, answer))
    }

    pub(super) fn searches(
        &self,
        request: Request<Streaming<proto::SearchRequest>>,
    ) -> Result<Response<Answers<proto::SearchStreamResponse>>, Status> {
        let handle = |face: Face, one| async move { face.found(one).await }.boxed();
        let answer = |answer: Result<_, Error>| {
            let outcome = answer.map_or_else(|error| Found::Failure(convert::failure(&error)), Found::Answer);
            proto::SearchStreamResponse { outcome: Some(outcome) }
        };
        Ok(self.stream("vectorsphere.v1.VectorService/SearchStream", request, handle, answer))
    }

    pub(super) fn deletes(
        &self,
        request: Request<Streaming<proto::DeleteRequest>>,
    ) -> Result<Response<Answers<proto::DeleteStreamResponse>>, Status> {
        let defaults = write_defaults(&request)?;
        let handle = move |face: Face, one| async move { face.deleted(one, defaults).await }.boxed();
        let answer = |answer: Result<_, Error>| {
            let outcome = answer.map_or_else(|error| Deleted::Failure(convert::failure(&error)), Deleted::Answer);
            proto::DeleteStreamResponse { outcome: Some(outcome) }
        };
        Ok(self.stream("vectorsphere.v1.VectorService/DeleteStream", request, handle, answer))
    }

    /// The answers to a stream of requests.
    fn stream<Q, A, S>(
        &self,
        method: &'static str,
        request: Request<Streaming<Q>>,
        handle: impl Fn(Face, Q) -> BoxFuture<'static, Result<A, Error>> + Clone + Send + Sync + 'static,
        answer: fn(Result<A, Error>) -> S,
    ) -> Response<Answers<S>>
    where
        Q: Message + 'static,
        A: Send + 'static,
        S: Send + 'static,
    {
        let id = observe::request_id(request.metadata().as_ref());
        let (face, stream_id) = (self.clone(), id.clone());
        let answers = request.into_inner().map(move |one| {
            let (face, handle, id) = (face.clone(), handle.clone(), stream_id.clone());
            async move {
                // A stream that breaks ends with the status of its break.
                let one = one?;
                let asked = face.clone();
                let answered = face.observed(method, &id, one, async move |one| handle(asked, one).await).await;
                Ok::<S, Status>(answer(answered))
            }
        });
        let mut response = Response::new(in_order(answers).boxed());
        response.metadata_mut().as_mut().insert(observe::REQUEST_ID, id);
        response
    }
}

/// How the requests of a stream write unless they say otherwise.
fn write_defaults<Q>(request: &Request<Q>) -> Result<WriteOptions, Status> {
    let metadata = request.metadata();
    convert::stream_options(metadata).map_err(|error| status::of(&error, observe::request_id(metadata.as_ref())))
}

fn in_order<F: Future>(answers: impl Stream<Item = F>) -> impl Stream<Item = F::Output> {
    answers.buffered(AT_ONCE)
}
