//! The part of the API that is about upgrades. Whoever may use the socket may look; root and the gateway's own user may upgrade.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::json;

use super::Upgraded;
use crate::commit::api::{Peer, forbids};
use crate::link::DataPlane;

/// The longest request.
const LONGEST: usize = 16 << 10;

/// Which program is to take over.
#[derive(Deserialize, utoipa::ToSchema)]
struct Wanted {
    /// Its whole path; the one that the running program was started from if it is left out.
    #[schema(value_type = Option<String>)]
    binary: Option<PathBuf>,
}

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(upgraded, upgrade))]
pub(crate) struct Described;

/// `/v1/upgrade`.
pub(crate) fn routes(gateway: Arc<DataPlane>) -> Router {
    Router::new().route("/v1/upgrade", get(upgraded).post(upgrade)).with_state(gateway)
}

/// How upgrades went: how many there were, what the last one took over, and why the last that came to nothing did.
#[utoipa::path(get, path = "/v1/upgrade", responses((status = 200, description = "Figures of the last upgrade; times in microseconds", body = Object)))]
async fn upgraded(Of(gateway): Of<Arc<DataPlane>>) -> Response {
    answer(move || gateway.upgraded().map(|upgraded: Upgraded| json!(upgraded))).await
}

/// Has another program take over. Answered when that is ready to; the answer to a GET, from the new process, tells how it went.
#[utoipa::path(post, path = "/v1/upgrade", request_body = Wanted, responses(
    (status = 200, description = "The version that takes over now", body = Object),
    (status = 403, description = "Not for this user"),
    (status = 422, description = "It cannot; all goes on as it was")
))]
async fn upgrade(Of(gateway): Of<Arc<DataPlane>>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    if let Some(refusal) = forbids(peer) {
        return refusal;
    }
    let wanted = to_bytes(body, LONGEST).await.ok();
    let wanted = wanted.as_deref().map(serde_json::from_slice::<Wanted>);
    let Some(Ok(Wanted { binary })) = wanted else {
        return error(StatusCode::BAD_REQUEST, "write it as {} or {\"binary\": \"/usr/local/bin/sluice\"}");
    };
    answer(move || gateway.upgrade(binary).map(|version| json!({ "version": version }))).await
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// What the data plane says, asked on a thread that may wait.
async fn answer(question: impl FnOnce() -> Result<serde_json::Value, String> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(question).await {
        Ok(Ok(said)) => Json(said).into_response(),
        Ok(Err(words)) => error(StatusCode::UNPROCESSABLE_ENTITY, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}
