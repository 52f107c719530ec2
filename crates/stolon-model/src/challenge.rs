//! Evidence that a keeper has failed: what a sentinel asks, and what keepers say (docs/design/008-evidence.md).

use crate::json::{document, text_enum};
use crate::uid::{ChallengeUid, InstanceUid};

document! {
    /// A keeper is to show that it lives: the one in charge of this instance answers with a report at once. The keepers of those that
    /// follow the instance say whether its port is open.
    pub struct Challenge {
        /// By which answers and findings are known to be made for this challenge.
        uid: ChallengeUid = "uid", omit;
        /// The instance.
        instance: InstanceUid = "dbUID", omit;
    }
}

document! {
    /// What a keeper says to challenges, of itself and as a witness. Present in each report of a keeper that answers them.
    pub struct WitnessReport {
        /// The last challenge that was made to this keeper; empty: none.
        answers: ChallengeUid = "answers", omit;
        /// What the keeper found at the port of the instance that its own one follows; absent while it has no reason to knock there.
        finding: Option<Finding> = "finding", omit;
    }
}

document! {
    /// What became of a TCP connection to the port of an instance.
    pub struct Finding {
        /// The instance.
        instance: InstanceUid = "dbUID", omit;
        /// Where it was looked for.
        listen_address: String = "listenAddress", omit;
        /// Its port.
        port: String = "port", omit;
        /// The challenge that was known when the connection was begun; empty: none.
        challenge: ChallengeUid = "challenge", omit;
        /// What became of it.
        access: Option<Access> = "access", omit;
    }
}

text_enum! {
    /// What became of a connection. One that got no answer is no finding.
    pub enum Access {
        /// A kernel answered that nobody listens there. The position in the same report is final: it was looked at after the
        /// standby had ceased to receive.
        Refused => "refused",
        /// Somebody listens.
        Accepted => "accepted",
    }
}
