//! Going on without the store: the primary's keeper says for how long nobody can take its place (docs/design/012-lease.md).

use std::time::Duration;

use stolon_model::{InstanceUid, ServerAddress, Voucher};

use super::super::{Destination, Effect, Notice, Route, Upstream};
use super::{Machine, Passage};

/// What has not answered within this is asked again.
const LIMIT: Duration = Duration::from_secs(1);
/// Before somebody who has not vouched is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// So often is a voucher renewed while it lasts, but not more often than `SHORTEST_PAUSE`, nor less often than `LONGEST_PAUSE`.
const RENEWALS: u32 = 8;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The last voucher, and the question for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Vouchers {
    /// When the question under way was asked.
    asked: Option<Duration>,
    /// When the next one may be asked.
    due: Duration,
    held: Option<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    instance: InstanceUid,
    until: Duration,
}

impl Machine {
    /// Until when somebody vouches for the primary that clients are sent to.
    pub(super) fn vouched_until(&self) -> Option<Duration> {
        let held = self.vouchers.held.as_ref()?;
        self.destination()?.to.is_instance(&held.instance).then_some(held.until)
    }

    /// Until when clients may be forwarded: by the store's word, or by a voucher.
    pub(super) fn open_until(&self) -> Option<Duration> {
        self.allowed_until().max(self.vouched_until())
    }

    /// Whether clients go to this primary already, and somebody vouches for it now.
    pub(super) fn goes_on_to(&self, now: Duration, to: &Upstream, address: &ServerAddress) -> bool {
        let is_there = |open: &Destination| open.to == *to && open.name == *address;
        self.destination().is_some_and(is_there) && self.vouched_until().is_some_and(|until| now < until)
    }

    /// Whether clients are forwarded to whom the store names, and the store's word is too old for that.
    pub(super) fn goes_on_by_voucher(&self, now: Duration) -> bool {
        let is_named = self.reading.as_ref().is_some_and(|it| matches!(it.verdict.route, Route::Open { .. }));
        is_named && self.destination().is_some() && self.allowed_until().is_none_or(|until| until <= now)
    }

    /// Where the keeper of the primary is asked; none while there is no reason to.
    fn asks_at(&self) -> Option<&String> {
        let reading = self.reading.as_ref().filter(|_| self.failures > 0 && self.vouchers.asked.is_none())?;
        let Route::Open { to, vouched_at, .. } = &reading.verdict.route else { return None };
        vouched_at.as_ref().filter(|_| self.destination().is_some_and(|open| open.to == *to))
    }

    /// Ask while checks fail.
    pub(super) fn ask_voucher(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let Some(address) = self.asks_at().filter(|_| now >= self.vouchers.due).cloned() else { return };
        self.vouchers.asked = Some(now);
        out.push(Effect::AskVoucher { address, limit: LIMIT });
    }

    pub(super) fn voucher_wake(&self) -> Option<Duration> {
        self.asks_at().map(|_| self.vouchers.due)
    }

    /// A voucher counts from before it was asked for, and never longer than the store's word would.
    pub(super) fn vouched(&mut self, now: Duration, voucher: Option<Voucher>, out: &mut Vec<Effect>) {
        let Some(asked) = self.vouchers.asked.take() else { return };
        let Some(Voucher { instance, remaining }) = voucher else {
            self.vouchers.due = now.saturating_add(PAUSE);
            return;
        };
        let remaining = remaining.to_std().min(self.timings.timeout);
        self.vouchers.due = now.saturating_add((remaining / RENEWALS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        let until = asked.saturating_add(remaining);
        if self.vouched_until().is_none_or(|known| known < until) {
            self.vouchers.held = Some(Held { instance, until });
        }
        if self.goes_on_by_voucher(now) && self.vouched_until().is_some_and(|until| now < until) {
            self.announce(Notice::VouchedFor, out);
        }
    }

    /// The store's word counts again.
    pub(super) fn vouched_no_more(&mut self, out: &mut Vec<Effect>) {
        if self.said == Some(Notice::VouchedFor)
            && let Passage::Open { destination, .. } = &self.passage
        {
            let notice = Notice::Forwarding(destination.clone());
            self.announce(notice, out);
        }
    }
}
