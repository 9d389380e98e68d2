//! The calls on documents: convert, ask the service, answer. The same whether a request came alone or in a stream. Called by the
//! unary calls of `grpc` and by `streams`.

use super::{Face, convert, proto};
use crate::{
    rt::{compute, time},
    types::{CollectionName, Error, WriteOptions},
};
use prost::Message;

/// Requests above this are converted on the compute pool.
const INLINE_BYTES_MAX: usize = 64 * 1024;

impl Face {
    /// Writes documents; what the request does not say about how is in `defaults`.
    pub(super) async fn upserted(
        &self,
        mut request: proto::UpsertRequest,
        defaults: WriteOptions,
    ) -> Result<proto::UpsertResponse, Error> {
        let began = time::now();
        let name = table(std::mem::take(&mut request.table))?;
        let options = convert::options_of(request.ack, &request.request_id, defaults)?;
        let id = options.request_id;
        let points = converted(request, move |request| convert::points(request, id)).await?;
        let ids = points.iter().map(|point| convert::wire_id(&point.id)).collect();
        let written = self.service.upsert(&name, points, &options).await.map_err(convert::in_documents)?;
        Ok(proto::UpsertResponse {
            ids,
            version: written.version,
            versions: written.versions,
            session: written.session.to_string(),
            took_ms: convert::milliseconds(began.elapsed()),
        })
    }

    /// One search.
    pub(super) async fn found(&self, mut request: proto::SearchRequest) -> Result<proto::SearchResponse, Error> {
        let began = time::now();
        let name = table(std::mem::take(&mut request.table))?;
        let (search, options) = converted(request, convert::search).await?;
        let found = self.service.search(&name, vec![search], &options).await?;
        convert::found(found, convert::milliseconds(began.elapsed()))
    }

    /// Deletes documents; `defaults` as for writing them.
    pub(super) async fn deleted(
        &self,
        mut request: proto::DeleteRequest,
        defaults: WriteOptions,
    ) -> Result<proto::DeleteResponse, Error> {
        let began = time::now();
        let name = table(std::mem::take(&mut request.table))?;
        let options = convert::options_of(request.ack, &request.request_id, defaults)?;
        let selected = converted(request, convert::selected).await?;
        let deleted = self.service.delete(&name, selected, &options).await?;
        Ok(proto::DeleteResponse {
            deleted: deleted.deleted,
            session: deleted.session.to_string(),
            took_ms: convert::milliseconds(began.elapsed()),
        })
    }
}

fn table(name: String) -> Result<CollectionName, Error> {
    CollectionName::new(name).map_err(|error| error.at("table"))
}

/// Runs a conversion here, or on the compute pool if the message is large.
async fn converted<Q, T>(request: Q, convert: impl FnOnce(Q) -> Result<T, Error> + Send + 'static) -> Result<T, Error>
where
    Q: Message + 'static,
    T: Send + 'static,
{
    if request.encoded_len() <= INLINE_BYTES_MAX {
        return compute::short(|| convert(request));
    }
    compute::cpu(move || convert(request)).await
}
