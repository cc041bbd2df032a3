//! A way to a server that loses, delays and refuses what it is told to, and remembers everything; and a server that
//! answers what it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It is passed on, and so is the answer.
    Passed,
    /// It is passed on, and the answer is lost.
    AnswerLost,
    /// It is lost.
    Lost,
    /// It takes so long to get there.
    Late(Duration),
    /// It is passed on, and the answer takes so long.
    AnswerLate(Duration),
    /// Somebody on the way answers.
    Answered(u16, &'static str, String),
}

#[derive(Default)]
struct Book {
    /// By the beginning of the request line; the first that fits is used up.
    fates: VecDeque<(String, Fate)>,
    /// For everything else.
    rule: Option<Fate>,
    seen: Vec<Seen>,
}

/// The way. It is gone with this value.
pub(crate) struct Way {
    pub(crate) address: String,
    book: Arc<Mutex<Book>>,
    serving: JoinHandle<()>,
}

impl Way {
    /// To the server at this address, or to nobody.
    pub(crate) async fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let target = address.trim_start_matches("http://").to_owned();
        let book = Arc::new(Mutex::new(Book::default()));
        let kept = book.clone();
        let serving = Handle::current().spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                Handle::current().spawn(serve(socket, target.clone(), kept.clone()));
            }
        });
        Self {
            address: own,
            book,
            serving,
        }
    }

    /// The next request whose line begins so has this fate.
    pub(crate) fn next(&self, line: &str, fate: Fate) {
        self.book.lock().unwrap().fates.push_back((line.to_owned(), fate));
    }

    /// All requests without a fate of their own have this one.
    pub(crate) fn rule(&self, fate: Fate) {
        self.book.lock().unwrap().rule = Some(fate);
    }

    /// The requests whose line begins so.
    pub(crate) fn seen(&self, line: &str) -> Vec<Seen> {
        let book = self.book.lock().unwrap();
        let fitting = book.seen.iter().filter(|seen| seen.line.starts_with(line));
        fitting.cloned().collect()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One request a connection.
async fn serve(mut socket: TcpStream, target: String, book: Arc<Mutex<Book>>) {
    let Some((raw, seen)) = read(&mut socket).await else {
        return;
    };
    let fate = {
        let mut book = book.lock().unwrap();
        let place = book
            .fates
            .iter()
            .position(|(line, _)| seen.line.starts_with(line.as_str()));
        let fate = place
            .and_then(|place| book.fates.remove(place))
            .map(|(_, fate)| fate);
        book.seen.push(seen);
        fate.or_else(|| book.rule.clone()).unwrap_or(Fate::Passed)
    };
    match fate {
        Fate::Lost => {}
        Fate::Answered(status, headers, body) => {
            let head = format!(
                "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all((head + &body).as_bytes()).await;
        }
        Fate::Passed => {
            let answer = pass(&raw, &target).await;
            let _ = socket.write_all(&answer).await;
        }
        Fate::AnswerLost => {
            pass(&raw, &target).await;
        }
        Fate::AnswerLate(delay) => {
            let answer = pass(&raw, &target).await;
            tokio::time::sleep(delay).await;
            let _ = socket.write_all(&answer).await;
        }
        Fate::Late(delay) => {
            tokio::time::sleep(delay).await;
            let answer = pass(&raw, &target).await;
            let _ = socket.write_all(&answer).await;
        }
    }
}

async fn pass(request: &[u8], target: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut server) = TcpStream::connect(target).await {
        server.write_all(request).await.unwrap();
        let _ = server.read_to_end(&mut answer).await;
    }
    answer
}

/// A whole request, to be passed on as the last of its connection.
async fn read(socket: &mut TcpStream) -> Option<(Vec<u8>, Seen)> {
    let mut raw = Vec::new();
    let head = loop {
        if let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut raw).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(raw[..head].to_vec()).unwrap();
    let mut lines = text.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut seen = Seen {
        line: line.clone(),
        headers,
        body: String::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while raw.len() < head + length {
        if socket.read_buf(&mut raw).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = String::from_utf8(raw[head..].to_vec()).unwrap();
    let mut passed = format!("{line}\r\nconnection: close\r\n").into_bytes();
    passed.extend_from_slice(&raw[line.len() + 2..]);
    Some((passed, seen))
}

/// The status and the text of a page.
pub(crate) async fn get(url: &str, token: Option<&str>) -> (u16, String) {
    let (server, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let bearer = token.map_or(String::new(), |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n{bearer}\r\n");
    let answer = String::from_utf8(pass(request.as_bytes(), server).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
