//! The name that somebody meant.

use strsim::osa_distance;

/// The candidate nearest to `name`, without regard to case, if it is near enough to be what was meant:
/// a third of its letters, at most three, may be wrong, missing, surplus or swapped.
///
/// Of several equally near ones the first.
pub fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let name = name.to_ascii_lowercase();
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (osa_distance(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let names = ["max_connections", "max_standbys", "work_mem", "port", "sleepInterval"];
        for (given, meant) in [
            ("max_conections", Some("max_connections")),
            ("MAX_CONNECTIONS", Some("max_connections")),
            ("wrok_mem", Some("work_mem")),
            ("sleepIntervall", Some("sleepInterval")),
            ("prot", Some("port")),
            ("p", None),
            ("", None),
            ("banana", None),
        ] {
            assert_eq!(nearest(given, names), meant, "{given}");
        }
    }
}
