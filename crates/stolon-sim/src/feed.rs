//! What a program knows of the store: a copy that follows what the watch carries, and that answers prove to be complete
//! (`stolon_store`, "A copy of some keys that is kept up to date").

use std::rc::Rc;
use std::time::Duration;

use crate::scenario::Program;
use crate::store::{Everything, Reply, Request};
use crate::world::{Answered, Event, World};

/// The copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    pub(crate) seen: Rc<Everything>,
    /// Everything that was acknowledged before this moment of the program's clock is in it; none before the first answer.
    as_of: Option<Duration>,
    /// When the watch last carried something new, on the program's clock. News that wakes nobody counts when it is looked at.
    told: Duration,
}

impl Copy {
    /// News came: whether there is something new in it. It may have been long on its way, and proves nothing.
    fn absorb(&mut self, news: &Rc<Everything>, now: Duration) {
        if self.take_newer(news) {
            self.told = now;
        }
    }

    fn take_newer(&mut self, news: &Rc<Everything>) -> bool {
        let is_newer = news.revision > self.seen.revision;
        if is_newer {
            self.seen = Rc::clone(news);
        }
        is_newer
    }

    /// A question was answered that was asked at that moment.
    pub(crate) fn confirm(&mut self, answer: &Rc<Everything>, asked: Duration) {
        self.take_newer(answer);
        self.as_of = self.as_of.max(Some(asked));
    }

    /// Since when it is complete.
    pub(crate) fn as_of(&self) -> Duration {
        self.as_of.unwrap_or_default()
    }

    /// When the watch last carried something new.
    pub(crate) fn told(&self) -> Duration {
        self.told
    }
}

impl World {
    /// Look at the store. What is known will do if it is no older than `at_most`; an age of zero always asks.
    pub(crate) fn look_up(&mut self, from: Program, token: u32, at_most: Duration) {
        self.look_up_unless_silent(from, token, at_most, Duration::MAX);
    }

    /// The same, where the store is also asked after its watch has carried nothing for `silence`.
    pub(crate) fn look_up_unless_silent(
        &mut self,
        from: Program,
        token: u32,
        at_most: Duration,
        silence: Duration,
    ) {
        let now = self.local(from);
        let Some(process) = self.processes.get(&from) else { return };
        let copy = &process.copy;
        let is_young = copy.as_of.is_some_and(|as_of| {
            as_of + at_most >= now && as_of.max(copy.told).saturating_add(silence) >= now
        });
        if at_most.is_zero() || !is_young {
            return self.ask(from, token, Request::Read);
        }
        let answered = Answered { token, asked: now, reply: Reply::Known };
        let event = Self::reply_event(from, process.run, answered);
        self.after(Duration::ZERO, event);
    }

    /// What a program knows now; none: it asked, and got no answer.
    pub(crate) fn known_by(&mut self, program: Program, answered: &Answered) -> Option<&Copy> {
        let (current, now) = (self.quiet_news(program), self.local(program));
        let copy = &mut self.processes.get_mut(&program)?.copy;
        match &answered.reply {
            Reply::Everything(answer) => copy.confirm(answer, answered.asked),
            Reply::Known => current.iter().for_each(|current| copy.absorb(current, now)),
            _ => return None,
        }
        Some(copy)
    }

    /// A report that was taken proves what there is beside it.
    pub(crate) fn confirmed(&mut self, program: Program, answered: &Answered) {
        if let (Reply::Everything(answer), Some(process)) =
            (&answered.reply, self.processes.get_mut(&program))
        {
            process.copy.confirm(answer, answered.asked);
        }
    }

    /// Positions come over the watch, too, and wake nobody: they are there when somebody looks, if nothing holds them up.
    fn quiet_news(&self, program: Program) -> Option<Rc<Everything>> {
        let process = self.processes.get(&program)?;
        let flows = !process.watch_pending
            && self.store_troubles.down == 0
            && self.store_troubles.late_watches.is_zero()
            && self.network.is_quick(self.store_host(), process.host);
        flows.then(|| Rc::clone(self.store.holds()))
    }

    /// The watch of a program carries what there is now.
    pub(crate) fn watch_tells(&mut self, program: Program, delay: Duration) {
        let holds = Rc::clone(self.store.holds());
        let Some(process) = self.processes.get_mut(&program) else { return };
        process.watch_pending = true;
        let event = Event::Watch(program, process.run, Some(holds));
        self.after(delay, event);
    }

    /// What the watch carried is in the copy; none: it was cut, and everything is read anew.
    pub(crate) fn watch_told(&mut self, program: Program, news: Option<&Rc<Everything>>) {
        let (news, now) = (Rc::clone(news.unwrap_or(self.store.holds())), self.local(program));
        if let Some(process) = self.processes.get_mut(&program) {
            process.copy.absorb(&news, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_makes_a_copy_newer_and_only_an_answer_makes_it_younger() {
        let at = |revision| Rc::new(Everything { revision, ..Everything::default() });
        let mut copy = Copy::default();
        copy.confirm(&at(5), Duration::from_secs(1));
        let later = Duration::from_secs(9);
        copy.absorb(&at(7), later);
        assert_eq!((copy.seen.revision, copy.as_of(), copy.told()), (7, Duration::from_secs(1), later));
        copy.absorb(&at(6), later * 2);
        assert_eq!((copy.seen.revision, copy.told()), (7, later), "late news is known already");
        copy.confirm(&at(6), Duration::from_secs(2));
        assert_eq!((copy.seen.revision, copy.as_of()), (7, Duration::from_secs(2)));
    }
}
