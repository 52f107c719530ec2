//! What the legacy server's databases are made of, as it was when their schema was copied: logical replication carries rows, and no
//! changes of definitions. So that such a change is noticed, and named, the digests lie in the cluster's database: in the remark on the
//! schema that marks a copy that is under way, then in that on the subscription.

use std::collections::BTreeMap;

use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;

use super::super::verify::definitions_of_database;

/// Kind and name of each thing, and the digest of its definition.
pub type Definitions = BTreeMap<String, String>;

/// As they are now.
///
/// # Errors
/// The server does not answer.
pub async fn read(session: &ForeignSession, limit: &Limit) -> Result<Definitions, ForeignProblem> {
    let mut all = Definitions::new();
    for (kind, query) in definitions_of_database() {
        let digests = format!(
            "SELECT name, left(md5(coalesce(definition, '')), 8) FROM ({query}) AS q(name, definition)"
        );
        for row in session.rows(&digests, limit).await? {
            let text = |at| row.get(at).unwrap_or_default();
            all.insert(format!("{kind} {}", text(0)), text(1).to_owned());
        }
    }
    Ok(all)
}

/// As a remark.
pub fn remark(definitions: &Definitions) -> String {
    serde_json::to_string(definitions).unwrap_or_default()
}

/// What a remark says; none: it is not one of ours.
pub fn remarked(text: &str) -> Option<Definitions> {
    serde_json::from_str(text).ok()
}

/// What has changed, each in a few words.
pub fn changes(before: &Definitions, now: &Definitions) -> Vec<String> {
    let mut changes = Vec::new();
    for (what, digest) in now {
        match before.get(what) {
            None => changes.push(format!("{what} is new")),
            Some(old) if old != digest => changes.push(format!("{what} was changed")),
            Some(_) => {}
        }
    }
    changes
        .extend(before.keys().filter(|what| !now.contains_key(*what)).map(|what| format!("{what} is gone")));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_named() {
        let of = |things: &[(&str, &str)]| -> Definitions {
            things.iter().map(|(what, digest)| ((*what).to_owned(), (*digest).to_owned())).collect()
        };
        let before =
            of(&[("columns public.t.a", "1"), ("columns public.t.b", "2"), ("indexes public.i", "3")]);
        let now =
            of(&[("columns public.t.a", "1"), ("columns public.t.b", "9"), ("columns public.t.c", "4")]);
        assert_eq!(
            changes(&before, &now),
            ["columns public.t.b was changed", "columns public.t.c is new", "indexes public.i is gone"]
        );
        assert_eq!(remarked(&remark(&before)), Some(before));
        assert_eq!(remarked("standard public schema"), None);
    }
}
