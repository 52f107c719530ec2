//! What a keeper remembers of its part in a planned change of the primary, and what it answers.

use stolon_model::SwitchoverReport;

use crate::keeper::look::{Look, ServerLook, WalReceiver};
use crate::keeper::part::Part;

/// The part, and how far it was played.
#[derive(Debug, Default)]
pub(super) struct Handing {
    part: Option<Part>,
    /// What is answered; empty while there is nothing to answer.
    answer: SwitchoverReport,
}

/// Whether something is to be seen that was not asked for before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Casting {
    AsBefore,
    /// What was seen before was seen for something else.
    ToBeSeen,
}

impl Handing {
    /// The cluster data ask for this.
    pub(super) fn given(&mut self, part: Option<&Part>) -> Casting {
        if self.part.as_ref() == part {
            return Casting::AsBefore;
        }
        let uid = part.map(|part| part.uid().to_owned()).unwrap_or_default();
        self.answer = SwitchoverReport { uid, ..SwitchoverReport::default() };
        self.part = part.cloned();
        match part {
            Some(Part::Stop(_) | Part::Receive(_)) => Casting::ToBeSeen,
            // A look under way serves who is elected now as well as any.
            Some(Part::Checkpoint(_)) | None => Casting::AsBefore,
        }
    }

    /// Whether the end of what comes from the primary is waited for.
    pub(super) fn awaits_end(&self) -> bool {
        matches!(self.part, Some(Part::Receive(_))) && self.answer.received.is_none()
    }

    /// For which change the checkpoint was tried, if it is the present one.
    pub(super) fn checkpoint_tried(&self) -> Option<String> {
        let tried = self.answer.checkpointed || !self.answer.trouble.is_empty();
        tried.then(|| self.answer.uid.clone())
    }

    /// The checkpoint for this change is written, or cannot be.
    pub(super) fn checkpointed(&mut self, uid: &str, outcome: Result<(), &str>) {
        if self.part != Some(Part::Checkpoint(uid.to_owned())) {
            return;
        }
        match outcome {
            Ok(()) => self.answer.checkpointed = true,
            Err(why) => self.answer.trouble = why.to_owned(),
        }
    }

    /// What a look shows of it.
    pub(super) fn looked(&mut self, look: &Look) {
        match (&self.part, &look.server) {
            (Some(Part::Stop(_)), ServerLook::Stopped) => match look.ended {
                Some(end) => (self.answer.end, self.answer.timeline) = (Some(end.checkpoint), end.timeline),
                None => "PostgreSQL did not end in order".clone_into(&mut self.answer.trouble),
            },
            (Some(Part::Receive(_)), ServerLook::Answering(answer)) => {
                let has_ended = answer.in_recovery && matches!(answer.receiver, WalReceiver::Absent(_));
                self.answer.received = has_ended.then_some(answer.lsn);
                self.answer.timeline = answer.timeline;
            }
            _ => {}
        }
    }

    /// For the report.
    pub(super) fn report(&self) -> Option<SwitchoverReport> {
        let SwitchoverReport { uid: _, checkpointed, end, received, timeline: _, trouble } = &self.answer;
        let says = *checkpointed || end.is_some() || received.is_some() || !trouble.is_empty();
        says.then(|| self.answer.clone())
    }
}
