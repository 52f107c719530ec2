//! Lexical cleaning of store keys, as Go's `path.Join` does it (docs: "Keys in the store").

/// The path of a cluster: `<prefix>/<name>`, cleaned. A leading slash stays.
pub fn cluster_path(prefix: &str, cluster_name: &str) -> String {
    join(prefix, cluster_name)
}

/// Both parts joined by a slash, empty ones left out, `//`, `.` and `..` resolved.
pub(crate) fn join(first: &str, second: &str) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(second),
        (false, true) => clean(first),
        (false, false) => clean(&format!("{first}/{second}")),
    }
}

fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::cluster_path;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (prefix, name, path) in [
            ("stolon/cluster", "mycluster", "stolon/cluster/mycluster"),
            ("/stolon/cluster", "mycluster", "/stolon/cluster/mycluster"),
            ("/stolon//cluster/", "a/./b", "/stolon/cluster/a/b"),
            ("stolon/cluster", "../other", "stolon/other"),
            ("stolon", "../../x", "../x"),
            ("/stolon", "../../x", "/x"),
            ("stolon", "..", "."),
            ("", "mycluster", "mycluster"),
            ("stolon", "", "stolon"),
            ("", "", ""),
        ] {
            assert_eq!(cluster_path(prefix, name), path, "{prefix} + {name}");
        }
    }
}
