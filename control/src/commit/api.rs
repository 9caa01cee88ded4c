//! The part of the API that is about configurations. Whoever may use the socket may look; root and the gateway's own user
//! may change.

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
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

use super::{Answer, Ask, Desk, Job, Refusal};
use crate::config::LARGEST_FILE;

/// The longest request: a file of the largest size, with what is escaped in it.
const LONGEST: usize = LARGEST_FILE as usize / 2 * 5;
/// How long a client may take to send one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks: the user's number, as the kernel says (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub u32);

#[derive(Clone)]
struct Office {
    desk: Desk,
    /// Where a file is taken in: one at a time of those who may change what runs, and one of those who may look, so that these
    /// cannot keep the others from it.
    places: [Arc<Semaphore>; 2],
}

impl Office {
    fn places(&self, peer: Peer) -> &Semaphore {
        let [change, look] = &self.places;
        if may_change(peer) { change } else { look }
    }
}

/// A configuration file.
#[derive(Deserialize, utoipa::ToSchema)]
pub(crate) struct Candidate {
    /// Its name, for messages and the history.
    pub(crate) file: String,
    /// What is in it.
    pub(crate) text: String,
    /// Of a commit: why.
    comment: Option<String>,
    /// Of a commit: it is undone after so many seconds, unless it is confirmed before.
    confirm_seconds: Option<u64>,
}

/// Where to go back to.
#[derive(Deserialize, utoipa::ToSchema)]
struct Back {
    /// The commit's number; the one before the present one if it is left out.
    to: Option<u64>,
}

/// What programs are told of it.
#[derive(utoipa::OpenApi)]
#[openapi(paths(running, history, diff, commit, confirm, rollback))]
pub(crate) struct Described;

/// `/v1/config` and what is under it.
pub fn routes(desk: Desk) -> Router {
    let office = Office { desk, places: [(); 2].map(|()| Arc::new(Semaphore::new(1))) };
    Router::new()
        .route("/v1/config", get(running))
        .route("/v1/config/history", get(history))
        .route("/v1/config/diff", post(diff))
        .route("/v1/config/commit", post(commit))
        .route("/v1/config/confirm", post(confirm))
        .route("/v1/config/rollback", post(rollback))
        .with_state(office)
}

/// What runs.
#[utoipa::path(get, path = "/v1/config", responses((status = 200, description = "The file's name and text, the number of the commit, and the commit that waits to be confirmed", body = Object)))]
async fn running(Of(office): Of<Office>, Extension(peer): Extension<Peer>) -> Response {
    answer(&office, peer, Ask::Running).await
}

/// The commits, the oldest first.
#[utoipa::path(get, path = "/v1/config/history", responses((status = 200, description = "As `sluice history --json` prints them", body = Object)))]
async fn history(Of(office): Of<Office>, Extension(peer): Extension<Peer>) -> Response {
    answer(&office, peer, Ask::History).await
}

/// What a file would change of what runs.
#[utoipa::path(post, path = "/v1/config/diff", request_body = Candidate, responses(
    (status = 200, description = "As `sluice diff --json` prints it", body = Object),
    (status = 422, description = "The file is wrong")
))]
async fn diff(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    match read(office.places(peer), body).await {
        Ok(Candidate { file, text, .. }) => answer(&office, peer, Ask::Diff { file, text }).await,
        Err(response) => response,
    }
}

/// Takes in a configuration, all of it or nothing; answered when all sessions are decided.
#[utoipa::path(post, path = "/v1/config/commit", request_body = Candidate, responses(
    (status = 200, description = "The commit, as in the history, and what there is to say", body = Object),
    (status = 403, description = "Not for this user"),
    (status = 409, description = "A commit waits to be confirmed, or is under way"),
    (status = 422, description = "The configuration is refused; nothing has changed")
))]
async fn commit(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    if let Some(refusal) = forbids(peer) {
        return refusal;
    }
    match read(office.places(peer), body).await {
        Ok(Candidate { file, text, comment, confirm_seconds: confirm }) => {
            answer(&office, peer, Ask::Commit { file, text, comment, confirm }).await
        }
        Err(response) => response,
    }
}

/// Keeps the commit that waits to be confirmed.
#[utoipa::path(post, path = "/v1/config/confirm", responses(
    (status = 200, description = "The commit's number", body = Object),
    (status = 403, description = "Not for this user"),
    (status = 409, description = "None waits")
))]
async fn confirm(Of(office): Of<Office>, Extension(peer): Extension<Peer>) -> Response {
    match forbids(peer) {
        Some(refusal) => refusal,
        None => answer(&office, peer, Ask::Confirm).await,
    }
}

/// Goes back to a commit, or takes back the one that waits to be confirmed. That is a commit, too.
#[utoipa::path(post, path = "/v1/config/rollback", request_body = Back, responses(
    (status = 200, description = "As of a commit", body = Object),
    (status = 403, description = "Not for this user"),
    (status = 409, description = "There is none to go back to, or a commit is under way"),
    (status = 422, description = "The configuration is refused; nothing has changed")
))]
async fn rollback(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    if let Some(refusal) = forbids(peer) {
        return refusal;
    }
    match read(office.places(peer), body).await {
        Ok(Back { to }) => answer(&office, peer, Ask::Rollback(to)).await,
        Err(response) => response,
    }
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// Whether a user may change what runs.
pub(crate) fn may_change(Peer(uid): Peer) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

pub(crate) fn forbids(peer: Peer) -> Option<Response> {
    let words = || {
        let (Peer(uid), own) = (peer, nix::unistd::geteuid());
        format!("user {uid} may look, and not change: that is for root and the gateway's own user ({own})")
    };
    (!may_change(peer)).then(|| error(StatusCode::FORBIDDEN, &words()))
}

/// The body, from a client that sends it in time.
pub(crate) async fn read<T: DeserializeOwned>(places: &Semaphore, body: Body) -> Result<T, Response> {
    let late = |_| error(StatusCode::REQUEST_TIMEOUT, "the request did not come in time");
    let taken = tokio::time::timeout(PATIENCE, async {
        let place = places.acquire().await;
        let bytes = to_bytes(body, LONGEST).await;
        drop(place);
        bytes
    });
    let bytes = taken.await.map_err(late)?;
    let bytes = bytes.map_err(|_| error(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long"))?;
    serde_json::from_slice(&bytes).map_err(|wrong| error(StatusCode::BAD_REQUEST, &wrong.to_string()))
}

async fn answer(office: &Office, Peer(uid): Peer, ask: Ask) -> Response {
    let (tell, told) = oneshot::channel::<Answer>();
    let reply = Box::new(move |answer| drop(tell.send(answer)));
    let sent = office.desk.send(Job { uid, ask, reply });
    match (sent, told.await) {
        (Ok(()), Ok(Ok(value))) => Json(value).into_response(),
        (Ok(()), Ok(Err(Refusal::Wrong(words)))) => error(StatusCode::UNPROCESSABLE_ENTITY, &words),
        (Ok(()), Ok(Err(Refusal::Conflict(words)))) => error(StatusCode::CONFLICT, &words),
        _ => error(StatusCode::SERVICE_UNAVAILABLE, "the gateway is about to end"),
    }
}
