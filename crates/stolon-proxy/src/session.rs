//! As much of the frontend/backend protocol as tells whether a session is idle (PostgreSQL manual, "Message Flow", "Message Formats").
//!
//! A session that this cannot follow counts as busy: one over TLS, a replication connection, a copy that went another way than expected.

/// `SSLRequest` and `GSSENCRequest` in place of a protocol version.
const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];
/// The first byte of a TLS handshake without a request before it.
const TLS_HANDSHAKE: u8 = 0x16;
/// A startup packet, or an authentication message, is never longer; nothing of it is kept.
const LONGEST_STARTUP: u64 = 1 << 20;

/// Who has sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A session, as far as it was followed.
#[derive(Debug, Default)]
pub(crate) struct Session {
    stage: Stage,
    client: Frames,
    server: Frames,
    /// `ReadyForQuery` messages that are yet to come.
    awaited: u64,
    /// Messages of the extended protocol have come, and no `Sync` after them.
    unsynced: bool,
    /// The last `ReadyForQuery` said that there is no transaction.
    outside_transaction: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The client has yet to say which protocol it speaks.
    #[default]
    Startup,
    /// It has asked for encryption; the server answers with one byte.
    Asked,
    /// Messages with a type each.
    Messages,
    /// Nobody can read this.
    Opaque,
}

/// Splits a stream into messages; keeps the first bytes of one only.
#[derive(Debug, Default)]
struct Frames {
    /// The type, where messages have one, the length, and the first four bytes of the content.
    head: Vec<u8>,
    /// Bytes that are left of the message.
    rest: u64,
}

/// Whether messages begin with their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Typed,
    Untyped,
}

/// The beginning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    /// The first bytes of its content, big end first; zeroes where there are fewer.
    first: u32,
    length: u64,
}

impl Frames {
    fn is_between_messages(&self) -> bool {
        self.head.is_empty() && self.rest == 0
    }

    /// Takes bytes up to the end of a message; `None` when more are needed. Returns also how many were taken.
    fn take(&mut self, bytes: &[u8], form: Form) -> (usize, Option<Message>) {
        let mut taken = 0;
        let typed = usize::from(form == Form::Typed);
        while self.rest == 0 {
            let Some(byte) = bytes.get(taken) else { return (taken, None) };
            self.head.push(*byte);
            taken += 1;
            if self.head.len() == typed + 4 {
                // The length counts itself.
                self.rest = u64::from(number(&self.head[typed..])).saturating_sub(4);
                if self.rest == 0 {
                    return (taken, Some(self.ended(typed)));
                }
            }
        }
        let left = &bytes[taken..];
        let more = left.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
        let wanted = (typed + 8).saturating_sub(self.head.len()).min(more);
        self.head.extend_from_slice(&left[..wanted]);
        self.rest -= more as u64;
        taken += more;
        (taken, (self.rest == 0).then(|| self.ended(typed)))
    }

    fn ended(&mut self, typed: usize) -> Message {
        let mut content = [0; 4];
        let known = &self.head[typed + 4..];
        content[..known.len()].copy_from_slice(known);
        let message = Message {
            kind: if typed == 1 { self.head[0] } else { 0 },
            first: u32::from_be_bytes(content),
            length: u64::from(number(&self.head[typed..])),
        };
        self.head.clear();
        message
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl Session {
    /// These bytes are on their way.
    pub(crate) fn passes(&mut self, side: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = match (self.stage, side) {
                (Stage::Opaque, _) => return,
                (Stage::Asked, Side::Server) => self.answered(bytes[0]),
                // It may not send anything before the answer.
                (Stage::Asked, Side::Client) | (Stage::Startup, Side::Server) => self.lose_track(),
                (Stage::Startup, Side::Client) => self.startup(bytes),
                (Stage::Messages, Side::Client) => {
                    let (taken, message) = self.client.take(bytes, Form::Typed);
                    message.into_iter().for_each(|message| self.client_says(message));
                    taken
                }
                (Stage::Messages, Side::Server) => {
                    let (taken, message) = self.server.take(bytes, Form::Typed);
                    message.into_iter().for_each(|message| self.server_says(message));
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// Whether nothing is under way: no transaction, no question without an answer, no half of a message.
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Messages
            && self.awaited == 0
            && !self.unsynced
            && self.outside_transaction
            && self.client.is_between_messages()
            && self.server.is_between_messages()
    }

    fn lose_track(&mut self) -> usize {
        self.stage = Stage::Opaque;
        0
    }

    fn answered(&mut self, answer: u8) -> usize {
        self.stage = if answer == b'N' { Stage::Startup } else { Stage::Opaque };
        1
    }

    fn startup(&mut self, bytes: &[u8]) -> usize {
        if self.client.is_between_messages() && bytes[0] == TLS_HANDSHAKE {
            return self.lose_track();
        }
        let (taken, message) = self.client.take(bytes, Form::Untyped);
        match message {
            Some(message) if message.length > LONGEST_STARTUP => self.stage = Stage::Opaque,
            Some(message) if ENCRYPTION_REQUESTS.contains(&message.first) => self.stage = Stage::Asked,
            Some(_) => (self.stage, self.awaited) = (Stage::Messages, 1),
            None => {}
        }
        taken
    }

    fn client_says(&mut self, message: Message) {
        match message.kind {
            b'S' => (self.awaited, self.unsynced) = (self.awaited.saturating_add(1), false),
            b'Q' | b'F' => self.awaited = self.awaited.saturating_add(1),
            // Passwords, data of a copy, and the end of the session are answered with what was asked before.
            b'p' | b'd' | b'c' | b'f' | b'X' => {}
            _ => self.unsynced = true,
        }
    }

    fn server_says(&mut self, message: Message) {
        if message.kind == b'Z' {
            self.awaited = self.awaited.saturating_sub(1);
            self.outside_transaction = message.first >> 24 == u32::from(b'I');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((content.len() as u32 + 4).to_be_bytes());
        bytes.extend(content);
        bytes
    }

    fn packet(content: &[u8]) -> Vec<u8> {
        message(0, content)[1..].to_vec()
    }

    fn ready(status: u8) -> Vec<u8> {
        message(b'Z', &[status])
    }

    /// Each step, and whether the session is idle after it; whole, and byte by byte.
    #[track_caller]
    fn follow(steps: &[(Side, Vec<u8>, bool)]) {
        let (mut whole, mut bytewise) = (Session::default(), Session::default());
        for (index, (side, bytes, idle)) in steps.iter().enumerate() {
            whole.passes(*side, bytes);
            for byte in bytes {
                assert!(!bytewise.is_idle() || bytes.len() == 1 || index > 0);
                bytewise.passes(*side, &[*byte]);
            }
            assert_eq!((whole.is_idle(), bytewise.is_idle()), (*idle, *idle), "step {index}");
        }
    }

    fn begun() -> Vec<(Side, Vec<u8>, bool)> {
        vec![
            (Side::Client, packet(b"\0\x03\0\0user\0me\0\0"), false),
            (Side::Server, message(b'R', &[0, 0, 0, 3]), false),
            (Side::Client, message(b'p', b"secret\0"), false),
            (Side::Server, message(b'R', &[0, 0, 0, 0]), false),
            (Side::Server, ready(b'I'), true),
        ]
    }

    #[test]
    fn a_session_is_idle_between_its_transactions() {
        let mut steps = begun();
        steps.extend([
            (Side::Client, message(b'Q', b"begin\0"), false),
            (Side::Server, [message(b'C', b"BEGIN\0"), ready(b'T')].concat(), false),
            (Side::Client, message(b'Q', b"commit\0"), false),
            (Side::Server, message(b'C', b"COMMIT\0"), false),
            (Side::Server, ready(b'I'), true),
            (Side::Server, message(b'S', b"a\0b\0"), true),
        ]);
        follow(&steps);
    }

    #[test]
    fn questions_that_follow_each_other_are_all_waited_for() {
        let mut steps = begun();
        steps.extend([
            (Side::Client, [message(b'Q', b"1\0"), message(b'Q', b"2\0")].concat(), false),
            (Side::Server, ready(b'I'), false),
            (Side::Server, ready(b'I'), true),
            (Side::Client, message(b'P', b"\0x\0\0\0"), false),
            (Side::Client, message(b'S', b""), false),
            (Side::Server, ready(b'I'), true),
            (Side::Client, b"Q\0".to_vec(), false),
        ]);
        follow(&steps);
    }

    #[test]
    fn what_cannot_be_read_is_never_idle() {
        let request = packet(&80_877_103_u32.to_be_bytes());
        follow(&[
            (Side::Client, request.clone(), false),
            (Side::Server, b"S".to_vec(), false),
            (Side::Server, ready(b'I'), false),
        ]);
        follow(&[(Side::Client, vec![TLS_HANDSHAKE, 3, 1], false), (Side::Server, ready(b'I'), false)]);
        let mut refused = vec![(Side::Client, request, false), (Side::Server, b"N".to_vec(), false)];
        refused.extend(begun());
        follow(&refused);
    }
}
