//! The SPIFFE Workload API: one call of gRPC, `FetchJWTSVID`, made by hand on HTTP/2.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Kept;
use crate::error::Error;
use crate::secret::Secret;

const TITLE: &str = "the SPIFFE Workload API gives no SVID";
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;
/// The method. The authority means nothing on a socket of this machine.
const METHOD: &str = "http://localhost/SpiffeWorkloadAPI/FetchJWTSVID";

/// The Workload API of this machine's agent.
pub(super) struct WorkloadApi {
    endpoint: Endpoint,
    audience: String,
    kept: Kept,
}

enum Endpoint {
    #[cfg(unix)]
    Unix(std::path::PathBuf),
    Tcp(std::net::SocketAddr),
}

fn failed(detail: impl std::fmt::Display) -> Error {
    Error::no_evidence(TITLE, detail.to_string())
}

impl WorkloadApi {
    pub(super) fn new(endpoint: &str, audience: &str) -> Result<Self, Error> {
        let wrong = || failed("SPIFFE_ENDPOINT_SOCKET is `unix:///path` or `tcp://address:port`");
        let endpoint = if let Some(address) = endpoint.strip_prefix("tcp://") {
            Endpoint::Tcp(address.parse().map_err(|_| wrong())?)
        } else {
            unix(endpoint).ok_or_else(wrong)?
        };
        Ok(Self {
            endpoint,
            audience: audience.to_owned(),
            kept: Kept::default(),
        })
    }

    pub(super) fn endpoint(&self) -> String {
        match &self.endpoint {
            #[cfg(unix)]
            Endpoint::Unix(path) => format!("unix://{}", path.display()),
            Endpoint::Tcp(address) => format!("tcp://{address}"),
        }
    }

    pub(super) async fn fetch(&self, anew: bool) -> Result<Secret, Error> {
        let half = |from: SystemTime, to: SystemTime| {
            let life = to.duration_since(from).unwrap_or_default();
            from + life / 2
        };
        self.kept.get(anew, half, async || self.ask().await).await
    }

    async fn ask(&self) -> Result<Secret, Error> {
        let asked = async {
            match &self.endpoint {
                #[cfg(unix)]
                Endpoint::Unix(path) => {
                    let socket = tokio::net::UnixStream::connect(path).await;
                    call(socket.map_err(failed)?, &self.audience).await
                }
                Endpoint::Tcp(address) => {
                    let socket = TcpStream::connect(address).await;
                    call(socket.map_err(failed)?, &self.audience).await
                }
            }
        };
        let answered = tokio::time::timeout(TIMEOUT, asked).await;
        answered.unwrap_or_else(|_| Err(failed("it took too long")))
    }
}

#[cfg(unix)]
fn unix(endpoint: &str) -> Option<Endpoint> {
    let path = endpoint.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    path.starts_with('/').then(|| Endpoint::Unix(path.into()))
}

#[cfg(not(unix))]
fn unix(_: &str) -> Option<Endpoint> {
    None
}

/// One call on a connection of its own.
async fn call<S: AsyncRead + AsyncWrite + Unpin>(socket: S, audience: &str) -> Result<Secret, Error> {
    let (requests, connection) = h2::client::handshake(socket).await.map_err(failed)?;
    let exchange = async move {
        let mut requests = requests.ready().await.map_err(failed)?;
        let request = Request::post(METHOD)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("workload.spiffe.io", "true")
            .body(())
            .map_err(failed)?;
        let (response, mut sending) = requests.send_request(request, false).map_err(failed)?;
        sending.send_data(question(audience), true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        let mut read = Vec::new();
        while let Some(part) = body.data().await {
            let part = part.map_err(failed)?;
            body.flow_control().release_capacity(part.len()).map_err(failed)?;
            if read.len() + part.len() > LONGEST {
                return Err(failed("its answer is too long"));
            }
            read.extend_from_slice(&part);
        }
        let trailers = body.trailers().await.map_err(failed)?;
        accepted(trailers.as_ref().unwrap_or(&head.headers))?;
        svid(&read).ok_or_else(|| failed("its answer cannot be read, or has no SVID"))
    };
    // The connection moves on only while it is looked at; it ends when the exchange has let go of it.
    tokio::select! {
        biased;
        answer = exchange => answer,
        ended = connection => Err(match ended {
            Ok(()) => failed("the connection ended"),
            Err(error) => failed(error),
        }),
    }
}

/// Whether gRPC says that the call went well.
fn accepted(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(status) => Err(failed(format!(
            "gRPC status {status} {}",
            text("grpc-message").unwrap_or_default()
        ))),
        None => Err(failed("it is no gRPC service")),
    }
}

/// `JWTSVIDRequest { audience: [audience] }` as one message of gRPC: not compressed, length, protobuf.
fn question(audience: &str) -> Bytes {
    let mut message = vec![(1 << 3) | 2];
    varint(audience.len(), &mut message);
    message.extend_from_slice(audience.as_bytes());
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn varint(mut value: usize, to: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

/// The first SVID of a `JWTSVIDResponse { svids: [JWTSVID { spiffe_id, svid, … }] }` in its frame.
fn svid(framed: &[u8]) -> Option<Secret> {
    let (head, message) = framed.split_at_checked(5)?;
    let (compressed, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let svid = field(field(message, 1)?, 2)?;
    let svid = std::str::from_utf8(svid).ok()?;
    (!svid.is_empty()).then(|| Secret::from(svid))
}

/// The first field of this number with a length, in a message of protobuf.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let value = match tag & 7 {
            0 => {
                read_varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(read_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(value)?;
        if tag == (number << 3) | 2 {
            return Some(value);
        }
        message = rest;
    }
    None
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::super::tests::token;
    use super::*;

    /// An answer with a field that nobody knows, and the SVID.
    fn answer(jwt: &str) -> Vec<u8> {
        let mut inner = vec![(1 << 3) | 2, 3];
        inner.extend_from_slice(b"idX");
        inner.extend_from_slice(&[(9 << 3), 0x96, 0x01, (2 << 3) | 2]);
        varint(jwt.len(), &mut inner);
        inner.extend_from_slice(jwt.as_bytes());
        let mut message = vec![(1 << 3) | 2];
        varint(inner.len(), &mut message);
        message.extend(inner);
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    /// Serves one call, and says what was asked.
    async fn serve(listener: &UnixListener, status: &'static str, body: Vec<u8>) -> (HeaderMap, Vec<u8>) {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchJWTSVID");
        let (head, mut asked) = request.into_parts();
        let exchange = async move {
            let mut read = Vec::new();
            while let Some(part) = asked.data().await {
                read.extend_from_slice(&part.unwrap());
            }
            let response = http::Response::builder().header("content-type", "application/grpc");
            let mut sending = respond.send_response(response.body(()).unwrap(), false).unwrap();
            sending.send_data(body.into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", "no identity issued".parse().unwrap());
            sending.send_trailers(trailers).unwrap();
            read
        };
        let (read, _) = tokio::join!(exchange, async { while connection.accept().await.is_some() {} });
        (head.headers, read)
    }

    #[tokio::test]
    async fn asks_for_an_svid_and_keeps_it_for_half_of_its_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let api = WorkloadApi::new(&format!("unix://{}", path.display()), "http://127.0.0.1:8440").unwrap();
        let jwt = token(Duration::from_secs(300), 1);
        let (served, given) = tokio::join!(serve(&listener, "0", answer(&jwt)), api.fetch(false));
        assert_eq!(given.unwrap().reveal(), jwt);
        assert_eq!(served.0["workload.spiffe.io"], "true");
        assert_eq!(&served.1[..7], &[0, 0, 0, 0, 23, 0x0a, 21]);
        assert_eq!(&served.1[7..], b"http://127.0.0.1:8440");
        assert_eq!(api.fetch(false).await.unwrap().reveal(), jwt, "kept");
        let next = token(Duration::from_secs(300), 2);
        let (_, given) = tokio::join!(serve(&listener, "0", answer(&next)), api.fetch(true));
        assert_eq!(given.unwrap().reveal(), next, "refused, so asked anew");
    }

    #[tokio::test]
    async fn says_why_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let api = WorkloadApi::new(&format!("unix:{}", path.display()), "a").unwrap();
        assert!(matches!(api.fetch(false).await, Err(Error::AttestationFailed(_))));
        let listener = UnixListener::bind(&path).unwrap();
        let (_, given) = tokio::join!(serve(&listener, "7", Vec::new()), api.fetch(false));
        let error = given.unwrap_err();
        assert!(
            error.detail().contains("gRPC status 7 no identity issued"),
            "{error}"
        );
        let (_, given) = tokio::join!(serve(&listener, "0", b"nonsense".to_vec()), api.fetch(false));
        assert!(given.is_err());
    }

    #[test]
    fn takes_the_endpoints_of_the_standard() {
        for good in ["unix:///run/a.sock", "unix:/run/a.sock", "tcp://127.0.0.1:8081"] {
            assert!(WorkloadApi::new(good, "a").is_ok(), "{good}");
        }
        for bad in [
            "",
            "/run/a.sock",
            "unix://run",
            "tcp://localhost:8081",
            "http://127.0.0.1",
        ] {
            assert!(WorkloadApi::new(bad, "a").is_err(), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_no_svid() {
        let good = answer("eyJ");
        assert_eq!(svid(&good).unwrap().reveal(), "eyJ");
        for end in 0..good.len() {
            assert!(svid(&good[..end]).is_none(), "{end}");
        }
        assert!(field(&[0xff; 12], 1).is_none());
        assert!(field(&[(1 << 3) | 2, 200, 1], 1).is_none());
    }
}
