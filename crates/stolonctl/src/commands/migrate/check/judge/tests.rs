use super::super::finding::{Level, Subject};
use super::super::inventory::*;
use super::*;
use stolon_core::postgres::Version;

/// A server that nothing is wrong with, and a cluster that waits for it.
fn sound() -> (Inventory, Destination) {
    let setting = |value: &str| Setting { value: value.to_owned(), ..Setting::default() };
    let settings = [
        ("max_connections", "100"),
        ("superuser_reserved_connections", "3"),
        ("wal_level", "logical"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("archive_mode", "off"),
    ];
    let collation = Collation {
        name: "en_US.UTF-8".to_owned(),
        recorded: Some("2.36".to_owned()),
        actual: Some("2.36".to_owned()),
        ..Collation::default()
    };
    let database = Database {
        name: "shop".to_owned(),
        bytes: Some(10 << 30),
        encoding: "UTF8".to_owned(),
        collation,
        content: Ok(Content { tables: 7, ..Content::default() }),
    };
    let replication = HbaLine {
        kind: "host".to_owned(),
        databases: vec!["replication".to_owned()],
        users: vec!["all".to_owned()],
        address: Some("10.0.0.0".to_owned()),
        netmask: Some("255.0.0.0".to_owned()),
        method: "scram-sha-256".to_owned(),
        ..HbaLine::default()
    };
    let legacy = Inventory {
        version_number: 150_004,
        hosts: vec!["10.0.0.1".to_owned()],
        user: User { name: "postgres".to_owned(), is_superuser: true },
        settings: settings.map(|(name, value)| (name.to_owned(), setting(value))).into(),
        databases: vec![database],
        hba: Some(vec![replication]),
        ..Inventory::default()
    };
    let keeper = DestinationKeeper {
        uid: "keeper0".into(),
        version: Version { major: 15, minor: 6 },
        room: Some(Room { free: 100 << 30, total: 200 << 30 }),
    };
    (legacy, Destination { keepers: vec![keeper], has_hba: true, merges_parameters: true })
}

fn named(names: &[&str]) -> Named {
    Named { count: names.len() as u64, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

fn content(legacy: &mut Inventory) -> &mut Content {
    legacy.databases[0].content.as_mut().expect("the content is known")
}

fn configure(legacy: &mut Inventory, name: &str, value: &str, source: Source) {
    legacy.settings.insert(name.to_owned(), Setting { value: value.to_owned(), source, is_pending: false });
}

type Change = fn(&mut Inventory, &mut Destination);
use Level::{Blocks, Ok as Fine, Warning};
use Method::{Logical, Physical};

/// A name for the failure, what is different, the method, and what is then found.
const TABLE: &[(&str, Change, Method, Level, Subject)] = &[
    ("too old", |l, _| l.version_number = 90_624, Physical, Blocks, Subject::Method),
    ("newer keepers", |_, d| d.keepers[0].version.major = 17, Physical, Blocks, Subject::Method),
    ("newer keepers, by rows", |_, d| d.keepers[0].version.major = 17, Logical, Fine, Subject::Method),
    ("older keepers", |_, d| d.keepers[0].version.major = 14, Logical, Blocks, Subject::Method),
    (
        "nobody may change settings",
        |l, _| configure(l, "allow_alter_system", "off", Source::Elsewhere),
        Physical,
        Blocks,
        Subject::AlterSystem,
    ),
    (
        "everybody may",
        |l, _| configure(l, "allow_alter_system", "on", Source::Default),
        Logical,
        Fine,
        Subject::AlterSystem,
    ),
    ("no keepers", |_, d| d.keepers.clear(), Physical, Warning, Subject::Method),
    (
        "two majors",
        |_, d| {
            let mut other = d.keepers[0].clone();
            other.version.major = 16;
            d.keepers.push(other);
        },
        Physical,
        Blocks,
        Subject::Method,
    ),
    ("no superuser", |l, _| l.user.is_superuser = false, Physical, Blocks, Subject::Privileges),
    ("this machine", |l, _| l.hosts = vec!["127.0.0.1".to_owned()], Physical, Warning, Subject::Reachability),
    ("a socket", |l, _| l.hosts = vec!["/run".to_owned()], Physical, Warning, Subject::Reachability),
    (
        "minimal",
        |l, _| configure(l, "wal_level", "minimal", Source::Default),
        Physical,
        Blocks,
        Subject::WalLevel,
    ),
    (
        "replica",
        |l, _| configure(l, "wal_level", "replica", Source::Default),
        Physical,
        Fine,
        Subject::WalLevel,
    ),
    (
        "replica, by rows",
        |l, _| configure(l, "wal_level", "replica", Source::Default),
        Logical,
        Blocks,
        Subject::WalLevel,
    ),
    ("senders", |l, _| l.taken.senders = 9, Physical, Blocks, Subject::WalSenders),
    ("slots", |l, _| l.taken.slots = 10, Physical, Blocks, Subject::ReplicationSlots),
    ("slots by rows", |l, _| l.taken.slots = 9, Logical, Blocks, Subject::ReplicationSlots),
    ("few sessions", |l, _| l.taken.connections = 91, Physical, Warning, Subject::Connections),
    ("no sessions", |l, _| l.taken.connections = 100, Physical, Blocks, Subject::Connections),
    ("shut", |l, _| l.databases[0].content = Err("why".to_owned()), Physical, Warning, Subject::Databases),
    (
        "contrib",
        |l, _| _ = content(l).extensions.insert("hstore".to_owned(), "1.8".to_owned()),
        Physical,
        Fine,
        Subject::Extensions,
    ),
    (
        "postgis",
        |l, _| _ = content(l).extensions.insert("postgis".to_owned(), "3.3".to_owned()),
        Physical,
        Warning,
        Subject::Extensions,
    ),
    ("own library", |l, _| content(l).libraries = named(&["mine"]), Physical, Warning, Subject::Extensions),
    (
        "preload",
        |l, _| {
            configure(
                l,
                "shared_preload_libraries",
                "pg_stat_statements, \"$libdir/timescaledb\"",
                Source::CopiedFile,
            )
        },
        Physical,
        Warning,
        Subject::PreloadLibraries,
    ),
    (
        "preload contrib",
        |l, _| configure(l, "shared_preload_libraries", "pg_stat_statements", Source::CopiedFile),
        Physical,
        Fine,
        Subject::PreloadLibraries,
    ),
    (
        "tablespace",
        |l, _| l.tablespaces.push(Tablespace { name: "fast".to_owned(), location: "/fast".to_owned() }),
        Physical,
        Warning,
        Subject::Tablespaces,
    ),
    ("sorted", |l, _| content(l).sorted_indexes = named(&["i"]), Physical, Warning, Subject::Collations),
    ("sorted, by rows", |l, _| content(l).sorted_indexes = named(&["i"]), Logical, Fine, Subject::Collations),
    (
        "sorts anew",
        |l, _| l.databases[0].collation.actual = Some("2.28".to_owned()),
        Logical,
        Warning,
        Subject::Collations,
    ),
    ("ICU anew", |l, _| content(l).changed_collations = named(&["c"]), Logical, Warning, Subject::Collations),
    (
        "invalid",
        |l, _| content(l).invalid_indexes = named(&["i"]),
        Physical,
        Warning,
        Subject::InvalidIndexes,
    ),
    (
        "no room",
        |_, d| d.keepers[0].room = Some(Room { free: 1 << 30, total: 10 << 30 }),
        Physical,
        Blocks,
        Subject::Room,
    ),
    (
        "little room",
        |_, d| d.keepers[0].room = Some(Room { free: (10 << 30) + 1, total: 200 << 30 }),
        Physical,
        Warning,
        Subject::Room,
    ),
    ("room unknown", |_, d| d.keepers[0].room = None, Physical, Warning, Subject::Room),
    (
        "taken over",
        |l, _| configure(l, "work_mem", "8MB", Source::CopiedFile),
        Physical,
        Fine,
        Subject::Settings,
    ),
    (
        "elsewhere",
        |l, _| configure(l, "work_mem", "8MB", Source::Elsewhere),
        Physical,
        Warning,
        Subject::Settings,
    ),
    (
        "by rows",
        |l, _| configure(l, "work_mem", "8MB", Source::CopiedFile),
        Logical,
        Warning,
        Subject::Settings,
    ),
    (
        "not merged",
        |l, d| {
            d.merges_parameters = false;
            configure(l, "work_mem", "8MB", Source::CopiedFile);
        },
        Physical,
        Warning,
        Subject::Settings,
    ),
    ("ours", |l, _| configure(l, "port", "5433", Source::Elsewhere), Physical, Fine, Subject::Settings),
    (
        "gone",
        |l, d| {
            d.keepers[0].version.major = 17;
            configure(l, "vacuum_defer_cleanup_age", "5", Source::CopiedFile);
        },
        Logical,
        Warning,
        Subject::Settings,
    ),
    (
        "archive",
        |l, _| configure(l, "archive_mode", "on", Source::Default),
        Physical,
        Warning,
        Subject::Archive,
    ),
    ("hba hidden", |l, _| l.hba = None, Physical, Warning, Subject::Hba),
    ("no replication", |l, _| l.hba = Some(Vec::new()), Physical, Blocks, Subject::Hba),
    ("no pgHBA", |_, d| d.has_hba = false, Physical, Warning, Subject::Hba),
    (
        "bad line",
        |l, _| l.hba.as_mut().expect("lines")[0].error = Some("bad".to_owned()),
        Logical,
        Warning,
        Subject::Hba,
    ),
    (
        "mapped",
        |l, _| l.hba.as_mut().expect("lines")[0].options = vec!["map=x".to_owned()],
        Physical,
        Warning,
        Subject::Hba,
    ),
    (
        "md5 under scram",
        |l, _| {
            l.roles.push(Role { name: "a".to_owned(), can_login: true, password: StoredPassword::Md5 });
        },
        Physical,
        Warning,
        Subject::Roles,
    ),
    (
        "somebody's slot",
        |l, _| l.slots.push(Slot { name: "cdc".to_owned(), is_logical: true, is_active: true }),
        Physical,
        Warning,
        Subject::OtherSlots,
    ),
    ("publication", |l, _| content(l).publications = named(&["p"]), Physical, Warning, Subject::Publications),
    (
        "subscription",
        |l, _| content(l).subscriptions = named(&["s"]),
        Physical,
        Warning,
        Subject::Subscriptions,
    ),
    ("prepared", |l, _| l.prepared.push(prepared(5)), Physical, Warning, Subject::PreparedTransactions),
    (
        "prepared, by rows",
        |l, _| l.prepared.push(prepared(5)),
        Logical,
        Warning,
        Subject::PreparedTransactions,
    ),
    ("forgotten", |l, _| l.prepared.push(prepared(4000)), Logical, Blocks, Subject::PreparedTransactions),
    ("unlogged", |l, _| content(l).unlogged = named(&["u"]), Physical, Warning, Subject::UnloggedTables),
    (
        "foreign",
        |l, _| content(l).foreign_servers = named(&["f"]),
        Physical,
        Warning,
        Subject::ForeignServers,
    ),
    ("keyless", |l, _| content(l).keyless = named(&["k"]), Logical, Warning, Subject::Keys),
    ("large objects", |l, _| content(l).large_objects = 3, Logical, Blocks, Subject::LargeObjects),
    (
        "event trigger",
        |l, _| content(l).event_triggers = named(&["e"]),
        Logical,
        Warning,
        Subject::EventTriggers,
    ),
    ("oids", |l, _| content(l).with_oids = named(&["o"]), Logical, Warning, Subject::Columns),
];

fn prepared(age: u64) -> Prepared {
    Prepared { gid: "tx".to_owned(), database: "shop".to_owned(), age }
}

fn worst(findings: &[Finding], subject: Subject) -> Option<&Finding> {
    findings.iter().filter(|finding| finding.subject == subject).max_by_key(|finding| finding.level)
}

#[test]
fn nothing_is_in_the_way_of_a_sound_server() {
    let (legacy, destination) = sound();
    for method in [Physical, Logical] {
        let (judged, findings) = findings(&legacy, &destination, Some(method));
        let complaints: Vec<_> = findings.iter().filter(|finding| finding.level > Fine).collect();
        assert!(judged == method && complaints.is_empty(), "{complaints:#?}");
    }
}

#[test]
fn each_thing_in_the_way_is_found_and_named() {
    for (name, change, method, level, subject) in TABLE {
        let (mut legacy, mut destination) = sound();
        change(&mut legacy, &mut destination);
        let (_, findings) = findings(&legacy, &destination, Some(*method));
        let found = worst(&findings, *subject);
        assert_eq!(found.map(|finding| finding.level), Some(*level), "{name}: {found:#?}");
        let has_hint = found.is_some_and(|finding| finding.hint.is_some());
        assert!(*level == Fine || has_hint, "{name} does not say what to do");
    }
}

#[test]
fn the_versions_choose_the_method() {
    let (mut legacy, mut destination) = sound();
    assert_eq!(findings(&legacy, &destination, None).0, Physical);
    destination.keepers[0].version.major = 17;
    assert_eq!(findings(&legacy, &destination, None).0, Logical);
    legacy.version_number = 170_002;
    assert_eq!(findings(&legacy, &destination, None).0, Physical);
}

#[test]
fn secrets_of_settings_and_of_hba_lines_are_not_shown() {
    let (mut legacy, mut destination) = sound();
    destination.has_hba = false;
    configure(&mut legacy, "archive_command", "aws --key hidden1", Source::Elsewhere);
    configure(&mut legacy, "primary_conninfo", "password=hidden2", Source::CopiedFile);
    configure(&mut legacy, "ssl_passphrase_command", "echo hidden3", Source::CopiedFile);
    let lines = legacy.hba.as_mut().expect("lines");
    lines.push(HbaLine {
        kind: "host".to_owned(),
        databases: vec!["all".to_owned()],
        users: vec!["all".to_owned()],
        address: Some("all".to_owned()),
        method: "ldap".to_owned(),
        options: vec!["ldapserver=l".to_owned(), "ldapbindpasswd=hidden4".to_owned()],
        ..HbaLine::default()
    });
    for method in [Physical, Logical] {
        let said = serde_json::to_string(&findings(&legacy, &destination, Some(method)).1).expect("JSON");
        assert!(!said.contains("hidden"), "{said}");
        assert!(said.contains("archive_command") && said.contains("ldapbindpasswd=***"), "{said}");
    }
}

#[test]
fn lines_of_pg_hba_are_written_as_they_were() {
    let line = |address: &str, netmask: Option<&str>| HbaLine {
        kind: "hostssl".to_owned(),
        databases: vec!["My Shop".to_owned(), "all".to_owned()],
        users: vec!["+clerks".to_owned(), "O'Neil".to_owned()],
        address: Some(address.to_owned()),
        netmask: netmask.map(str::to_owned),
        method: "cert".to_owned(),
        options: vec!["clientname=DN".to_owned(), "map=a b".to_owned()],
        ..HbaLine::default()
    };
    for (address, netmask, written) in [
        ("10.0.0.0", Some("255.0.0.0"), "10.0.0.0/8"),
        ("10.0.0.1", Some("255.255.255.255"), "10.0.0.1/32"),
        ("10.0.0.1", Some("255.0.0.255"), "10.0.0.1 255.0.0.255"),
        ("::1", Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::1/128"),
        ("0.0.0.0", Some("0.0.0.0"), "0.0.0.0/0"),
        (".example.org", None, ".example.org"),
    ] {
        let text = hba::written(&line(address, netmask));
        let expected =
            format!("hostssl \"My Shop\",all +clerks,O'Neil {written} cert clientname=DN map=\"a b\"");
        assert_eq!(text, expected);
    }
}
