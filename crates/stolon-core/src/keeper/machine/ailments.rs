//! What was found wrong by the last looks: whether the server answers, and whether a standby receives WAL. PostgreSQL itself is
//! healthy without, and tries again for ever.

use std::time::Duration;

use crate::keeper::look::{ServerLook, WalReceiver};
use crate::keeper::say::Saying;

/// What is wrong, and since when.
#[derive(Debug, Default)]
pub(super) struct Ailments {
    without_wal_since: Option<Duration>,
    unanswered: bool,
    sentence: String,
}

impl Ailments {
    /// A look has ended. `upstream` is whom a standby is asked to stream from, in words; `patience` how long a standby may well wait that changes its primary, or whose primary restarts. Returns what is news.
    pub(super) fn looked(
        &mut self,
        now: Duration,
        server: &ServerLook,
        upstream: Option<&str>,
        patience: Duration,
    ) -> Vec<Saying> {
        let mut said = Vec::new();
        match server {
            // Once for all looks in a row, since those that follow would say the same.
            ServerLook::Silent(why) | ServerLook::Stranger(why) => {
                if !std::mem::replace(&mut self.unanswered, true) {
                    said.push(Saying::NoAnswer(why.clone()));
                }
            }
            ServerLook::Answering(_) if std::mem::take(&mut self.unanswered) => {
                said.push(Saying::AnswersAgain);
            }
            ServerLook::Answering(_) | ServerLook::Starting | ServerLook::Stopped => {}
        }
        let answer = server.answer().filter(|answer| answer.in_recovery);
        let sentence = match (answer.map(|answer| &answer.receiver), upstream) {
            (Some(WalReceiver::Absent(words)), Some(upstream)) => {
                let since = *self.without_wal_since.get_or_insert(now);
                let why = words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
                let lasts = now.saturating_sub(since) > patience;
                lasts.then(|| format!("the standby receives no WAL from {upstream}{why}"))
            }
            _ => {
                self.without_wal_since = None;
                None
            }
        };
        let sentence = sentence.unwrap_or_default();
        if sentence != self.sentence {
            said.push(match sentence.is_empty() {
                true => Saying::ReceivesWalAgain,
                false => Saying::ReceivesNoWal(sentence.clone()),
            });
            self.sentence = sentence;
        }
        said
    }

    /// Why a standby receives nothing: one sentence, empty when it does.
    pub(super) fn replication_problem(&self) -> &str {
        &self.sentence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::look::Answer;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn standby(receiver: WalReceiver) -> ServerLook {
        ServerLook::Answering(Box::new(Answer { in_recovery: true, receiver, ..Answer::default() }))
    }

    #[test]
    fn a_standby_without_wal_is_complained_about_after_a_while_and_once() {
        let mut ailments = Ailments::default();
        let without = standby(WalReceiver::Absent(Some("password authentication failed".into())));
        let mut look = |second: u64, look: &ServerLook| {
            let said = ailments.looked(Duration::from_secs(second), look, Some("a:1"), PATIENCE);
            (said.len(), ailments.replication_problem().to_owned())
        };
        let sentence = "the standby receives no WAL from a:1: password authentication failed".to_owned();
        assert_eq!(look(0, &without), (0, String::new()));
        assert_eq!(look(2, &without), (0, String::new()));
        assert_eq!(look(3, &without), (1, sentence.clone()));
        assert_eq!(look(4, &without), (0, sentence));
        assert_eq!(look(5, &standby(WalReceiver::Streaming)), (1, String::new()));
        assert_eq!(look(6, &without), (0, String::new()), "the patience begins anew");
    }

    #[test]
    fn a_standby_that_lives_on_an_archive_and_a_primary_are_not_complained_about() {
        let mut ailments = Ailments::default();
        let primary = Answer { receiver: WalReceiver::Absent(None), in_recovery: false, ..Answer::default() };
        let looks = [
            (standby(WalReceiver::Absent(None)), None),
            (ServerLook::Answering(Box::new(primary)), Some("a:1")),
        ];
        for (look, upstream) in &looks {
            for second in [0, 100] {
                assert!(ailments.looked(Duration::from_secs(second), look, *upstream, PATIENCE).is_empty());
            }
        }
    }

    #[test]
    fn silence_is_news_once_and_so_is_its_end() {
        let mut ailments = Ailments::default();
        let silent = ServerLook::Silent("no answer".into());
        let answering = standby(WalReceiver::Streaming);
        let mut news =
            |look: &ServerLook| ailments.looked(Duration::ZERO, look, None, PATIENCE).into_iter().next();
        assert_eq!(news(&answering), None);
        assert_eq!(news(&silent), Some(Saying::NoAnswer("no answer".into())));
        assert_eq!(news(&silent), None);
        assert_eq!(news(&ServerLook::Stopped), None, "a server that was stopped does not answer again");
        assert_eq!(news(&answering), Some(Saying::AnswersAgain));
    }
}
