//! The SPIFFE Workload API of this machine's agent: gRPC on a Unix socket, made by hand on HTTP/2.
//!
//! Three of its calls are made, and all three answer with a stream: each message says all that there is at that
//! moment, so what is not in a message is not there any more. Nothing that is read here is believed because it can
//! be read; but whoever has the socket vouches for everybody in the trust domains that it is configured for.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::RecvStream;
use h2::client::{Builder, Connection};
use http::{HeaderMap, Request};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Evidence;
use super::certificates::{Leaf, split};
use super::claims::Skew;
use super::fetch::FetchError;
use crate::model::name::InvalidName;
use crate::model::spiffe::SpiffeId;
use crate::model::time::Timestamp;

/// The longest message that is read, in bytes: what gRPC itself takes by default.
const LONGEST: usize = 4 << 20;
/// How long the agent may take until its first message.
const PATIENCE: Duration = Duration::from_secs(10);
/// A request without content, as all of these are, in the frame of gRPC.
const NOTHING: &[u8] = &[0; 5];

/// Where the Workload API is.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadApi(PathBuf);

impl FromStr for WorkloadApi {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix:");
        let path = path.map(|path| path.strip_prefix("//").unwrap_or(path));
        match path.filter(|path| path.starts_with('/') && !path.contains(['?', '#', '\0'])) {
            Some(path) => Ok(Self(path.into())),
            None => Err(InvalidName::new(
                "address of a Workload API",
                text,
                "write the socket of the agent on this machine: unix:///run/spire/sockets/agent.sock",
            )),
        }
    }
}

impl fmt::Display for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl fmt::Debug for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    X509Svid,
    X509Bundles,
    JwtBundles,
}

impl Call {
    const fn method(self) -> &'static str {
        // The authority means nothing on a socket.
        match self {
            Self::X509Svid => "http://localhost/SpiffeWorkloadAPI/FetchX509SVID",
            Self::X509Bundles => "http://localhost/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::JwtBundles => "http://localhost/SpiffeWorkloadAPI/FetchJWTBundles",
        }
    }
}

/// An X.509-SVID of our own.
#[derive(Debug)]
pub struct Svid {
    /// Who we are by it.
    pub id: SpiffeId,
    /// Our certificate first, then those between it and its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of our certificate.
    pub key: PrivateKeyDer<'static>,
    /// Until when our certificate is good.
    pub expires_at: Timestamp,
}

/// Our X.509-SVIDs as they come.
pub struct Svids(Messages);

impl Svids {
    /// The next one: the default, which is the first in a message. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Svid, FetchError> {
        svid(&self.0.next().await?)
    }
}

impl WorkloadApi {
    /// Asks for our X.509-SVID: the one there is now, and a stream with those to come.
    pub async fn svid(&self) -> Result<(Svid, Svids), FetchError> {
        let (first, messages) = self.call(Call::X509Svid).await?;
        Ok((svid(&first).map_err(|e| self.about(&e))?, Svids(messages)))
    }

    /// Makes a call: its first message, and a stream with those to come.
    pub(super) async fn call(&self, call: Call) -> Result<(Zeroizing<Vec<u8>>, Messages), FetchError> {
        let asked = async {
            let mut messages = self.open(call).await?;
            let first = messages.next().await?;
            Ok((first, messages))
        };
        let answered = timeout(PATIENCE, asked).await;
        let answered = answered.unwrap_or_else(|_| Err(FetchError("it did not answer in time".into())));
        answered.map_err(|error| self.about(&error))
    }

    async fn open(&self, call: Call) -> Result<Messages, FetchError> {
        let socket = UnixStream::connect(&self.0).await.map_err(failed)?;
        let mut builder = Builder::new();
        builder.enable_push(false).max_header_list_size(16 << 10);
        let (requests, connection) = builder.handshake(socket).await.map_err(failed)?;
        let mut driven = Driven {
            connection,
            over: false,
        };
        let exchange = async move {
            let mut requests = requests.ready().await.map_err(failed)?;
            let request = Request::post(call.method())
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // Whoever can be made to send a request for somebody else cannot be made to send this.
                .header("workload.spiffe.io", "true")
                .body(())
                .map_err(failed)?;
            let (response, mut sending) = requests.send_request(request, false).map_err(failed)?;
            sending.send_data(NOTHING, true).map_err(failed)?;
            let (head, body) = response.await.map_err(failed)?.into_parts();
            if head.status != http::StatusCode::OK {
                return Err(FetchError(format!("it answered {}", head.status)));
            }
            if head.headers.contains_key("grpc-status") {
                return Err(ended(&head.headers));
            }
            Ok(body)
        };
        let body = driven.until(exchange).await?;
        Ok(Messages {
            driven,
            body,
            read: Zeroizing::default(),
        })
    }

    fn about(&self, error: &FetchError) -> FetchError {
        FetchError(format!("{self}: {error}"))
    }
}

/// A connection, which moves on only while it is looked at.
struct Driven {
    connection: Connection<UnixStream, &'static [u8]>,
    /// It has ended; what was read from it is still there to be taken.
    over: bool,
}

impl Driven {
    async fn until<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if !self.over {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // Why it ended, the work is told too.
                _ended = &mut self.connection => self.over = true,
            }
        }
        work.await
    }
}

/// The messages of a call.
pub(super) struct Messages {
    driven: Driven,
    body: RecvStream,
    /// What was read and is no whole message yet. It may be part of a private key.
    read: Zeroizing<Vec<u8>>,
}

impl Messages {
    /// Waits for the next message. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        loop {
            if let Some(message) = whole(&mut self.read)? {
                return Ok(message);
            }
            match self.driven.until(self.body.data()).await {
                Some(part) => {
                    let part = part.map_err(failed)?;
                    self.body
                        .flow_control()
                        .release_capacity(part.len())
                        .map_err(failed)?;
                    self.read.extend_from_slice(&part);
                }
                None => {
                    let trailers = self.driven.until(self.body.trailers()).await;
                    return Err(ended(&trailers.map_err(failed)?.unwrap_or_default()));
                }
            }
        }
    }
}

/// Takes the first message out of what was read, where it is whole.
fn whole(read: &mut Zeroizing<Vec<u8>>) -> Result<Option<Zeroizing<Vec<u8>>>, FetchError> {
    let Some((head, rest)) = read.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if compressed != 0 || length > LONGEST {
        return Err(FetchError(format!(
            "its message is compressed, or longer than {LONGEST} bytes"
        )));
    }
    let Some((message, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let (message, rest) = (Zeroizing::new(message.to_vec()), Zeroizing::new(rest.to_vec()));
    *read = rest;
    Ok(Some(message))
}

/// Why there is no further message.
fn ended(trailers: &HeaderMap) -> FetchError {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let said: String = text("grpc-message")
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    FetchError(match text("grpc-status") {
        Some("0") => "it ended the stream".into(),
        // PermissionDenied
        Some("7") => format!(
            "it has no identity for this process ({said}): register the broker with the agent's server, by what \
             the agent sees of it"
        ),
        Some(status) => format!("gRPC status {status} ({said})"),
        None => "it is no gRPC service, or it went away".into(),
    })
}

fn failed(error: impl fmt::Display) -> FetchError {
    FetchError(error.to_string())
}

/// The first of `X509SVIDResponse { svids: 1 }`, each `{ spiffe_id: 1, x509_svid: 2, x509_svid_key: 3, bundle: 4 }`.
fn svid(message: &[u8]) -> Result<Svid, FetchError> {
    let unusable = |reason: &dyn fmt::Display| FetchError(format!("its X.509-SVID cannot be used: {reason}"));
    let mut svids = Fields(message).filter(|field| !matches!(field, Ok((number, _)) if *number != 1));
    let (_, first) = svids.next().ok_or_else(|| unusable(&"there is none"))??;
    let (mut id, mut chain, mut key) = Default::default();
    for field in Fields(first) {
        match field? {
            (1, value) => id = value,
            (2, value) => chain = value,
            (3, value) => key = value,
            _ => {}
        }
    }
    let chain = split(chain).ok_or_else(|| unusable(&"its chain of certificates cannot be read"))?;
    Evidence::fits(&chain).map_err(|e| unusable(&e))?;
    let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let leaf = Leaf::read(leaf, Skew::default()).map_err(|e| unusable(&e))?;
    if leaf.id.to_string().as_bytes() != id {
        return Err(unusable(
            &"the certificate is of another SPIFFE ID than the message says",
        ));
    }
    Ok(Svid {
        expires_at: leaf.not_after,
        id: leaf.id,
        chain: chain.into_iter().map(CertificateDer::into_owned).collect(),
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())),
    })
}

/// The bundle of this trust domain in a message of this call, as a document in SPIFFE's format. `None` where the
/// message has none of it; those of other trust domains are not looked at.
pub(super) fn bundle(call: Call, message: &[u8], domain: &str) -> Result<Option<Vec<u8>>, FetchError> {
    // `X509BundlesResponse { crl: 1, bundles: 2 }`, `JWTBundlesResponse { bundles: 1 }`: maps from SPIFFE ID to bytes.
    let place = if call == Call::X509Bundles { 2 } else { 1 };
    let name = format!("spiffe://{domain}");
    let mut found = None;
    for field in Fields(message) {
        let (number, entry) = field?;
        if number != place {
            continue;
        }
        let (mut key, mut value): (&[u8], &[u8]) = Default::default();
        for field in Fields(entry) {
            match field? {
                (1, content) => key = content,
                (2, content) => value = content,
                _ => {}
            }
        }
        if key == name.as_bytes() {
            found = Some(value);
        }
    }
    let unreadable = || FetchError(format!("its bundle of `{domain}` cannot be read"));
    let keys = match (found, call) {
        (None, _) => return Ok(None),
        (Some(der), Call::X509Bundles) => {
            let authorities = split(der)
                .filter(|found| !found.is_empty())
                .ok_or_else(unreadable)?;
            let entry = |der: &CertificateDer<'_>| json!({"use": "x509-svid", "x5c": [BASE64.encode(der)]});
            authorities.iter().map(entry).collect()
        }
        (Some(json), _) => {
            let mut document: Value = serde_json::from_slice(json).map_err(|_| unreadable())?;
            let keys = document.get_mut("keys").map(Value::take).unwrap_or_default();
            let Value::Array(mut keys) = keys else {
                return Err(unreadable());
            };
            // It is a plain JWK Set: whatever is in it is for JWT-SVIDs, and may say so.
            for key in keys.iter_mut().filter_map(Value::as_object_mut) {
                key.entry("use").or_insert_with(|| json!("jwt-svid"));
            }
            keys
        }
    };
    // Without the sequence, if any: what comes later in a stream is newer.
    serde_json::to_vec(&json!({ "keys": Value::Array(keys) }))
        .map(Some)
        .map_err(failed)
}

/// The fields with a length of a message of protobuf, each with its number.
struct Fields<'m>(&'m [u8]);

impl<'m> Iterator for Fields<'m> {
    type Item = Result<(u64, &'m [u8]), FetchError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some((number, Some(content))) => return Some(Ok((number, content))),
                Some((_, None)) => {}
                None => {
                    self.0 = &[];
                    return Some(Err(FetchError("its message cannot be read".into())));
                }
            }
        }
        None
    }
}

impl<'m> Fields<'m> {
    fn field(&mut self) -> Option<(u64, Option<&'m [u8]>)> {
        let tag = self.varint()?;
        let (has_content, length) = match tag & 7 {
            0 => {
                self.varint()?;
                (false, 0)
            }
            1 => (false, 8),
            2 => (true, usize::try_from(self.varint()?).ok()?),
            5 => (false, 4),
            _ => return None,
        };
        let (content, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((tag >> 3, has_content.then_some(content)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    const ID: &str = "spiffe://example.org/dayfly";

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        let [high, low] = (((length >> 7) << 8) | (length & 0x7f)).to_be_bytes();
        [&[(number << 3) | 2, low | 0x80, high], content].concat()
    }

    /// Of our own, with its key.
    fn leaf() -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = params.self_signed(&key).unwrap();
        (leaf.der().to_vec(), key.serialize_der())
    }

    fn one(id: &str, chain: &[u8], key: &[u8]) -> Vec<u8> {
        let fields = [
            field(1, id.as_bytes()),
            field(2, chain),
            field(3, key),
            field(4, b"ca"),
        ];
        field(1, &fields.concat())
    }

    #[test]
    fn the_first_svid_is_the_default_one() {
        let (der, key) = leaf();
        let chain = [&der[..], &der].concat();
        // With a number and a field that nobody knows yet, before it.
        let mut message = vec![(9 << 3), 0x96, 0x01];
        message.extend(field(12, b"news"));
        message.extend(one(ID, &chain, &key));
        message.extend(one("spiffe://example.org/another", b"", b""));
        let svid = svid(&message).unwrap();
        assert_eq!(svid.id.to_string(), ID);
        assert_eq!(svid.chain.len(), 2);
        assert_eq!(svid.key.secret_der(), key);
        assert!(!format!("{svid:?}").contains(&format!("{:?}", &key[..8])));
    }

    #[test]
    fn what_is_no_svid_is_refused() {
        let (der, key) = leaf();
        let good = one(ID, &der, &key);
        for end in 0..good.len() {
            assert!(svid(&good[..end]).is_err(), "{end}");
        }
        for (bad, says) in [
            (Vec::new(), "there is none"),
            (one("spiffe://example.org/b", &der, &key), "another SPIFFE ID"),
            (one(ID, b"", &key), "no evidence"),
            (one(ID, &der[1..], &key), "cannot be read"),
            (one(ID, &der.repeat(9), &key), "more than 8 certificates"),
        ] {
            let refused = svid(&bad).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    fn entry(domain: &str, bundle: &[u8]) -> Vec<u8> {
        [
            field(1, format!("spiffe://{domain}").as_bytes()),
            field(2, bundle),
        ]
        .concat()
    }

    fn read(call: Call, message: &[u8]) -> Result<Option<Value>, FetchError> {
        let document = bundle(call, message, "example.org")?;
        Ok(document.map(|json| serde_json::from_slice(&json).unwrap()))
    }

    #[test]
    fn a_bundle_is_that_of_its_own_trust_domain() {
        let (der, _) = leaf();
        let both = [&der[..], &der].concat();
        let message = [
            field(1, b"a revocation list"),
            field(2, &entry("other.org", b"nonsense")),
            field(2, &entry("example.org", &both)),
            field(2, &entry("example.org.evil", &der)),
        ];
        let found = read(Call::X509Bundles, &message.concat()).unwrap().unwrap();
        let entry_of = json!({"use": "x509-svid", "x5c": [BASE64.encode(&der)]});
        assert_eq!(found, json!({"keys": [entry_of, entry_of]}));
        assert_eq!(read(Call::X509Bundles, &message[1]).unwrap(), None);
        for empty_or_bad in [&b""[..], b"nonsense", &der[..9]] {
            let message = field(2, &entry("example.org", empty_or_bad));
            assert!(read(Call::X509Bundles, &message).is_err());
        }
    }

    #[test]
    fn keys_that_do_not_say_what_they_are_for_are_for_jwt_svids() {
        let jwks = json!({"keys": [{"kid": "a"}, {"kid": "b", "use": "x509-svid"}, 7], "spiffe_sequence": 3});
        let message = field(1, &entry("example.org", jwks.to_string().as_bytes()));
        let found = read(Call::JwtBundles, &message).unwrap().unwrap();
        let keys = json!([{"kid": "a", "use": "jwt-svid"}, {"kid": "b", "use": "x509-svid"}, 7]);
        assert_eq!(found, json!({ "keys": keys }));
        for bad in ["", "{}", r#"{"keys": {}}"#, "[]"] {
            let message = field(1, &entry("example.org", bad.as_bytes()));
            assert!(read(Call::JwtBundles, &message).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_taken_out_whole_and_bounded() {
        let mut read = Zeroizing::new(Vec::new());
        for (byte, is_whole) in [
            (0, false),
            (0, false),
            (0, false),
            (0, false),
            (2, false),
            (7, false),
            (8, true),
        ] {
            read.push(byte);
            let taken = whole(&mut read).unwrap();
            assert_eq!(
                taken.map(|message| message.to_vec()),
                is_whole.then(|| vec![7, 8])
            );
        }
        assert!(read.is_empty());
        let long = u32::try_from(LONGEST + 1).unwrap().to_be_bytes();
        assert!(whole(&mut [&[0], &long[..]].concat().into()).is_err());
        assert!(whole(&mut vec![1, 0, 0, 0, 0].into()).is_err(), "compressed");
    }

    #[test]
    fn takes_sockets_of_this_machine_only() {
        for good in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            let api: WorkloadApi = good.parse().unwrap();
            assert_eq!(api.to_string(), "unix:///run/spire/agent.sock");
        }
        for bad in [
            "",
            "/run/a.sock",
            "unix:a.sock",
            "unix://",
            "tcp://127.0.0.1:8081",
            "unix:///a?b",
        ] {
            assert!(bad.parse::<WorkloadApi>().is_err(), "{bad}");
        }
    }
}
