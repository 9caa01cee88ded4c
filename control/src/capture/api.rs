//! The capture over the API. Packets are other people's: they are for root and the gateway's own user alone.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State as Of};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};

use super::{Begun, Piece, Spec};
use crate::commit::api::Peer;
use crate::link::DataPlane;

type Gateway = Arc<DataPlane>;

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(start, read, stop))]
pub(crate) struct Described;

/// The routes.
pub fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/capture", post(start))
        .route("/v1/capture/{id}", get(read))
        .route("/v1/capture/{id}/stop", post(stop))
        .with_state(gateway)
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// The question makes no sense.
pub(crate) fn wrong(words: &str) -> Response {
    error(StatusCode::BAD_REQUEST, words)
}

/// What the data plane says, asked on a thread that may wait.
pub(crate) async fn answer<T: serde::Serialize + Send + 'static>(
    Peer(uid): Peer,
    gateway: Gateway,
    question: impl FnOnce(&DataPlane) -> Result<Result<T, String>, String> + Send + 'static,
) -> Response {
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        let words =
            format!("user {uid} may not look at packets: that is for root and the gateway's own user");
        return error(StatusCode::FORBIDDEN, &words);
    }
    match tokio::task::spawn_blocking(move || question(&gateway)).await {
        Ok(Ok(Ok(said))) => Json(said).into_response(),
        Ok(Ok(Err(words))) => error(StatusCode::BAD_REQUEST, &words),
        Ok(Err(words)) => error(StatusCode::SERVICE_UNAVAILABLE, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}

/// Begins a capture; there is one at a time. It ends when it is stopped, or when nobody has read it for ten seconds.
#[utoipa::path(post, path = "/v1/capture", request_body = Spec, responses(
    (status = 200, description = "The capture's number, and the ports in the order of their numbers", body = Begun),
    (status = 400, description = "The words are wrong, or nothing is wanted"),
    (status = 403, description = "Not for this user"),
    (status = 503, description = "There is a capture already, or a worker does not answer")
))]
async fn start(
    Of(gateway): Of<Gateway>,
    Extension(peer): Extension<Peer>,
    spec: Result<Json<Value>, JsonRejection>,
) -> Response {
    let Json(spec) = match spec {
        Ok(spec) => spec,
        Err(wrong) => return error(wrong.status(), &wrong.body_text()),
    };
    match serde_json::from_value::<Spec>(spec) {
        Ok(spec) => answer(peer, gateway, move |gateway| gateway.capture_start(spec)).await,
        Err(words) => wrong(&words.to_string()),
    }
}

/// What a capture has found since it was read last.
#[utoipa::path(get, path = "/v1/capture/{id}", params(("id" = u64, Path, description = "The capture's number")), responses(
    (status = 200, description = "Packets, oldest first, with how many found no room so far", body = Piece),
    (status = 403, description = "Not for this user"),
    (status = 503, description = "There is no such capture any more")
))]
async fn read(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, Path(id): Path<u64>) -> Response {
    answer(peer, gateway, move |gateway| gateway.capture_read(id).map(Ok)).await
}

/// Ends a capture, and returns what was left of it.
#[utoipa::path(post, path = "/v1/capture/{id}/stop", params(("id" = u64, Path, description = "The capture's number")), responses(
    (status = 200, description = "As of a capture that is read", body = Piece),
    (status = 403, description = "Not for this user"),
    (status = 503, description = "There is no such capture any more, or a worker does not answer")
))]
async fn stop(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, Path(id): Path<u64>) -> Response {
    answer(peer, gateway, move |gateway| gateway.capture_stop(id).map(Ok)).await
}
