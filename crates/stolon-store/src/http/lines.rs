//! An answer that goes on and on, one line after the other.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use stolon_model::with_causes;

use super::connection::Connection;

/// No line is longer.
const LONGEST_LINE: usize = 16 << 20;

/// The lines of an answer. Dropping it closes the connection.
pub struct Lines {
    /// Status of the answer.
    pub status: StatusCode,
    body: Incoming,
    unread: BytesMut,
    /// The bytes of `unread` that are known to hold no end of a line.
    searched: usize,
    _connection: Connection,
}

impl Lines {
    /// Nothing is read yet.
    pub fn new(connection: Connection, response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Lines { status: head.status, body, unread: BytesMut::new(), searched: 0, _connection: connection }
    }

    /// The next line, without its end; `None`: the answer is over. Cancel-safe.
    ///
    /// # Errors
    /// What happened to the connection, in words.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.unread[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.unread.len();
            if self.unread.len() > LONGEST_LINE {
                return Err("a line has no end".to_owned());
            }
            match self.body.frame().await {
                None if self.unread.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.unread.split().freeze()));
                }
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.unread.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(with_causes(&error)),
            }
        }
    }
}
