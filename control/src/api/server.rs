//! The answering end: one thread for all connections, and some that wait for the data plane's answers. A client that says or
//! takes nothing costs a descriptor for five seconds, and delays nobody (`places.rs`).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path as Place, Query as Asked, State as Of};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Extension, Router};
use clap::ValueEnum;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_io_timeout::TimeoutStream;
use utoipa::OpenApi;

use super::places::{self, LISTINGS, Places, STRANGER, Turns};
use super::{ApiError, TopBy};
use crate::commit::{self, api::Peer};
use crate::link::DataPlane;
use crate::lists;
use crate::nat_query::Query;
use crate::state::Topic;
use crate::{capture, diff, trace, upgrade};

/// How long a client may take to ask, and to take the next piece of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request.
const LONGEST: usize = 16 << 10;
/// What is said to a client for whom there is no place.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 52\r\n\
    connection: close\r\n\r\n{\"error\":\"too many clients at once; try again soon\"}";

/// What the routes are answered from.
type Gateway = Arc<DataPlane>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice",
        description = "The control API of a running gateway, over its Unix socket.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(),
        version = "1"
    ),
    paths(show, top_flows, top_hosts, explained, nat_who, nat_where, metrics_page)
)]
struct Api;

/// The API's description (OpenAPI 3.1).
pub fn openapi() -> Value {
    let mut whole = Api::openapi();
    for part in [
        commit::api::Described::openapi(),
        capture::api::Described::openapi(),
        trace::api::Described::openapi(),
        diff::api::Described::openapi(),
        lists::api::Described::openapi(),
        upgrade::api::Described::openapi(),
    ] {
        whole.merge(part);
    }
    serde_json::to_value(whole).unwrap_or_default()
}

/// A server that runs; dropping it ends it. The socket stays where it is, for the next one.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves the socket, and the metrics alone at a TCP address where one is given, from a thread of its own.
pub fn serve(
    listener: UnixListener,
    path: &Path,
    metrics: Option<TcpListener>,
    gateway: Gateway,
) -> Result<Server, ApiError> {
    serve_with(listener, path, metrics, gateway, Router::new())
}

/// As [`serve`], with more that the socket answers. Its routes may ask for the [`Peer`].
pub fn serve_with(
    listener: UnixListener,
    path: &Path,
    metrics: Option<TcpListener>,
    gateway: Gateway,
    more: Router,
) -> Result<Server, ApiError> {
    let failed = |source| ApiError::Socket { path: path.into(), source };
    listener.set_nonblocking(true).map_err(failed)?;
    if let Some(metrics) = &metrics {
        metrics.set_nonblocking(true).map_err(failed)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LISTINGS)
        .thread_name("sluice-listing")
        .build()
        .map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let all = async move {
        let (places, turns) = (Arc::new(Places::default()), Turns::new());
        let local = tokio::net::UnixListener::from_std(listener)?;
        let all = with_turns(routes(gateway.clone()), &turns).merge(more);
        tokio::spawn(accept(local, all, places.clone()));
        if let Some(metrics) = metrics {
            let remote = tokio::net::TcpListener::from_std(metrics)?;
            tokio::spawn(accept(
                remote,
                metrics_route(gateway).layer(from_fn_with_state(turns, places::wait)),
                places,
            ));
        }
        // Its sender says nothing; it is dropped.
        let _ = stopped.await;
        io::Result::Ok(())
    };
    let run = move || {
        let _ = runtime.block_on(all);
        runtime.shutdown_timeout(Duration::from_millis(100));
    };
    let thread = std::thread::Builder::new().name("sluice-api".into()).spawn(run).map_err(failed)?;
    Ok(Server { stop: Some(stop), thread: Some(thread) })
}

fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/show/{topic}", get(show))
        .route("/v1/top/flows", get(top_flows))
        .route("/v1/top/hosts", get(top_hosts))
        .route("/v1/nat/who", get(nat_who))
        .route("/v1/nat/where", get(nat_where))
        .route("/v1/explain", get(explained))
        .route("/metrics", get(metrics_page))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is no such path; see /v1/openapi.json") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "it can be read only")
        })
        .with_state(gateway)
}

fn metrics_route(gateway: Gateway) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is /metrics here and nothing else") })
        .with_state(gateway)
}

/// What needs the data plane has to wait for its turn.
fn with_turns(routes: Router, turns: &Turns) -> Router {
    let described = Bytes::from(serde_json::to_vec(&openapi()).unwrap_or_default());
    let description = move || {
        let described = described.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], described) }
    };
    routes.layer(from_fn_with_state(turns.clone(), places::wait)).route("/v1/openapi.json", get(description))
}

/// Where clients come in.
trait Door: Send + 'static {
    type Client: AsyncRead + AsyncWrite + Send + 'static;

    /// The next one, and who it is.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Client, Peer)>> + Send;

    /// Says something to a client without waiting.
    fn say(client: &Self::Client, words: &[u8]) -> io::Result<usize>;
}

impl Door for tokio::net::UnixListener {
    type Client = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<(Self::Client, Peer)> {
        let (stream, _) = self.accept().await?;
        let user = stream.peer_cred().map_or(STRANGER, |peer| Peer(peer.uid()));
        Ok((stream, user))
    }

    fn say(client: &Self::Client, words: &[u8]) -> io::Result<usize> {
        client.try_write(words)
    }
}

impl Door for tokio::net::TcpListener {
    type Client = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<(Self::Client, Peer)> {
        self.accept().await.map(|(stream, _)| (stream, STRANGER))
    }

    fn say(client: &Self::Client, words: &[u8]) -> io::Result<usize> {
        client.try_write(words)
    }
}

/// Serves each client in a task of its own, for as long as it keeps its place.
async fn accept<D: Door>(door: D, routes: Router, places: Arc<Places>) {
    loop {
        let Ok((client, peer)) = door.next().await else {
            out_of_descriptors().await;
            continue;
        };
        let Some(place) = places.take(peer) else {
            // It may have gone already.
            let _ = D::say(&client, BUSY);
            continue;
        };
        let routes = routes.clone().layer(Extension(peer));
        tokio::spawn(async move {
            converse(client, routes).await;
            drop(place);
        });
    }
}

/// They come back when clients leave.
async fn out_of_descriptors() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Send + 'static, routes: Router) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(PATIENCE));
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LONGEST).half_close(true);
    // How a conversation ends is the client's business.
    let _ =
        connection.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes)).await;
}

/// What a server answers to bytes, whatever they are, from this user; for tests and fuzzing.
///
/// # Errors
/// There is no socket or thread to be had.
pub fn answer_to(request: &[u8], gateway: Arc<DataPlane>, more: Router, user: u32) -> io::Result<Vec<u8>> {
    let (mut client, server) = std::os::unix::net::UnixStream::pair()?;
    server.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = with_turns(routes(gateway), &Turns::new()).merge(more).layer(Extension(Peer(user)));
    std::thread::scope(|scope| {
        let answered = scope.spawn(move || {
            let mut answer = Vec::new();
            // Who is cut off has said enough.
            let _ = client.write_all(request).and_then(|()| client.shutdown(Shutdown::Write));
            let _ = client.read_to_end(&mut answer);
            answer
        });
        runtime.block_on(async {
            converse(tokio::net::UnixStream::from_std(server)?, routes).await;
            io::Result::Ok(())
        })?;
        answered.join().map_err(|_| io::Error::other("the client's thread has died"))
    })
}

fn error(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

/// What the data plane says, asked on a thread that may wait.
async fn answer<T: IntoResponse + Send + 'static>(
    gateway: Gateway,
    question: impl FnOnce(&DataPlane) -> Result<T, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || question(&gateway)).await {
        Ok(Ok(said)) => said.into_response(),
        Ok(Err(words)) => error(StatusCode::SERVICE_UNAVAILABLE, &words),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be made; the log may say why"),
    }
}

#[derive(Deserialize)]
struct Within {
    within: Option<String>,
}

/// A listing, as `sluice show TOPIC --json` prints it.
#[utoipa::path(
    get,
    path = "/v1/show/{topic}",
    params(
        ("topic" = String, Path, description = "As `sluice show --help` lists them"),
        ("within" = Option<String>, Query, description = "Of routes: those within a prefix, or the one of an address")
    ),
    responses(
        (status = 200, description = "The listing; docs/counters.md has its fields", body = Object),
        (status = 404, description = "No such topic"),
        (status = 503, description = "A worker does not answer")
    )
)]
async fn show(
    Of(gateway): Of<Gateway>,
    Place(topic): Place<String>,
    asked: Result<Asked<Within>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let within = match asked {
        Ok(Asked(Within { within })) => within,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    if let Some(Err(wrong)) = within.as_deref().map(crate::routes::within) {
        return error(StatusCode::BAD_REQUEST, &wrong);
    }
    match Topic::from_str(&topic, false) {
        Ok(Topic::Routes) => answer(gateway, move |gateway| gateway.routes(within).map(Json)).await,
        Ok(topic) => answer(gateway, move |gateway| gateway.show(topic).map(Json)).await,
        Err(_) => error(
            StatusCode::NOT_FOUND,
            &format!("there is no topic {topic}; `sluice show --help` lists them"),
        ),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
struct Largest {
    /// By what; bits a second if it is left out.
    #[serde(default)]
    by: TopBy,
    /// How many at most; 50 if it is left out.
    limit: Option<u32>,
}

impl Largest {
    fn parts(&self) -> (TopBy, u32) {
        (self.by, self.limit.unwrap_or(50))
    }
}

type Wrong = axum::extract::rejection::QueryRejection;

/// The sessions that move the most now, the largest first, of the 256 that each worker has in view.
#[utoipa::path(get, path = "/v1/top/flows", params(Largest), responses((status = 200, description = "As /v1/show/flows, with rates", body = [Object])))]
async fn top_flows(Of(gateway): Of<Gateway>, asked: Result<Asked<Largest>, Wrong>) -> Response {
    match asked.map(|Asked(asked)| asked.parts()) {
        Ok((by, limit)) => answer(gateway, move |state| state.top_flows(by, limit).map(Json)).await,
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

/// The hosts that began the sessions that move the most now, the largest first.
#[utoipa::path(get, path = "/v1/top/hosts", params(Largest), responses((status = 200, description = "Hosts with their rates", body = [Object])))]
async fn top_hosts(Of(gateway): Of<Gateway>, asked: Result<Asked<Largest>, Wrong>) -> Response {
    match asked.map(|Asked(asked)| asked.parts()) {
        Ok((by, limit)) => answer(gateway, move |state| state.top_hosts(by, limit).map(Json)).await,
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
struct Explained {
    /// The packet in words, as `sluice explain --help` has them.
    packet: String,
}

/// What would become of a packet, stage by stage.
#[utoipa::path(get, path = "/v1/explain", params(Explained), responses((status = 200, description = "What each stage would do", body = Object), (status = 400, description = "The words are wrong")))]
async fn explained(
    Of(gateway): Of<Gateway>,
    asked: Result<Asked<Explained>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match asked {
        Ok(Asked(Explained { packet })) => {
            let told = |told: Result<Box<RawValue>, String>| match told {
                Ok(story) => Json(story).into_response(),
                Err(words) => error(StatusCode::BAD_REQUEST, &words),
            };
            answer(gateway, move |state| state.explain(packet).map(told)).await
        }
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
struct Who {
    /// The external address.
    #[param(value_type = String)]
    address: Ipv4Addr,
    /// The external port, or echo identifier.
    port: u16,
}

/// Which inside address has this external address and port now.
#[utoipa::path(get, path = "/v1/nat/who", params(Who), responses((status = 200, description = "Whoever is found", body = [Object])))]
async fn nat_who(
    Of(gateway): Of<Gateway>,
    asked: Result<Asked<Who>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match asked {
        Ok(Asked(Who { address, port })) => nat(gateway, Query::Who { address, port }).await,
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
struct Where {
    /// The inside address.
    #[param(value_type = String)]
    subscriber: std::net::IpAddr,
}

/// Which external addresses and ports this inside address has now.
#[utoipa::path(get, path = "/v1/nat/where", params(Where), responses((status = 200, description = "All that is found", body = [Object])))]
async fn nat_where(
    Of(gateway): Of<Gateway>,
    asked: Result<Asked<Where>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match asked {
        Ok(Asked(Where { subscriber })) => nat(gateway, Query::Where { subscriber }).await,
        Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

async fn nat(gateway: Gateway, query: Query) -> Response {
    answer(gateway, move |gateway| gateway.nat_query(query).map(Json)).await
}

/// Everything that is counted, for Prometheus (text format 0.0.4).
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "The metrics", content_type = "text/plain")))]
async fn metrics_page(Of(gateway): Of<Gateway>) -> Response {
    let page = |gateway: &DataPlane| {
        gateway.metrics().map(|page| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page))
    };
    answer(gateway, page).await
}
