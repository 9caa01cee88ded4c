//! Blocking by hand over the API. Whoever may use the socket may look; root and the gateway's own user may change.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::commit::api::Peer;
use crate::link::DataPlane;

/// The longest request.
const LONGEST: usize = 16 << 10;
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(5);

type Gateway = Arc<DataPlane>;

/// What is to be blocked.
#[derive(Deserialize, utoipa::ToSchema)]
struct Blocked {
    /// A prefix, or an address.
    prefix: String,
    /// For how long; until it is removed if that is left out.
    seconds: Option<u64>,
    /// Why, for the listing.
    note: Option<String>,
}

/// What is to be blocked no longer.
#[derive(Deserialize, utoipa::ToSchema)]
struct Unblocked {
    /// The prefix, as it was added.
    prefix: String,
}

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(show, add, remove))]
pub(crate) struct Described;

/// `/v1/block` and what is under it.
pub fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/block", get(show).post(add))
        .route("/v1/block/remove", post(remove))
        .with_state(gateway)
}

/// All lists of prefixes, and what is blocked by hand.
#[utoipa::path(get, path = "/v1/block", responses((status = 200, description = "As `sluice block show --json` prints it", body = Object)))]
async fn show(Of(gateway): Of<Gateway>) -> Response {
    answer(gateway, |gateway| gateway.block_show().map(Ok)).await
}

/// Blocks a prefix, at once.
#[utoipa::path(post, path = "/v1/block", request_body = Blocked, responses(
    (status = 200, description = "The entry", body = Object),
    (status = 400, description = "It cannot be blocked"),
    (status = 403, description = "Not for this user")
))]
async fn add(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    match read(peer, body).await {
        Ok(Blocked { prefix, seconds, note }) => {
            answer(gateway, move |gateway| gateway.block_add(prefix, seconds, note)).await
        }
        Err(response) => response,
    }
}

/// Blocks a prefix no longer.
#[utoipa::path(post, path = "/v1/block/remove", request_body = Unblocked, responses(
    (status = 200, description = "The entry that was", body = Object),
    (status = 400, description = "There is no such entry"),
    (status = 403, description = "Not for this user")
))]
async fn remove(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    match read(peer, body).await {
        Ok(Unblocked { prefix }) => answer(gateway, move |gateway| gateway.block_remove(prefix)).await,
        Err(response) => response,
    }
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// The body, from a client that may change something, and sends it in time.
async fn read<T: DeserializeOwned>(Peer(uid): Peer, body: Body) -> Result<T, Response> {
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        let words =
            format!("user {uid} may look, and not block: that is for root and the gateway's own user");
        return Err(error(StatusCode::FORBIDDEN, &words));
    }
    let taken = tokio::time::timeout(PATIENCE, to_bytes(body, LONGEST)).await;
    let bytes = taken.map_err(|_| error(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"))?;
    let bytes = bytes.map_err(|_| error(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long"))?;
    serde_json::from_slice(&bytes).map_err(|wrong| error(StatusCode::BAD_REQUEST, &wrong.to_string()))
}

/// What the data plane says, asked on a thread that may wait.
async fn answer<T: serde::Serialize + Send + 'static>(
    gateway: Gateway,
    question: impl FnOnce(&DataPlane) -> Result<Result<T, String>, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || question(&gateway)).await {
        Ok(Ok(Ok(said))) => Json(said).into_response(),
        Ok(Ok(Err(words))) => error(StatusCode::BAD_REQUEST, &words),
        Ok(Err(words)) => error(StatusCode::SERVICE_UNAVAILABLE, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}
