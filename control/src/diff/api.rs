//! What a file would do to the sessions there are, over the API. Whoever may use the socket may ask.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::commit::api::{Candidate, read};
use crate::link::DataPlane;

#[derive(Clone)]
struct Office {
    gateway: Arc<DataPlane>,
    /// One at a time: each takes as much memory as the sessions that it looks at.
    places: Arc<Semaphore>,
}

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(live))]
pub(crate) struct Described;

/// `/v1/config/diff/live`
pub fn routes(gateway: Arc<DataPlane>) -> Router {
    let office = Office { gateway, places: Arc::new(Semaphore::new(1)) };
    Router::new().route("/v1/config/diff/live", post(live)).with_state(office)
}

/// What a file would do to the sessions there are, and to packets that came last. Nothing changes.
#[utoipa::path(post, path = "/v1/config/diff/live", request_body = Candidate, responses(
    (status = 200, description = "What would come of them, by what there is to say, and the ten largest of those that would not go on as they are", body = Object),
    (status = 422, description = "The file is wrong, or a commit would refuse it"),
    (status = 503, description = "A worker does not answer, or sessions are still being decided by the last commit")
))]
async fn live(Of(office): Of<Office>, body: Body) -> Response {
    let error = |status: StatusCode, words: &str| (status, Json(json!({ "error": words }))).into_response();
    let Candidate { file, text, .. } = match read(&office.places, body).await {
        Ok(candidate) => candidate,
        Err(response) => return response,
    };
    let Ok(place) = office.places.clone().acquire_owned().await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the gateway is about to end");
    };
    let ask = move || {
        let answer = office.gateway.live_diff(file, text);
        drop(place);
        answer
    };
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(Ok(told))) => Json(told).into_response(),
        Ok(Ok(Err(words))) => error(StatusCode::UNPROCESSABLE_ENTITY, &words),
        Ok(Err(words)) => error(StatusCode::SERVICE_UNAVAILABLE, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}
