//! The capture over the API. Packets are other people's: they are for root and the gateway's own user alone.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State as Of};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};

use super::Spec;
use crate::commit::api::Peer;
use crate::link::DataPlane;

type Gateway = Arc<DataPlane>;

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

/// What the data plane says, asked on a thread that may wait.
async fn answer<T: serde::Serialize + Send + 'static>(
    Peer(uid): Peer,
    gateway: Gateway,
    question: impl FnOnce(&DataPlane) -> Result<Result<T, String>, String> + Send + 'static,
) -> Response {
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        let words =
            format!("user {uid} may not capture packets: that is for root and the gateway's own user");
        return error(StatusCode::FORBIDDEN, &words);
    }
    match tokio::task::spawn_blocking(move || question(&gateway)).await {
        Ok(Ok(Ok(said))) => Json(said).into_response(),
        Ok(Ok(Err(words))) => error(StatusCode::BAD_REQUEST, &words),
        Ok(Err(words)) => error(StatusCode::SERVICE_UNAVAILABLE, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}

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
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.to_string()),
    }
}

async fn read(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, Path(id): Path<u64>) -> Response {
    answer(peer, gateway, move |gateway| gateway.capture_read(id).map(Ok)).await
}

async fn stop(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, Path(id): Path<u64>) -> Response {
    answer(peer, gateway, move |gateway| gateway.capture_stop(id).map(Ok)).await
}
