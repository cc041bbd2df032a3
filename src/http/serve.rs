//! The listener: connections with limits, and a shutdown that lets requests finish.
//!
//! Nothing that a peer does before its first whole request costs more than a bounded buffer for a
//! bounded time, and neither does an answer that it does not read. HTTP/1.1 and HTTP/2, in TLS or in plaintext.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Limits;
use super::reader::Reader;
use super::tls::{Presented, Tls};

/// How long accepting rests when the system is out of files or memory.
const REST: Duration = Duration::from_millis(200);
/// Requests that one HTTP/2 connection may have under way.
const MOST_STREAMS: u32 = 128;
/// Requests that an HTTP/2 peer may have taken back before Dayfly got to them. One that takes back as
/// fast as it asks (CVE-2023-44487) is sent away.
const MOST_TAKEN_BACK: usize = 20;
/// Requests on an HTTP/2 connection that Dayfly may have broken off because of faults of the peer's.
const MOST_BROKEN_OFF: usize = 128;

/// Bounds on what a connection can make Dayfly hold.
#[derive(Clone, Debug)]
struct Bounds {
    /// Connections at a time; more wait in the system's queue.
    connections: u32,
    /// The largest request line and headers together, in bytes.
    header_bytes: u32,
    /// The most headers.
    headers: usize,
    /// How long a TLS handshake may take, and then the headers of a request to come.
    header_time: Duration,
    /// How long a peer may leave what it is sent unread.
    read_time: Duration,
    /// After how long without a new request a connection is closed.
    idle: Duration,
    /// How long requests have to finish when Dayfly stops.
    drain: Duration,
}

impl Bounds {
    /// Evidence takes 16 KiB at most, and little else comes in headers.
    const fn draining(drain: Duration) -> Self {
        Self {
            connections: 10_000,
            header_bytes: 32 * 1024,
            headers: 64,
            header_time: Duration::from_secs(10),
            read_time: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            drain,
        }
    }
}

/// How a server comes to its end, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Farewell {
    /// It is about to stop. Whoever asks is answered still, and told to connect elsewhere the next time:
    /// a connection is closed after an answer and never under a request that is on its way.
    pub leaving: CancellationToken,
    /// It stops.
    pub stop: CancellationToken,
}

impl Farewell {
    /// The same for one connection. Tokens of its own: a connection looks at them each time it wakes, and all
    /// would look at one.
    fn child(&self) -> Self {
        Self {
            leaving: self.leaving.child_token(),
            stop: self.stop.child_token(),
        }
    }
}

/// Serves until told to stop; then accepts nothing new, and returns when every connection has
/// finished or the drain time is up. Connections run on the tracker, each with the routes of the
/// instant that it was accepted.
///
/// With `tls`, requests come in it; without, in plaintext.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: watch::Receiver<Router>,
    limits: Limits,
    farewell: Farewell,
    tracker: TaskTracker,
) -> io::Result<()> {
    within(
        Bounds::draining(limits.drain),
        listener,
        tls,
        routes,
        farewell,
        tracker,
    )
    .await
}

async fn within(
    limits: Bounds,
    listener: TcpListener,
    tls: Option<Tls>,
    routes: watch::Receiver<Router>,
    farewell: Farewell,
    tracker: TaskTracker,
) -> io::Result<()> {
    let stop = farewell.stop.clone();
    let places = Arc::new(Semaphore::new(
        usize::try_from(limits.connections).unwrap_or(usize::MAX),
    ));
    let cut = CancellationToken::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_of_the_peer(&error) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections for now");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            },
        };
        let router = routes.borrow().clone();
        let connection = accepted(stream, tls.clone(), router, limits.clone(), farewell.child());
        let cut = cut.child_token();
        tracker.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    let all = places.acquire_many(limits.connections);
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        tracing::warn!("some requests did not finish within the drain time and are cut off");
        cut.cancel();
    }
    Ok(())
}

/// The peer went away before it was accepted. Nothing is wrong here.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// One connection, from its first byte on.
async fn accepted(stream: TcpStream, tls: Option<Tls>, router: Router, limits: Bounds, farewell: Farewell) {
    // Answers are small: waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection broke off");
        return;
    }
    // Below TLS, which takes what is written to it and keeps it.
    let stream = Reader::new(stream, limits.read_time);
    let Some(tls) = tls else {
        return connection(stream, None, router, limits, farewell).await;
    };
    let shaken = tokio::select! {
        // No request is under way in it.
        () = farewell.stop.cancelled() => return,
        shaken = tls.shake(stream, limits.header_time) => shaken,
    };
    match shaken {
        Ok(stream) => {
            let presented = tls.presented(&stream);
            connection(stream, presented, router, limits, farewell).await;
        }
        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
    }
}

/// Requests and answers, until the peer or the server ends the connection. A connection that starts no request for as
/// long as `limits.idle` is closed, and so is one whose certificate is worth nothing any more: whoever is at the other
/// end connects anew, with a newer one. What is under way on it finishes.
async fn connection<S>(
    stream: S,
    presented: Option<Presented>,
    router: Router,
    limits: Bounds,
    farewell: Farewell,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Arc::new(AtomicBool::new(false));
    let seen = busy.clone();
    let Farewell { leaving, stop } = farewell;
    let proven = presented.clone();
    let over = async || match &proven {
        Some(proven) => proven.over().await,
        None => pending().await,
    };
    let service = tower::service_fn(move |mut request: axum::http::Request<_>| {
        seen.store(true, Ordering::Relaxed);
        if let Some(presented) = &presented {
            request.extensions_mut().insert(presented.clone());
        }
        // HTTP/2 has a farewell of its own, which loses no request.
        let old = request.version() < Version::HTTP_2;
        let answering = router.clone().oneshot(request.map(Body::new));
        let (leaving, presented) = (leaving.clone(), presented.clone());
        async move {
            let mut answer = answering.await?;
            let over = presented.is_some_and(|presented| presented.is_over());
            if old && (over || leaving.is_cancelled()) {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = builder(&limits);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    let mut closing = false;
    loop {
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection broke off");
                }
                return;
            }
            () = stop.cancelled(), if !closing => closing = true,
            () = over(), if !closing => closing = true,
            () = tokio::time::sleep(limits.idle), if !closing => closing = !busy.swap(false, Ordering::Relaxed),
        }
        if closing {
            serving.as_mut().graceful_shutdown();
        }
    }
}

fn builder(limits: &Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(usize::try_from(limits.header_bytes).unwrap_or(usize::MAX))
        .max_headers(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_TAKEN_BACK)
        .max_local_error_reset_streams(MOST_BROKEN_OFF)
        .keep_alive_interval(limits.idle)
        .keep_alive_timeout(limits.header_time);
    builder
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Notify;
    use tokio::time::Instant;

    use super::*;
    use crate::broker::error::BrokerError;
    use crate::identity::{Evidence, IdentityError};

    struct Server {
        address: std::net::SocketAddr,
        farewell: Farewell,
        done: tokio::task::JoinHandle<io::Result<()>>,
        tracker: TaskTracker,
    }

    async fn start(router: Router, limits: Bounds) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (farewell, tracker) = (Farewell::default(), TaskTracker::new());
        let (leaving, tracked) = (farewell.clone(), tracker.clone());
        let done = tracker.spawn(within(
            limits,
            listener,
            None,
            watch::channel(router).1,
            leaving,
            tracked,
        ));
        Server {
            address,
            farewell,
            done,
            tracker,
        }
    }

    async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn short() -> Bounds {
        Bounds {
            idle: Duration::from_millis(50),
            header_time: Duration::from_millis(50),
            read_time: Duration::from_millis(50),
            headers: 10,
            ..Bounds::draining(Duration::from_millis(100))
        }
    }

    #[tokio::test]
    async fn finishes_what_is_under_way_and_takes_nothing_new() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, go) = (entered.clone(), release.clone());
        let slow = get(move || async move {
            inside.notify_one();
            go.notified().await;
            "done"
        });
        let server = start(
            Router::new().route("/", slow),
            Bounds::draining(Duration::from_secs(60)),
        )
        .await;
        let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let asked = server.tracker.spawn(exchange(server.address, request));
        entered.notified().await;
        server.farewell.stop.cancel();
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        let answer = asked.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("done"), "{answer}");
        server.done.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn cuts_off_what_does_not_finish_in_time() {
        let entered = Arc::new(Notify::new());
        let inside = entered.clone();
        let stuck = get(move || async move {
            inside.notify_one();
            std::future::pending::<()>().await;
        });
        let server = start(Router::new().route("/", stuck), short()).await;
        let asked = server
            .tracker
            .spawn(exchange(server.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
        entered.notified().await;
        server.farewell.stop.cancel();
        server.done.await.unwrap().unwrap();
        assert_eq!(asked.await.unwrap(), "");
        server.tracker.close();
        server.tracker.wait().await;
    }

    #[tokio::test]
    async fn before_it_stops_it_answers_and_closes_each_connection_after_an_answer() {
        let router = Router::new().route("/", get(async || "ok"));
        let server = start(router, Bounds::draining(Duration::from_secs(60))).await;
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut kept = TcpStream::connect(server.address).await.unwrap();
        kept.write_all(request).await.unwrap();
        let mut answer = [0; 4096];
        let length = kept.read(&mut answer).await.unwrap();
        let before = String::from_utf8_lossy(&answer[..length]).to_lowercase();
        assert!(!before.contains("connection: close"), "{before}");

        server.farewell.leaving.cancel();
        // On a connection that was there, and on a new one.
        kept.write_all(request).await.unwrap();
        let mut rest = String::new();
        kept.read_to_string(&mut rest).await.unwrap();
        let other = exchange(server.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        for answer in [rest, other] {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        }
    }

    #[tokio::test]
    async fn closes_connections_on_which_nothing_comes() {
        let server = start(Router::new(), short()).await;
        for beginning in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: x\r\nslow"] {
            let answer = exchange(server.address, beginning).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{beginning:?}: {answer}"
            );
        }
    }

    fn presented(until: Option<Instant>) -> Presented {
        Presented::new(Evidence::chain(vec![vec![0x30, 0].into()]).unwrap(), until)
    }

    /// Asks once, and reads as much as comes at a time.
    async fn ask(stream: &mut DuplexStream) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).to_lowercase()
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_ends_with_its_certificate() {
        let slow = async || {
            tokio::time::sleep(Duration::from_secs(8)).await;
            "ok"
        };
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/slow", get(slow));
        let (mut near, far) = duplex(4096);
        let tracker = TaskTracker::new();
        let presented = presented(Some(Instant::now() + Duration::from_secs(22)));
        let bounds = Bounds::draining(Duration::from_secs(1));
        tracker.spawn(connection(
            far,
            Some(presented),
            router,
            bounds,
            Farewell::default(),
        ));
        for _ in 0..4 {
            let answer = ask(&mut near).await;
            assert!(
                answer.starts_with("http/1.1 200") && !answer.contains("close"),
                "{answer}"
            );
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        // What is under way is finished, and says that it was the last.
        near.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        let rest = rest.to_lowercase();
        assert!(
            rest.starts_with("http/1.1 200") && rest.contains("connection: close"),
            "{rest}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_certificate_was_refused_ends_after_the_answer() {
        let answers = |outcome: fn() -> Result<(), BrokerError>| {
            get(async move |request: axum::extract::Request| {
                let presented = request.extensions().get::<Presented>().unwrap();
                let _said_otherwise = presented.judged(outcome());
                "answered"
            })
        };
        let refused = || Err(IdentityError::Refused("of a test".into()).into());
        let unavailable = || Err(IdentityError::Unavailable("of a test".into()).into());
        for (outcome, ends) in [
            (refused as fn() -> _, true),
            (unavailable, false),
            (|| Ok(()), false),
        ] {
            let (mut near, far) = duplex(4096);
            let tracker = TaskTracker::new();
            let router = Router::new().route("/", answers(outcome));
            let bounds = Bounds::draining(Duration::from_secs(1));
            tracker.spawn(connection(
                far,
                Some(presented(None)),
                router,
                bounds,
                Farewell::default(),
            ));
            let answer = ask(&mut near).await;
            assert!(answer.ends_with("answered"), "{answer}");
            assert_eq!(answer.contains("connection: close"), ends, "{answer}");
            if ends {
                assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
            } else {
                assert!(ask(&mut near).await.ends_with("answered"));
            }
        }
    }

    #[tokio::test]
    async fn refuses_too_many_headers() {
        let server = start(Router::new().route("/", get(async || "ok")), short()).await;
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(10));
        let answer = exchange(server.address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    #[tokio::test]
    async fn gives_up_a_peer_that_does_not_read() {
        let big = get(async || vec![b'x'; 64 << 20]); // more than the system buffers
        let limits = Bounds {
            idle: Duration::from_secs(60),
            ..short()
        };
        let server = start(Router::new().route("/", big), limits).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        while server.tracker.len() > 1 {
            tokio::task::yield_now().await;
        }
        let mut rest = Vec::new();
        let _broken_off = stream.read_to_end(&mut rest).await;
        assert!(rest.len() < 64 << 20, "the connection is given up");
    }

    /// An HTTP/2 frame (RFC 9113 §4.1).
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const CANCEL: u32 = 8;
    const ENHANCE_YOUR_CALM: u32 = 11;

    #[tokio::test]
    async fn a_peer_that_takes_back_as_fast_as_it_asks_is_sent_away() {
        let stuck = get(std::future::pending::<()>);
        let server = start(
            Router::new().route("/", stuck),
            Bounds::draining(Duration::from_secs(1)),
        )
        .await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let get = [0x82, 0x86, 0x84, 0x01, 0x01, b'x']; // GET http://x/ in HPACK (RFC 7541)
        let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        flood.extend(frame(SETTINGS, 0, 0, &[]));
        for id in (1..1000).step_by(2) {
            flood.extend(frame(HEADERS, 0x5, id, &get)); // whole, without a body
            flood.extend(frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes()));
        }
        stream.write_all(&flood).await.unwrap();
        let farewell = loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == GOAWAY {
                break payload;
            }
        };
        assert_eq!(farewell[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
    }

    #[tokio::test]
    async fn an_http_2_peer_learns_how_many_requests_it_may_have_under_way() {
        let server = start(Router::new(), Bounds::draining(Duration::from_secs(1))).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        stream.write_all(&hello).await.unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], SETTINGS);
        let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut settings).await.unwrap();
        let most = [&[0, 3][..], &MOST_STREAMS.to_be_bytes()].concat(); // SETTINGS_MAX_CONCURRENT_STREAMS
        assert!(settings.chunks(6).any(|setting| setting == most), "{settings:?}");
    }
}
