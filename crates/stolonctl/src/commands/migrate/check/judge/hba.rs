//! Who may connect to the legacy, and what keeps it like that.

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Destination, HbaLine, Inventory, Method, StoredPassword};
use super::settings::in_shell;

/// `pg_hba.conf` and the roles that it lets in.
pub fn findings(legacy: &Inventory, destination: &Destination, method: Method) -> Vec<Finding> {
    let Some(lines) = &legacy.hba else {
        let hidden = Finding::warning(Subject::Hba, "this user may not read pg_hba_file_rules");
        return vec![hidden.hint("ask as a superuser"), roles(legacy, &[])];
    };
    let mut findings: Vec<Finding> = replication(lines, method).into_iter().collect();
    findings.push(kept(lines, destination));
    findings.extend(broken(lines));
    findings.extend(mapped(lines));
    findings.push(roles(legacy, lines));
    findings
}

/// A base backup and a standby come in as the database `replication` (PostgreSQL manual, "The pg_hba.conf File").
fn replication(lines: &[HbaLine], method: Method) -> Option<Finding> {
    let admits = lines.iter().any(|line| {
        line.error.is_none()
            && line.kind.starts_with("host")
            && line.method != "reject"
            && line.databases.iter().any(|database| database == "replication")
    });
    (method == Method::Physical && !admits).then(|| {
        Finding::blocks(Subject::Hba, "no line admits replication over TCP")
            .hint("add `host replication USER ADDRESS/32 scram-sha-256` for each keeper and reload")
    })
}

fn kept(lines: &[HbaLine], destination: &Destination) -> Finding {
    let theirs: Vec<&HbaLine> =
        lines.iter().filter(|line| line.error.is_none() && !is_replication(line)).collect();
    let text: Vec<String> = theirs.iter().map(|line| written(line)).collect();
    let number = counted(text.len() as u64, "line", "lines");
    if destination.has_hba {
        return Finding::ok(Subject::Hba, format!("{number} here; the new cluster has its own pgHBA"))
            .names(text);
    }
    let document = serde_json::json!({ "pgHBA": text }).to_string();
    let masked = match theirs.iter().any(|line| line.options.iter().any(|option| is_secret(option))) {
        true => ", with the secrets in place of the asterisks",
        false => "",
    };
    Finding::warning(
        Subject::Hba,
        format!("{number} here; the new cluster has no pgHBA, and lets everybody in from everywhere with a password"),
    )
    .hint(format!("stolonctl update --patch {}{masked}", in_shell(&document)))
    .names(text)
}

/// Lines for nothing but replication are made by the keepers.
fn is_replication(line: &HbaLine) -> bool {
    line.databases.iter().all(|database| database == "replication")
}

fn is_secret(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    ["ldapbindpasswd", "radiussecrets", "radiussecret"].contains(&name) || name.contains("secret")
}

/// A line as it would stand in the file.
pub fn written(line: &HbaLine) -> String {
    let mut words = vec![line.kind.clone(), names(&line.databases), names(&line.users)];
    words.extend(line.address.clone().map(|address| with_mask(&address, line.netmask.as_deref())));
    words.push(line.method.clone());
    words.extend(line.options.iter().map(|option| match (is_secret(option), option.split_once('=')) {
        (true, Some((name, _))) => format!("{name}=***"),
        (_, Some((name, value))) if value.contains([' ', ',', '#', '"']) => {
            format!("{name}=\"{}\"", value.replace('"', "\"\""))
        }
        _ => option.clone(),
    }));
    words.join(" ")
}

fn names(names: &[String]) -> String {
    let quoted =
        names.iter().map(|name| match name.is_empty() || name.contains([' ', ',', '#', '"', '\t']) {
            true => format!("\"{}\"", name.replace('"', "\"\"")),
            false => name.clone(),
        });
    quoted.collect::<Vec<_>>().join(",")
}

/// `10.0.0.0/8` of an address and a mask.
fn with_mask(address: &str, netmask: Option<&str>) -> String {
    let bits = match netmask.and_then(|mask| mask.parse::<std::net::IpAddr>().ok()) {
        Some(std::net::IpAddr::V4(mask)) => {
            Some((u32::from(mask).leading_ones(), u32::from(mask).count_ones()))
        }
        Some(std::net::IpAddr::V6(mask)) => {
            Some((u128::from(mask).leading_ones(), u128::from(mask).count_ones()))
        }
        None => None,
    };
    match (bits, netmask) {
        (Some((leading, all)), _) if leading == all => format!("{address}/{leading}"),
        (_, Some(mask)) => format!("{address} {mask}"),
        (_, None) => address.to_owned(),
    }
}

fn broken(lines: &[HbaLine]) -> Option<Finding> {
    let broken: Vec<String> = lines
        .iter()
        .filter_map(|line| Some(format!("line {}: {}", line.number, line.error.as_ref()?)))
        .collect();
    (!broken.is_empty()).then(|| {
        Finding::warning(
            Subject::Hba,
            "PostgreSQL does not understand all of the file, and runs with what it read before",
        )
        .hint("mend the lines, or leave them out")
        .names(broken)
    })
}

/// `pg_ident.conf` does not come along.
fn mapped(lines: &[HbaLine]) -> Option<Finding> {
    let mapped: Vec<String> = lines
        .iter()
        .filter(|line| line.options.iter().any(|option| option.starts_with("map=")))
        .map(|line| format!("line {}: {}", line.number, written(line)))
        .collect();
    (!mapped.is_empty()).then(|| {
        Finding::warning(Subject::Hba, "lines that go by pg_ident.conf, which the keepers do not write")
            .hint("give these users another method, such as scram-sha-256 or cert without a map")
            .names(mapped)
    })
}

fn roles(legacy: &Inventory, lines: &[HbaLine]) -> Finding {
    let kept_as = |kind: StoredPassword| -> Vec<String> {
        let of_kind = legacy.roles.iter().filter(move |role| role.can_login && role.password == kind);
        of_kind.map(|role| role.name.clone()).collect()
    };
    let (md5, scram, none) =
        (kept_as(StoredPassword::Md5), kept_as(StoredPassword::Scram), kept_as(StoredPassword::None));
    let sentence = format!(
        "{}; of those that may log in {} for scram-sha-256, {} for md5, {} without a password",
        counted(legacy.roles.len() as u64, "role", "roles"),
        scram.len(),
        md5.len(),
        none.len()
    );
    let wants_scram = lines.iter().any(|line| line.error.is_none() && line.method == "scram-sha-256");
    match (legacy.user.is_superuser, md5.is_empty(), wants_scram) {
        (false, ..) => Finding::warning(Subject::Roles, "how passwords are kept this user may not know")
            .hint("ask as a superuser"),
        (true, true, _) => Finding::ok(Subject::Roles, sentence),
        (true, false, true) => Finding::warning(
            Subject::Roles,
            format!("{sentence}; lines of pg_hba.conf ask for scram-sha-256, which the password of an md5 role cannot answer"),
        )
        .hint("set their passwords anew with password_encryption = 'scram-sha-256', before the migration or after")
        .names(md5),
        (true, false, false) => Finding::ok(
            Subject::Roles,
            format!("{sentence}; md5 goes on working with lines that say md5, and is deprecated since PostgreSQL 18"),
        )
        .names(md5),
    }
}
