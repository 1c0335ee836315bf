//! One connection to an HTTP server, made anew when it is needed.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;

use crate::{
    daemon::sinks::{
        connect::Address,
        tls::{Tls, TlsConfig},
    },
    event::SafeText,
};

/// Longest answer that is read, bytes.
const MOST_ANSWERED: usize = 64 << 10;

/// How much of an answer is shown, bytes.
const MOST_SHOWN: usize = 200;

/// A server and what is asked of it.
pub struct Client {
    address: Address,
    url: Uri,
    host: HeaderValue,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What it answers.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// After what time it may be asked again, where it says.
    pub retry_after: Option<Duration>,
    /// The body, as far as it is read.
    pub body: Bytes,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.get(..MOST_SHOWN).unwrap_or(&self.body);
        write!(f, "it answers {}", self.status)?;
        match body.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", SafeText::new(body)),
        }
    }
}

/// Reads `http://HOST[:PORT]/PATH` or the same with `https`.
///
/// # Errors
/// It is something else.
pub fn parse_url(text: &str) -> Result<(Uri, String, u16), String> {
    let told = |problem: &str| format!("`url` is http://HOST/PATH or https://HOST/PATH: {problem}");
    let url: Uri = text.parse().map_err(|error| told(&format!("{error}")))?;
    let port = match url.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(told("it begins otherwise")),
    };
    let host = url.host().filter(|host| !host.is_empty()).ok_or_else(|| told("no host"))?;
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(told("name and password do not stand here; write the token to a file"));
    }
    let host = host.trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(port);
    Ok((url, host, port))
}

impl Client {
    /// One that connects when there is something to say.
    ///
    /// # Errors
    /// The address or the files of TLS are not what they have to be.
    pub fn open(url: &str, tls: Option<&TlsConfig>) -> anyhow::Result<Self> {
        let (url, host, port) = parse_url(url).map_err(anyhow::Error::msg)?;
        let tls = match url.scheme_str() {
            Some("https") => Some(Tls::load(&tls.cloned().unwrap_or_default(), &host)?),
            _ if tls.is_some() => bail!("`tls` goes with a `url` of https"),
            _ => None,
        };
        let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let authority = HeaderValue::from_str(authority).context("the host of `url`")?;
        Ok(Self { address: Address { host, port, tls }, url, host: authority, connection: None })
    }

    /// The path and query of the address.
    #[must_use]
    pub fn path(&self) -> &str {
        self.url.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Posts `body` to `path`.
    ///
    /// # Errors
    /// There is no answer. The server may have it or not.
    pub async fn post(
        &mut self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, String> {
        // Taken out: what is dropped half-way leaves no connection.
        let mut open = self.connection.take();
        // It may have closed what nobody used for a while.
        if let Some(sender) = &mut open
            && sender.ready().await.is_err()
        {
            open = None;
        }
        let mut sender = match open {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|error| format!("{error}"))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("agent-guard"));
        let told = |error: hyper::Error| format!("asking {}: {error}", self.address.host);
        let answer = read(sender.send_request(request).await.map_err(told)?).await;
        // One whose answer was not read to its end is closed by dropping it.
        self.connection = answer.is_whole.then_some(sender);
        Ok(answer.answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = self.address.connect().await?.stream;
        let told = |error: hyper::Error| format!("speaking to {}: {error}", self.address.host);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
        // It ends with its sender, and what goes wrong with it is told there.
        tokio::spawn(connection);
        Ok(sender)
    }
}

struct Read {
    answer: Answer,
    is_whole: bool,
}

/// Reads what an answer says. Its status counts, whatever becomes of the rest.
async fn read(response: Response<Incoming>) -> Read {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
    let body = Limited::new(response.into_body(), MOST_ANSWERED).collect().await;
    let is_whole = body.is_ok();
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Read { answer: Answer { status, retry_after, body }, is_whole }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_of_http_and_has_no_secret() {
        let parse =
            |text| parse_url(text).map(|(url, host, port)| format!("{} {host} {port}", url.path()));
        assert_eq!(parse("https://siem.example/in?x=1").unwrap(), "/in siem.example 443");
        assert_eq!(parse("http://[::1]:8088").unwrap(), "/ ::1 8088");
        for (text, word) in [
            ("ftp://a/", "begins otherwise"),
            ("/in", "begins otherwise"),
            ("https://u:p@a/", "token to a file"),
            ("http://a b/", "http://HOST/PATH"),
        ] {
            assert!(parse(text).unwrap_err().contains(word), "{text}");
        }
    }

    #[test]
    fn a_server_asks_for_a_wait_in_seconds_or_by_a_date() {
        let asked = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        let at = SystemTime::now() + Duration::from_secs(100);
        let wait = asked(&httpdate::fmt_http_date(at)).unwrap();
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100), "{wait:?}");
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn what_is_shown_of_an_answer_is_short_and_printable() {
        let body = Bytes::from([b"\x1b[31m".as_slice(), &[b'x'; 5000]].concat());
        let answer = Answer { status: StatusCode::FORBIDDEN, retry_after: None, body };
        let told = answer.to_string();
        assert!(told.starts_with("it answers 403 Forbidden: \\x1b[31mxxx"), "{told}");
        assert!(told.len() < 300);
    }
}
