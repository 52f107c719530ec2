//! The name that somebody meant.

use strsim::osa_distance;

/// The one of `names` that is nearest to `name`, without regard to case, if it is near enough to be what was meant:
/// a third of its letters, at most three, may be wrong, missing, surplus or swapped.
///
/// The first of several that are equally near.
pub fn nearest<'c>(name: &str, names: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let name = name.to_ascii_lowercase();
    let limit = (name.chars().count() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|other| (osa_distance(&name, &other.to_ascii_lowercase()), other))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, nearest)| nearest)
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
