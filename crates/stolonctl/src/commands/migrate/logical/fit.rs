//! Whether a legacy server and a cluster fit for the logical method, before anything is made.

use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_runtime::Failure;

use super::super::facts::Facts;
use super::super::flow::{Database, Flow, column, databases};
use super::super::legacy::{Legacy, trouble};
use super::super::way_back;
use super::locks::{self, Room};
use super::publishing;

/// Tables that PostgreSQL copies at the same time, for each database (`max_sync_workers_per_subscription`).
const COPIES: usize = 2;

/// What a cluster of this major must allow, for so many databases: a worker that applies for each, one that starts them, and some that copy. How far
/// each of these is lies in a place of its own, of which there are as many as slots before 18, and 10 from then on (release notes 18).
fn allowed(databases: usize, major: u32) -> Vec<(&'static str, usize)> {
    let mut allowed = vec![
        ("max_logical_replication_workers", databases + COPIES),
        ("max_worker_processes", databases + COPIES + 1),
        ("max_replication_slots", databases + COPIES),
        ("max_wal_senders", databases + COPIES),
    ];
    if major >= 18 {
        allowed.push(("max_active_replication_origins", databases + COPIES));
    }
    allowed
}

/// Nothing is in the way.
///
/// # Errors
/// Something is, or a server does not answer.
pub async fn check(
    legacy: &Legacy,
    session: &ForeignSession,
    facts: &Facts,
    flow: &Flow<'_>,
) -> anyhow::Result<Facts> {
    let cannot = |problem: ForeignProblem| trouble("the cluster cannot be asked", &problem);
    if !facts.is_superuser {
        return Err(Failure::new(
            "the user on the legacy server is no superuser, and could not close it at the switch",
        )
        .hint("name a superuser in --source")
        .into());
    }
    if facts.wal_level != "logical" {
        return Err(Failure::new(format!(
            "wal_level of the legacy server is {}: it publishes nothing",
            facts.wal_level
        ))
        .hint("set wal_level = logical there, which needs a restart")
        .into());
    }
    let all = databases(session, &legacy.question()).await;
    let all = all.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?;
    if !all.iter().any(|database| database.name == "postgres") {
        return Err(Failure::new("the legacy server has no database postgres, which every cluster has")
            .hint("CREATE DATABASE postgres there")
            .into());
    }
    if let Some(failure) = publishing::room(session, legacy, all.len() + COPIES).await?.into_iter().next() {
        return Err(failure.into());
    }
    let obstacles = way_back::obstacles(session, legacy).await;
    let obstacles = obstacles.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?;
    if !obstacles.is_empty() {
        return Err(Failure::new(format!("rows could not be carried over: {}", obstacles.join("; ")))
            .hint("a primary key, or a unique index as REPLICA IDENTITY, tells rows apart; large objects need the physical method")
            .into());
    }
    let cluster = flow.to.enter(None).await.map_err(|problem| {
        trouble("the cluster does not let us in", &problem)
            .hint("--target says as whom its PostgreSQL is entered: 'host=cluster user=stolon passfile=/run/secrets/cluster'")
    })?;
    let theirs = Facts::ask_of(&cluster, &flow.to.question(), "the cluster").await?;
    fits(facts, &theirs)?;
    takes(&cluster, theirs.major, flow, all.len()).await?;
    has_room_for_locks(legacy, session, &cluster, flow, &all).await?;
    is_empty(&cluster, flow, &all).await.map_err(cannot)??;
    Ok(theirs)
}

fn fits(legacy: &Facts, cluster: &Facts) -> Result<(), Failure> {
    if legacy.system_identifier == cluster.system_identifier {
        return Err(Failure::new("the cluster is the legacy server, or a copy of it"));
    }
    if legacy.major > cluster.major {
        let (old, new) = (cluster.major, legacy.major);
        return Err(Failure::new(format!(
            "the cluster runs PostgreSQL {old}, which is older than the legacy server's {new}"
        ))
        .hint("give its keepers the same major version or a newer one"));
    }
    if !cluster.is_superuser {
        return Err(
            Failure::new("the user on the cluster is no superuser").hint("name a superuser in --target")
        );
    }
    if cluster.wal_level != "logical" {
        let level = &cluster.wal_level;
        return Err(Failure::new(format!("wal_level of the cluster is {level}: there would be no way back"))
            .hint("stolonctl update --patch '{\"pgParameters\": {\"wal_level\": \"logical\"}}', and restart its PostgreSQL"));
    }
    Ok(())
}

async fn takes(
    cluster: &ForeignSession,
    major: u32,
    flow: &Flow<'_>,
    databases: usize,
) -> anyhow::Result<()> {
    for (setting, needed) in allowed(databases, major) {
        let asked = cluster.value(&format!("SELECT current_setting('{setting}')"), &flow.to.question()).await;
        let value = asked.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
        let value: usize = value.and_then(|text| text.parse().ok()).unwrap_or(0);
        if value < needed {
            return Err(Failure::new(format!(
                "{setting} of the cluster is {value}, and {databases} databases need {needed}"
            ))
            .hint(format!(
                "stolonctl update --patch '{}', and restart its PostgreSQL",
                raising(setting, needed)
            ))
            .into());
        }
    }
    Ok(())
}

async fn has_room_for_locks(
    legacy: &Legacy,
    session: &ForeignSession,
    cluster: &ForeignSession,
    flow: &Flow<'_>,
    databases: &[Database],
) -> anyhow::Result<()> {
    const SETTING: &str = "max_locks_per_transaction";
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be asked", &problem);
    let locks = locks::taken(legacy, databases).await.map_err(cannot)?;
    let there = Room::of(session, &legacy.question()).await.map_err(cannot)?;
    if let Some(needed) = there.lacking(locks.dumped) {
        let (each, dumped) = (there.each, locks.dumped);
        return Err(Failure::new(format!(
            "{SETTING} of the legacy server is {each}, which is too little for pg_dump to lock {dumped} tables"
        ))
        .hint(format!("set {SETTING} = {needed} there, which needs a restart"))
        .into());
    }
    let here = Room::of(cluster, &flow.to.question()).await;
    let here = here.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
    let Some(needed) = here.lacking(locks.made) else { return Ok(()) };
    let (each, made) = (here.each, locks.made);
    Err(Failure::new(format!(
        "{SETTING} of the cluster is {each}, which is too little to make {made} tables and indexes"
    ))
    .hint(format!(
        "stolonctl update --patch '{}', and restart its PostgreSQL",
        raising(SETTING, usize::try_from(needed).unwrap_or(usize::MAX))
    ))
    .into())
}

/// The change of the specification that raises a setting. Keepers make those of replication from `maxStandbys`, whatever `pgParameters` says.
fn raising(setting: &str, needed: usize) -> String {
    match setting {
        "max_replication_slots" | "max_wal_senders" => format!("{{\"maxStandbys\": {needed}}}"),
        _ => format!("{{\"pgParameters\": {{\"{setting}\": \"{needed}\"}}}}"),
    }
}

async fn is_empty(
    cluster: &ForeignSession,
    flow: &Flow<'_>,
    legacy: &[Database],
) -> Result<Result<(), Failure>, ForeignProblem> {
    const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'";
    let limit = flow.to.question();
    let is_taken = |name: &str| legacy.iter().any(|database| database.name == name);
    let mut there: Vec<String> = databases(cluster, &limit)
        .await?
        .into_iter()
        .filter(|database| database.name != "postgres" && is_taken(&database.name))
        .map(|database| format!("database {}", database.name))
        .collect();
    let session = flow.to.enter(Some("postgres")).await?;
    there.extend(column(&session.rows(TABLES, &limit).await?));
    Ok(match there.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::new(format!("the cluster is not empty: it holds {}", super::schema::shown(&there)))
                .hint("stolonctl init makes an empty one"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::raising;

    #[test]
    fn what_keepers_manage_is_raised_by_the_field_that_they_make_it_from() {
        assert_eq!(raising("max_replication_slots", 22), r#"{"maxStandbys": 22}"#);
        let workers = r#"{"pgParameters": {"max_worker_processes": "22"}}"#;
        assert_eq!(raising("max_worker_processes", 22), workers);
    }
}
