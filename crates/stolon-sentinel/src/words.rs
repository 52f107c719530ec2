//! What the machine says, in words and at levels for the log.

use stolon_core::sentinel::{Saying, Trouble};
use stolon_model::Explained;

/// One line of the log.
pub fn log(saying: &Saying) {
    match saying {
        Saying::Changed(change) => tracing::info!("{change}"),
        Saying::Held(hold) => tracing::info!("{hold}"),
        Saying::Operated(entry) => {
            let details = entry.details.as_deref().unwrap_or_default().join("; ");
            tracing::info!(
                operator = entry.operator,
                command = entry.what,
                details,
                "an operator gave a command"
            );
        }
        Saying::SpecificationChanged(fields) => {
            tracing::info!(details = fields.join("; "), "the cluster specification was changed");
        }
        Saying::Created => tracing::info!("the cluster was created from the initial specification"),
        Saying::AccessLeftOpen => tracing::warn!("{}", access_left_open().on_one_line()),
        Saying::CreatedByAnother => tracing::info!("another sentinel has created the cluster"),
        Saying::DecidingAgain => {
            tracing::info!("the cluster data were changed meanwhile, deciding again");
        }
        Saying::Trouble(Trouble::NoCluster) => {
            tracing::info!("no cluster data available: waiting for stolonctl init");
        }
        Saying::Trouble(trouble) => tracing::error!("{}; trying again", explained(trouble).on_one_line()),
        Saying::TroubleOver => tracing::info!("rounds succeed again"),
        Saying::ReportRefused(why) => {
            tracing::warn!("{}", why.clone().after("cannot publish this sentinel's report").on_one_line());
        }
    }
}

fn access_left_open() -> Explained {
    Explained::new(
        "the initial specification has no defaultSUReplAccessMode, so the superuser and the replication user are admitted from any address",
    )
    .with_hint(
        "stolonctl update --patch '{\"defaultSUReplAccessMode\":\"strict\"}' admits them from keepers only, which is what stolonctl init writes; \
         \"all\" in the file of --initial-cluster-spec keeps it as it is, without this warning",
    )
}

fn explained(trouble: &Trouble) -> Explained {
    match trouble {
        Trouble::Unreadable(why) => why.clone().after("error retrieving cluster data"),
        Trouble::Unusable(bad) => Explained::new(bad.to_string()),
        Trouble::NoCluster => Explained::new("no cluster data available"),
        Trouble::Vanished(uid) => Explained::new(format!(
            "the cluster data of cluster {uid} are gone from the store: no new cluster is made in their place, since its keepers \
             would overwrite their databases"
        ))
        .with_hint("write the data back with `stolonctl clusterdata write`, or begin anew with `stolonctl init`"),
        Trouble::NotWritten(why) => why.clone().after("error saving clusterdata"),
        Trouble::WriteUnknown(why) => why.clone().after("it is not known whether the cluster data were saved"),
    }
}
