//! What a row of the table of the cluster specification ([`crate::spec`]) can say, and the macro that makes the types,
//! the defaults, the checks and the reference from it.

use std::time::Duration;

use crate::effective::{EffectiveSpec, InvalidSpec};
use crate::json::{Encode, Encoder, Shape};
use crate::spec::{AccessMode, InitMode, Role};
use crate::time::GoDuration;
use crate::uid::STOLON_PREFIX;
use crate::wal_bound::SlotWalBound;

/// A field of the cluster specification, for reference documentation.
#[derive(Clone, Copy, Debug)]
pub struct SpecField {
    /// The key in JSON.
    pub name: &'static str,
    /// The type of the value.
    pub shape: Shape,
    /// The documentation, as in the source.
    pub doc: &'static str,
    /// Whether a valid specification must set it.
    pub presence: Presence,
    /// What each rule demands, in words.
    pub rules: &'static [&'static str],
    /// In which specifications it is read; `None`: in all.
    pub read_with: Option<&'static str>,
    pub(crate) default: Option<fn() -> String>,
}

impl SpecField {
    /// The default as JSON; `None` if the field stays unset.
    pub fn default_json(&self) -> Option<String> {
        self.default.map(|default| default())
    }
}

/// Whether a valid specification must set a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A specification without the field is invalid.
    Required,
    /// The field may be left out.
    Optional,
}

/// When a rule is checked. Stolon checks numbers, then whether there is an init mode, then lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Numbers,
    Lists,
}

/// A rule about the value of one field.
pub(crate) struct Rule<T> {
    /// What it demands, as the reference says it.
    pub(crate) words: &'static str,
    pub(crate) stage: Stage,
    /// The name of the field, its value if it is set, and the whole specification with defaults.
    pub(crate) check: fn(&'static str, Option<&T>, &EffectiveSpec) -> Result<(), InvalidSpec>,
}

pub(crate) const NOT_NEGATIVE: Rule<GoDuration> = Rule {
    words: "not negative",
    stage: Stage::Numbers,
    check: |name, given, _| match given {
        Some(span) if span.0 < 0 => Err(InvalidSpec::NegativeDuration(name)),
        _ => Ok(()),
    },
};

pub(crate) const MORE_THAN_PROXY_CHECK_INTERVAL: Rule<GoDuration> = Rule {
    words: "greater than `proxyCheckInterval`",
    stage: Stage::Numbers,
    check: |_, _, spec| match spec.proxy_timeout > spec.proxy_check_interval {
        true => Ok(()),
        false => Err(InvalidSpec::ProxyCheckInterval),
    },
};

pub(crate) const AT_LEAST_ONE: Rule<u16> = Rule {
    words: "at least 1",
    stage: Stage::Numbers,
    check: |name, given, _| match given {
        Some(0) => Err(InvalidSpec::BelowOne(name)),
        _ => Ok(()),
    },
};

pub(crate) const AT_LEAST_MIN_SYNCHRONOUS_STANDBYS: Rule<u16> = Rule {
    words: "at least `minSynchronousStandbys`",
    stage: Stage::Numbers,
    check: |_, _, spec| match spec.max_synchronous_standbys >= spec.min_synchronous_standbys {
        true => Ok(()),
        false => Err(InvalidSpec::SynchronousStandbys),
    },
};

pub(crate) const AT_MOST_MAX_SYNCHRONOUS_STANDBYS: Rule<u16> = Rule {
    words: "at most `maxSynchronousStandbys`",
    stage: Stage::Numbers,
    check: |_, given, spec| match given.is_none_or(|quorum| *quorum <= spec.max_synchronous_standbys) {
        true => Ok(()),
        false => Err(InvalidSpec::SynchronousQuorum),
    },
};

/// PostgreSQL manual, "Replication Slots". How long it may be is not asked here, since Stolon does not.
pub(crate) fn is_slot_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

pub(crate) const SLOT_NAMES: Rule<Vec<String>> = Rule {
    words: "names of `a`-`z`, `0`-`9` and `_` that do not begin with `stolon_`",
    stage: Stage::Lists,
    check: |_, given, _| {
        for slot in given.into_iter().flatten() {
            if !is_slot_name(slot) {
                return Err(InvalidSpec::SlotName(slot.clone()));
            }
            if slot.starts_with(STOLON_PREFIX) {
                return Err(InvalidSpec::ReservedSlotName(slot.clone()));
            }
        }
        Ok(())
    },
};

pub(crate) const SLOT_WAL_BOUND: Rule<String> = Rule {
    words: "`auto` (which is the default), `unlimited`, or a size in `MB`, `GB` or `TB`",
    stage: Stage::Lists,
    check: |name, given, _| match given {
        Some(text) if SlotWalBound::parse(text).is_none() => {
            Err(InvalidSpec::Size { field: name, given: text.clone() })
        }
        _ => Ok(()),
    },
};

pub(crate) const SINGLE_LINES: Rule<Vec<String>> = Rule {
    words: "no line breaks within an entry",
    stage: Stage::Lists,
    check: |_, given, _| match given.into_iter().flatten().any(|line| line.contains('\n')) {
        true => Err(InvalidSpec::HbaNewline),
        false => Ok(()),
    },
};

/// In which specifications a field is read.
pub(crate) struct ReadWith {
    /// As the reference and the note about a field that is not read say it.
    pub(crate) words: &'static str,
    pub(crate) applies: fn(&EffectiveSpec) -> bool,
}

pub(crate) const WITH_NEW: ReadWith =
    ReadWith { words: "initMode \"new\"", applies: |spec| spec.init_mode == InitMode::New };

pub(crate) const WITH_EXISTING: ReadWith =
    ReadWith { words: "initMode \"existing\"", applies: |spec| spec.init_mode == InitMode::Existing };

pub(crate) const WITH_PITR: ReadWith =
    ReadWith { words: "initMode \"pitr\"", applies: |spec| spec.init_mode == InitMode::PointInTimeRecovery };

pub(crate) const IN_STANDBY_CLUSTERS: ReadWith =
    ReadWith { words: "role \"standby\"", applies: |spec| spec.role == Role::Standby };

/// A default of the table.
pub(crate) const fn seconds(seconds: i64) -> GoDuration {
    GoDuration::from_seconds(seconds)
}

/// Programs count with no longer ones.
pub(crate) const LONGEST_SPAN: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A wire type with what programs work with in its place.
pub trait Value: Clone {
    /// What programs work with.
    type Meaning;

    /// The same as programs work with it.
    fn meaning(self) -> Self::Meaning;
}

impl Value for GoDuration {
    type Meaning = Duration;

    /// At most a hundred years, so that sums of them are times that every clock can tell.
    fn meaning(self) -> Duration {
        self.to_std().min(LONGEST_SPAN)
    }
}

macro_rules! as_they_are {
    ($($type:ty),*) => {$(
        impl Value for $type {
            type Meaning = Self;

            fn meaning(self) -> Self {
                self
            }
        }
    )*};
}

as_they_are!(bool, u16, u32, Role, AccessMode);

pub(crate) fn meaning<T: Value>(given: &Option<T>, default: T) -> T::Meaning {
    given.clone().unwrap_or(default).meaning()
}

pub(crate) fn filled<T: Clone>(given: &Option<T>, default: T) -> Option<T> {
    Some(given.clone().unwrap_or(default))
}

pub(crate) fn json_text<T: Encode>(value: &T) -> String {
    let mut out = Encoder::compact();
    value.encode_to(&mut out);
    out.finish()
}

/// `field: Type = "wireName", encoding, presence, rules [A, B], read WITH;` (rules and read may be absent)
///
/// The encoding is the one of `document!`. The presence is `default(value)`, `optional` (there is no default) or
/// `required`. The documentation of a row is also the one of the reference page: one sentence, plain Markdown.
macro_rules! specification {
    (
        $(#[$doc:meta])*
        pub struct $name:ident;
        $(#[$effective_doc:meta])*
        pub struct $effective:ident;
        $(
            $(#[doc = $field_doc:literal])*
            $field:ident: $type:ty = $wire:literal, $encoding:ident, $presence:ident $(($default:expr))?
                $(, rules [$($rule:expr),*])? $(, read $read:expr)?;
        )*
    ) => {
        $crate::json::document! {
            $(#[$doc])*
            pub struct $name {
                $($(#[doc = $field_doc])* $field: Option<$type> = $wire, $encoding;)*
            }
        }

        $(#[$effective_doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $effective {
            $($(#[doc = $field_doc])* pub $field: $crate::spec_table::meaning_type!($presence, $type),)*
        }

        impl $name {
            /// The rows of the table, in the order in which they are written.
            pub const FIELDS: &'static [$crate::spec_table::SpecField] = &[$(
                $crate::spec_table::SpecField {
                    name: $wire,
                    shape: <$type as $crate::json::Decode>::SHAPE,
                    doc: concat!($($field_doc),*),
                    presence: $crate::spec_table::presence!($presence),
                    rules: &[$($($rule.words),*)?],
                    read_with: $crate::spec_table::read_words!($($read)?),
                    default: $crate::spec_table::default_json!($type, $presence $(($default))?),
                }
            ),*];

            /// The specification with its defaults filled in, valid or not (negative spans of time count as zero).
            pub fn effective(&self) -> $effective {
                $effective {
                    $($field: $crate::spec_table::meaning_of!(self.$field, $presence $(($default))?),)*
                }
            }

            /// The same document with every default written out; what has no default stays unset.
            pub fn with_defaults(&self) -> $name {
                $name {
                    $($field: $crate::spec_table::with_default!(self.$field, $presence $(($default))?),)*
                }
            }

            /// The rules of the single fields that are checked at `stage`, in the order of the table.
            fn check_rules(&self, stage: $crate::spec_table::Stage, spec: &$effective) -> Result<(), InvalidSpec> {
                $($($(
                    if $rule.stage == stage {
                        ($rule.check)($wire, self.$field.as_ref(), spec)?;
                    }
                )*)?)*
                Ok(())
            }

            /// The fields that are set and not read, each with what it would be read with.
            fn unread_fields(&self, spec: &$effective) -> Vec<(&'static str, &'static str)> {
                let mut unread = Vec::new();
                $($(
                    if self.$field.is_some() && !($read.applies)(spec) {
                        unread.push(($wire, $read.words));
                    }
                )?)*
                unread
            }
        }
    };
}

macro_rules! meaning_type {
    (default, $type:ty) => { <$type as $crate::spec_table::Value>::Meaning };
    (optional, $type:ty) => { Option<$type> };
    (required, $type:ty) => { $type };
}

macro_rules! meaning_of {
    ($given:expr, default($default:expr)) => {
        $crate::spec_table::meaning(&$given, $default)
    };
    ($given:expr, optional) => {
        $given.clone()
    };
    ($given:expr, required) => {
        $given.clone().unwrap_or_default()
    };
}

macro_rules! with_default {
    ($given:expr, default($default:expr)) => {
        $crate::spec_table::filled(&$given, $default)
    };
    ($given:expr, $presence:ident) => {
        $given.clone()
    };
}

macro_rules! default_json {
    ($type:ty, default($default:expr)) => {
        Some(|| $crate::spec_table::json_text::<$type>(&$default))
    };
    ($type:ty, $presence:ident) => {
        None
    };
}

macro_rules! presence {
    (required) => {
        $crate::spec_table::Presence::Required
    };
    ($presence:ident) => {
        $crate::spec_table::Presence::Optional
    };
}

macro_rules! read_words {
    () => {
        None
    };
    ($read:expr) => {
        Some($read.words)
    };
}

pub(crate) use {default_json, meaning_of, meaning_type, presence, read_words, specification, with_default};
