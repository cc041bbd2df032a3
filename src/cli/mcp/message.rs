//! Messages of JSON-RPC 2.0 as they pass through: of each only what it takes to bring it to its place. The text
//! itself is passed on as it came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};

use super::fault::{Fault, Kind};

/// The most bytes that one message may have.
pub(super) const LARGEST: usize = 4 * 1024 * 1024;

/// The first version of MCP in which each request says its version, and headers say what is asked.
const STATELESS: &str = "2026-07-28";

/// Where a request says its version.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// The most bytes of a header that says what is asked.
const LONGEST_HEADER: usize = 8 * 1024;

/// What a request is known by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Id {
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
}

impl Id {
    /// The id in this JSON, if it is one.
    pub(super) fn read(json: &str) -> Option<Self> {
        Self::of(serde_json::from_str(json).ok()?)
    }

    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Number(number) => Some(Self::Number(number)),
            Value::String(text) => Some(Self::Text(text)),
            _ => None,
        }
    }

    /// As JSON.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
        }
    }
}

/// One message.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Message {
    /// As it came, on one line.
    pub(super) text: String,
    pub(super) shape: Shape,
}

/// Which of the three it is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Shape {
    /// Wants an answer.
    Request { id: Id, method: String },
    /// Wants none.
    Notification { method: String },
    /// Answers a request, or says that none could be read.
    Response { id: Option<Id>, failed: bool },
}

/// Members that come twice are refused, since the server might take the other one.
#[derive(Deserialize)]
struct Envelope<'m> {
    jsonrpc: String,
    #[serde(borrow, default)]
    id: Option<&'m RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    result: Option<&'m RawValue>,
    #[serde(borrow, default)]
    error: Option<&'m RawValue>,
}

/// Of the parameters of a request what headers and the bridge itself go by.
#[derive(Deserialize, Default)]
struct Params {
    #[serde(default)]
    name: Option<Value>,
    #[serde(default)]
    uri: Option<Value>,
    #[serde(rename = "requestId", default)]
    request_id: Option<Value>,
    #[serde(rename = "_meta", default)]
    meta: Option<Value>,
}

#[derive(Deserialize)]
struct WithParams<'m> {
    #[serde(borrow, default)]
    params: Option<&'m RawValue>,
}

/// What a request says about itself since version 2026-07-28.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stated {
    /// `MCP-Protocol-Version`.
    pub(super) version: String,
    /// `Mcp-Name`, as a header has it.
    pub(super) name: Option<String>,
}

/// The messages in a text: one, or those of a batch (version 2025-03-26).
pub(super) fn read(text: &[u8]) -> Result<Vec<Message>, Fault> {
    let unreadable = |why: &str| Fault::new(Kind::Unreadable, format!("the message is no JSON: {why}"));
    let text = std::str::from_utf8(text).map_err(|_| unreadable("it is not UTF-8"))?;
    let text = text.trim();
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| {
        // Its place, and not what stands there.
        unreadable(&format!("line {} column {}", error.line(), error.column()))
    })?;
    if !text.starts_with('[') {
        return Ok(vec![one(whole)?]);
    }
    let batch: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| unreadable("a broken batch"))?;
    if batch.is_empty() {
        return Err(invalid("a batch has at least one message"));
    }
    batch.into_iter().map(one).collect()
}

fn invalid(why: &str) -> Fault {
    Fault::new(Kind::Invalid, why)
}

fn one(raw: &RawValue) -> Result<Message, Fault> {
    let text = raw.get();
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|_| invalid("this is no message of JSON-RPC 2.0"))?;
    if envelope.jsonrpc != "2.0" {
        return Err(invalid("`jsonrpc` has to be \"2.0\""));
    }
    let id = match envelope.id {
        Some(id) => Some(Id::read(id.get()).ok_or_else(|| invalid("an `id` is a text or a number"))?),
        None => None,
    };
    let answers = envelope.result.is_some() || envelope.error.is_some();
    let shape = match (envelope.method, id) {
        (Some(_), _) if answers => return Err(invalid("a message asks or answers, not both")),
        (Some(method), Some(id)) => Shape::Request { id, method },
        (Some(method), None) => Shape::Notification { method },
        (None, id) if answers => Shape::Response {
            id,
            failed: envelope.error.is_some(),
        },
        (None, _) => return Err(invalid("a message has a `method`, a `result` or an `error`")),
    };
    Ok(Message {
        text: on_one_line(text),
        shape,
    })
}

/// The `error` in an answer, if it is one of JSON-RPC.
pub(super) fn error_in(answer: &[u8]) -> Option<Value> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    let error = answer.get_mut("error")?.take();
    let whole = error.get("code")?.is_i64() && error.get("message")?.is_string();
    whole.then_some(error)
}

/// The answer to a request, which failed like this.
pub(super) fn answer(id: &Id, error: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id.to_value(), "error": error}).to_string()
}

/// White space between the parts of a JSON text is all of a line break that there can be in it.
fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

impl Message {
    fn params(&self) -> Result<Params, Fault> {
        let unreadable = |_| invalid("the `params` cannot be read");
        let outer: WithParams<'_> = serde_json::from_str(&self.text).map_err(unreadable)?;
        match outer.params.map(RawValue::get) {
            Some(params) if params.starts_with('{') => serde_json::from_str(params).map_err(unreadable),
            _ => Ok(Params::default()),
        }
    }

    /// What the request says about itself, where it is of a version in which requests do.
    pub(super) fn stated(&self) -> Result<Option<Stated>, Fault> {
        let Shape::Request { method, .. } = &self.shape else {
            return Ok(None);
        };
        let params = self.params()?;
        let version = params.meta.as_ref().and_then(|meta| meta.get(VERSION));
        let Some(version) = version.and_then(Value::as_str) else {
            return Ok(None);
        };
        if version < STATELESS {
            return Ok(None);
        }
        let source = match method.as_str() {
            "tools/call" | "prompts/get" => params.name,
            "resources/read" => params.uri,
            _ => None,
        };
        let name = source.as_ref().and_then(Value::as_str).map(header_text);
        if version.len() > 64 || name.as_ref().is_some_and(|name| name.len() > LONGEST_HEADER) {
            return Err(invalid("the version or the name is too long for a header"));
        }
        Ok(Some(Stated {
            version: version.to_owned(),
            name,
        }))
    }

    /// The request that this notification calls off.
    pub(super) fn cancels(&self) -> Option<Id> {
        match &self.shape {
            Shape::Notification { method } if method == "notifications/cancelled" => {
                Id::of(self.params().ok()?.request_id?)
            }
            _ => None,
        }
    }

    /// The version that an answer to `initialize` settles on.
    pub(super) fn settled_version(&self) -> Option<String> {
        let answer: Value = serde_json::from_str(&self.text).ok()?;
        let version = answer.pointer("/result/protocolVersion")?.as_str()?;
        Some(version.to_owned())
    }
}

/// A text as a header has it: itself where that is safe, and otherwise in Base64 between marks
/// (MCP 2026-07-28, "Value Encoding").
pub(super) fn header_text(text: &str) -> String {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", BASE64.encode(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        read(text.as_bytes()).unwrap().remove(0).shape
    }

    fn number(number: u64) -> Id {
        Id::Number(number.into())
    }

    #[test]
    fn a_message_is_one_of_three_and_is_passed_on_as_it_came() {
        let request = "{\"jsonrpc\":\"2.0\",\n \"id\": 1,\r\n\"method\":\"tools/call\",\"params\":{\"x\":1.00,\"y\":\"a\\nb\"}}\n";
        let message = read(request.as_bytes()).unwrap().remove(0);
        let method = "tools/call".to_owned();
        assert_eq!(
            message.shape,
            Shape::Request {
                id: number(1),
                method
            }
        );
        assert!(!message.text.contains(['\n', '\r']));
        assert!(message.text.contains("1.00") && message.text.contains("a\\nb"));
        assert_eq!(
            shape(r#"{"jsonrpc":"2.0","method":"a"}"#),
            Shape::Notification {
                method: "a".to_owned()
            }
        );
        let text = Some(Id::Text("1".to_owned()));
        assert_eq!(
            shape(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#),
            Shape::Response {
                id: text,
                failed: false
            }
        );
        assert_eq!(
            shape(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#),
            Shape::Response {
                id: None,
                failed: true
            }
        );
        let batch =
            read(br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"}]"#).unwrap();
        assert_eq!(batch.len(), 2);
    }

    #[test]
    fn what_is_no_message_is_refused_without_its_text() {
        for (text, kind) in [
            (&b"hello secret"[..], Kind::Unreadable),
            (b"{\"jsonrpc\":\"2.0\",\"method\":\"a\xff\"}", Kind::Unreadable),
            (b"[]", Kind::Invalid),
            (b"1", Kind::Invalid),
            (b"{}", Kind::Invalid),
            (br#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, Kind::Invalid),
            (br#"{"jsonrpc":"2.0","id":1}"#, Kind::Invalid),
            (br#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, Kind::Invalid),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#,
                Kind::Invalid,
            ),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
                Kind::Invalid,
            ),
        ] {
            let fault = read(text).unwrap_err();
            assert_eq!(fault.kind, kind, "{}", String::from_utf8_lossy(text));
            assert!(!fault.reason.contains("secret"), "{}", fault.reason);
        }
    }

    #[test]
    fn a_request_of_today_says_its_version_and_what_it_names() {
        let request = |method: &str, version: &str, params: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params},"_meta":{{"{VERSION}":"{version}"}}}}}}"#
            );
            read(text.as_bytes()).unwrap().remove(0).stated()
        };
        let stated = request("tools/call", "2026-07-28", r#""name":"echo""#)
            .unwrap()
            .unwrap();
        assert_eq!(stated.version, "2026-07-28");
        assert_eq!(stated.name.as_deref(), Some("echo"));
        let read = request("resources/read", "2026-07-28", r#""uri":"file:///ä""#)
            .unwrap()
            .unwrap();
        assert_eq!(read.name.as_deref(), Some("=?base64?ZmlsZTovLy/DpA==?="));
        assert_eq!(
            request("tools/list", "2026-07-28", r#""name":"a""#)
                .unwrap()
                .unwrap()
                .name,
            None
        );
        assert_eq!(
            request("tools/call", "2025-11-25", r#""name":"a""#).unwrap(),
            None
        );
        // A server might read the second.
        assert!(request("tools/call", "2026-07-28", r#""name":"a","name":"b""#).is_err());
    }

    #[test]
    fn a_header_says_what_it_says_in_every_writing() {
        for (text, header) in [
            ("us-west1", "us-west1"),
            ("a b", "a b"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header_text(text), header);
        }
    }

    #[test]
    fn a_cancellation_names_its_request() {
        let cancel = |params: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#);
            read(text.as_bytes()).unwrap().remove(0).cancels()
        };
        assert_eq!(cancel(r#"{"requestId":7}"#), Some(number(7)));
        assert_eq!(cancel(r#"{"requestId":"7"}"#), Some(Id::Text("7".to_owned())));
        assert_eq!(cancel("{}"), None);
        assert_eq!(cancel("[7]"), None);
    }
}
