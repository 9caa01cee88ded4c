//! The asking end.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{ApiError, Request};

/// Asks, and waits for the answer: without end, or as long as `patience` says.
pub(super) fn ask(path: &Path, request: Request, patience: Option<Duration>) -> Result<Value, ApiError> {
    talk(path, &request.path(), None, patience)
}

/// Asks for what is at `target`, or sends it a body of JSON.
pub(super) fn talk(
    path: &Path,
    target: &str,
    body: Option<String>,
    patience: Option<Duration>,
) -> Result<Value, ApiError> {
    let unreachable = |source| ApiError::Unreachable { path: path.into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
    runtime.block_on(async {
        let exchange = exchange(path, target, body);
        match patience {
            None => exchange.await,
            Some(patience) => {
                let late = |_| unreachable(io::ErrorKind::TimedOut.into());
                tokio::time::timeout(patience, exchange).await.map_err(late)?
            }
        }
    })
}

async fn exchange(path: &Path, target: &str, body: Option<String>) -> Result<Value, ApiError> {
    let unreachable = |source| ApiError::Unreachable { path: path.into(), source };
    let broken = |error: hyper::Error| unreachable(io::Error::other(error));
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ApiError::Forbidden { path: path.into() },
        _ => unreachable(source),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let builder = match &body {
        None => hyper::Request::get(target),
        Some(_) => hyper::Request::post(target).header(hyper::header::CONTENT_TYPE, "application/json"),
    };
    let request = builder
        .header(hyper::header::HOST, "sluice")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| unreachable(io::Error::other(error)))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let is_fine = answer.status().is_success();
    let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
    let value: Value = serde_json::from_slice(&body).map_err(|error| ApiError::Garbled(error.to_string()))?;
    if is_fine {
        return Ok(value);
    }
    let said = value["error"].as_str().map(str::to_owned);
    Err(said.map_or_else(|| ApiError::Garbled("an error without words".into()), ApiError::Refused))
}
