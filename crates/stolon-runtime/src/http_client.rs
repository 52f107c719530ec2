//! Small questions to the small HTTP servers of other programs: one request for each connection.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer is longer.
const LONGEST_ANSWER: u64 = 64 << 10;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

/// Ask the server at `address` (`host:port`) over plain HTTP, all within `limit`. A body is JSON.
///
/// # Errors
/// It cannot be reached, does not answer in time, or its answer is none of HTTP, or too long.
pub async fn ask_http(
    method: &str,
    address: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> Result<HttpAnswer> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await?;
        answer_of(&answer).ok_or_else(|| Error::from(ErrorKind::InvalidData))
    };
    tokio::time::timeout(limit, asking).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

/// An answer that was cut off is none.
fn answer_of(answer: &str) -> Option<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let length = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).last();
    let is_whole = length.is_none_or(|(_, length)| length.trim().parse() == Ok(body.len()));
    is_whole.then(|| HttpAnswer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let whole = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(answer_of(whole), Some(HttpAnswer { status: 200, body: "{}".into() }));
        for broken in
            ["", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", "SSH-2.0\r\n\r\n"]
        {
            assert_eq!(answer_of(broken), None, "{broken:?}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let asked = ask_http("GET", &address, "/", "", Duration::from_millis(20)).await;
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
