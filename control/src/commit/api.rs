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

/// The longest request: a file of the largest size, with every line end escaped.
const LONGEST: usize = 40 << 20;
/// Requests with a file that are taken in at once.
const AT_ONCE: usize = 2;
/// How long a client may take to send one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks: the user's number, as the kernel says (SO_PEERCRED).
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub u32);

#[derive(Clone)]
struct Office {
    desk: Desk,
    places: Arc<Semaphore>,
}

#[derive(Deserialize)]
struct Candidate {
    file: String,
    text: String,
    comment: Option<String>,
    confirm_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Back {
    to: Option<u64>,
}

/// `/v1/config` and what is under it.
pub fn routes(desk: Desk) -> Router {
    let office = Office { desk, places: Arc::new(Semaphore::new(AT_ONCE)) };
    let look = |ask: fn() -> Ask| {
        move |Of(office): Of<Office>, Extension(peer): Extension<Peer>| async move {
            answer(&office, peer, ask()).await
        }
    };
    Router::new()
        .route("/v1/config", get(look(|| Ask::Running)))
        .route("/v1/config/history", get(look(|| Ask::History)))
        .route("/v1/config/diff", post(diff))
        .route("/v1/config/commit", post(commit))
        .route("/v1/config/confirm", post(confirm))
        .route("/v1/config/rollback", post(rollback))
        .with_state(office)
}

async fn diff(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    match read(&office, body).await {
        Ok(Candidate { file, text, .. }) => answer(&office, peer, Ask::Diff { file, text }).await,
        Err(response) => response,
    }
}

async fn commit(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    if let Some(refusal) = forbids(peer) {
        return refusal;
    }
    match read(&office, body).await {
        Ok(Candidate { file, text, comment, confirm_seconds: confirm }) => {
            answer(&office, peer, Ask::Commit { file, text, comment, confirm }).await
        }
        Err(response) => response,
    }
}

async fn confirm(Of(office): Of<Office>, Extension(peer): Extension<Peer>) -> Response {
    match forbids(peer) {
        Some(refusal) => refusal,
        None => answer(&office, peer, Ask::Confirm).await,
    }
}

async fn rollback(Of(office): Of<Office>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    if let Some(refusal) = forbids(peer) {
        return refusal;
    }
    match read(&office, body).await {
        Ok(Back { to }) => answer(&office, peer, Ask::Rollback(to)).await,
        Err(response) => response,
    }
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

fn forbids(Peer(uid): Peer) -> Option<Response> {
    let own = nix::unistd::geteuid().as_raw();
    let words = || {
        format!("user {uid} may look, and not change: that is for root and the gateway's own user ({own})")
    };
    (uid != 0 && uid != own).then(|| error(StatusCode::FORBIDDEN, &words()))
}

/// The body, from a client that sends it in time.
async fn read<T: DeserializeOwned>(office: &Office, body: Body) -> Result<T, Response> {
    let late = |_| error(StatusCode::REQUEST_TIMEOUT, "the request did not come in time");
    let taken = tokio::time::timeout(PATIENCE, async {
        let place = office.places.acquire().await;
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
