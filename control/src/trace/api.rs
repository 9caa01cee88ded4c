//! Traces over the API. Packets are other people's: they are for root and the gateway's own user alone.

use std::sync::Arc;

use axum::extract::State as Of;
use axum::response::{Json, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Spec;
use crate::capture::api::{answer, wrong};
use crate::commit::api::Peer;
use crate::link::DataPlane;

type Gateway = Arc<DataPlane>;

/// Which trace.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Its number; all if it is left out.
    #[serde(default)]
    id: Option<u64>,
}

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(show, add, clear))]
pub(crate) struct Described;

/// `/v1/trace` and what is under it.
pub fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/trace", get(show).post(add))
        .route("/v1/trace/clear", post(clear))
        .with_state(gateway)
}

/// The traces, with what each stage did to each packet.
#[utoipa::path(get, path = "/v1/trace", responses(
    (status = 200, description = "As `sluice trace show --json` prints it", body = [Object]),
    (status = 403, description = "Not for this user")
))]
async fn show(Of(gateway): Of<Gateway>, Extension(peer): Extension<Peer>) -> Response {
    answer(peer, gateway, |gateway| gateway.trace_show().map(Ok)).await
}

/// Begins a trace: packets that come in from now on are followed through the stages.
#[utoipa::path(post, path = "/v1/trace", request_body = Spec, responses(
    (status = 200, description = "The trace's number", body = Object),
    (status = 400, description = "The words are wrong"),
    (status = 403, description = "Not for this user"),
    (status = 503, description = "There are eight traces already, or a worker does not answer")
))]
async fn add(
    Of(gateway): Of<Gateway>,
    Extension(peer): Extension<Peer>,
    Json(spec): Json<Value>,
) -> Response {
    match serde_json::from_value::<Spec>(spec) {
        Ok(spec) => {
            let add =
                |gateway: &DataPlane| gateway.trace_add(spec).map(|id| id.map(|id| json!({ "id": id })));
            answer(peer, gateway, add).await
        }
        Err(words) => wrong(&words.to_string()),
    }
}

/// Ends a trace, or all, and forgets what was found.
#[utoipa::path(post, path = "/v1/trace/clear", request_body = Which, responses(
    (status = 200, description = "How many traces there were", body = Object),
    (status = 400, description = "There is no such trace"),
    (status = 403, description = "Not for this user")
))]
async fn clear(
    Of(gateway): Of<Gateway>,
    Extension(peer): Extension<Peer>,
    Json(which): Json<Value>,
) -> Response {
    match serde_json::from_value::<Which>(which) {
        Ok(Which { id }) => {
            let clear = move |gateway: &DataPlane| {
                gateway.trace_clear(id).map(|n| n.map(|n| json!({ "cleared": n })))
            };
            answer(peer, gateway, clear).await
        }
        Err(words) => wrong(&words.to_string()),
    }
}
