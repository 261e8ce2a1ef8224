//! Tidemill's own service for operators.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::maintenance::{
    BackupChunk, BackupRequest, Examination, ExamineRequest, ListQueuesRequest, ListQueuesResponse,
    MaintenanceService,
};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::error;
use crate::handler::Handler;
use tidemill_server::Call;

/// Bytes of a backup in one message.
const CHUNK_BYTES: usize = 1024 * 1024;
/// A client that takes nothing for so long has gone; its copy would keep the space.
const STALLED: Duration = Duration::from_secs(60);

pub(crate) async fn list_queues(
    handler: &Handler,
    request: ListQueuesRequest,
    _: Call,
) -> Result<ListQueuesResponse, Error> {
    if !request.namespace.is_empty() {
        handler.namespace(&request.namespace)?;
    }
    Ok(handler.server.list_queues(&request))
}

pub(crate) async fn examine(
    handler: &Handler,
    request: ExamineRequest,
    _: Call,
) -> Result<Examination, Error> {
    handler.server.examine(request).await
}

#[tonic::async_trait]
impl MaintenanceService for Handler {
    type BackupStream = ReceiverStream<Result<BackupChunk, Status>>;

    async fn list_queues(
        &self,
        request: Request<ListQueuesRequest>,
    ) -> Result<Response<ListQueuesResponse>, Status> {
        answer(list_queues(self, request.into_inner(), Call::default()).await)
    }

    async fn examine(
        &self,
        request: Request<ExamineRequest>,
    ) -> Result<Response<Examination>, Status> {
        answer(examine(self, request.into_inner(), Call::default()).await)
    }

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let copy = self.server.backup().await;
        let copy = copy.map_err(|error| error::status(&error))?;
        let (chunks, stream) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || send(copy, &chunks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result
        .map(Response::new)
        .map_err(|error| error::status(&error))
}

/// Sends a file in chunks, until it ends or nobody takes them any more.
fn send(mut copy: File, chunks: &mpsc::Sender<Result<BackupChunk, Status>>) {
    let runtime = tokio::runtime::Handle::current();
    let total_bytes = copy.metadata().map_or(0, |file| file.len() as i64);
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let read = copy
            .by_ref()
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut data);
        let (ends, chunk) = match read {
            Ok(bytes) => (bytes < CHUNK_BYTES, Ok(BackupChunk { total_bytes, data })),
            Err(fault) => {
                let text = format!("the copy cannot be read: {fault}");
                (true, Err(Status::unavailable(text)))
            }
        };
        let sent = runtime.block_on(chunks.send_timeout(chunk, STALLED));
        if ends || sent.is_err() {
            return;
        }
    }
}
