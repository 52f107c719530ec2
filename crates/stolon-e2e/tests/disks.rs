//! Disks that fill up or hang under a running cluster: real file systems, one for each keeper.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use stolon_model::DiskFault;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_prepared, wait_for};

/// A file system of its own for a keeper's directory.
struct OwnDisk {
    place: PathBuf,
}

fn command(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).arg(path).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl OwnDisk {
    fn mount(cluster: &Cluster, keeper: usize) -> anyhow::Result<OwnDisk> {
        let image = cluster.directory().join(format!("disk{keeper}"));
        let place = cluster.layout.keeper_directory(keeper);
        std::fs::File::create(&image)?.set_len(500 << 20)?;
        command("mkfs.ext4", &["-q", "-m", "0"], &image)?;
        cluster.layout.account.make_directory(&place)?;
        let source = image.display().to_string();
        command("mount", &["-o", "loop", &source], &place)?;
        let disk = OwnDisk { place };
        cluster.layout.account.own(&disk.place)?;
        command("chmod", &["700"], &disk.place)?;
        Ok(disk)
    }

    /// Leaves no byte free.
    fn fill(&self) -> anyhow::Result<()> {
        let mut filler = std::fs::File::create(self.place.join("filler"))?;
        // The copy ends where the disk does.
        let _ = std::io::copy(&mut std::fs::File::open("/dev/zero")?, &mut filler);
        Ok(filler.sync_all()?)
    }

    fn make_room(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.place.join("filler"))?)
    }

    fn freeze(&self) -> anyhow::Result<()> {
        command("fsfreeze", &["-f"], &self.place)
    }

    fn thaw(&self) -> anyhow::Result<()> {
        command("fsfreeze", &["-u"], &self.place)
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        // Nobody ends who waits for it.
        let _ = self.thaw();
        for pid in self.place.parent().into_iter().flat_map(stolon_testkit::local::running_in) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// A test on two keepers, each with a disk of its own. Where nothing can be mounted, that is said.
fn on_own_disks(test: impl AsyncFnOnce(&mut Cluster, &[OwnDisk]) -> anyhow::Result<()>) {
    on_prepared(Plan::new(2), async |cluster| {
        let disks = match [1, 2].map(|keeper| OwnDisk::mount(cluster, keeper)).into_iter().collect() {
            Ok::<Vec<OwnDisk>, _>(disks) => disks,
            Err(error) => {
                println!("skipped: no file system can be mounted here: {error:#}");
                return Ok(());
            }
        };
        cluster.start_services()?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        cluster.session().await?.rows("create table t (id int)", QUERY).await?;
        test(cluster, &disks).await
    });
}

/// Wait until a keeper reports this of its disk for longer than `failInterval`.
async fn lasting(cluster: &Cluster, keeper: usize, fault: DiskFault) -> anyhow::Result<()> {
    wait_for(&format!("keeper{keeper} to say that its disk {fault:?}"), PATIENCE, async || {
        let disk = cluster.report(keeper).await?.activity.and_then(|activity| activity.disk);
        Ok(disk.filter(|disk| disk.lasting && disk.fault == Some(fault.clone())).map(drop))
    })
    .await
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced_and_acknowledges_nothing_afterwards() {
    on_own_disks(async |cluster, disks| {
        let old = cluster.primary().await?;
        let status = cluster.stolonctl_ok(&["status", "-f", "json"], "").await?;
        let failover = &serde_json::from_str::<serde_json::Value>(&status)?["cluster"]["failover"];
        let foreseen = format!("keeper{}", 3 - old);
        let is_foreseen = failover["ready"] == true && failover["keeper_uid"] == foreseen;
        ensure!(is_foreseen && failover["loss_bytes"].is_u64(), "{failover}");
        let direct = cluster.instance(old).connect(QUERY).await?;
        disks[old - 1].freeze()?;
        let waiting =
            tokio::spawn(async move { direct.rows("insert into t values (1)", PATIENCE * 2).await });
        cluster.wait_said(&["the disk for", "hangs"]).await?;
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        // From here on what comes back from the disk comes back to nobody.
        wait_for("the old primary to be killed", PATIENCE, async || {
            let log = cluster.log(&format!("keeper{old}"));
            Ok(log.contains("SIGKILL sent to the postmaster and all its processes").then_some(()))
        })
        .await?;
        disks[old - 1].thaw()?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.session().await?.rows("insert into t values (2)", QUERY).await?;
        ensure!(
            waiting.await?.is_err(),
            "the old primary acknowledged a commit after another one was elected"
        );
        cluster.wait_streaming(1, PATIENCE).await?;
        let session = cluster.instance(new).connect(QUERY).await?;
        let rows = session.value("select string_agg(id::text, ' ') from t", QUERY).await?;
        ensure!(rows == "2", "{rows}");
        Ok(())
    });
}

#[test]
fn a_full_disk_is_named_and_its_primary_replaced_once_somebody_has_room() {
    on_own_disks(async |cluster, disks| {
        let old = cluster.primary().await?;
        let (primary, standby) = (&disks[old - 1], &disks[2 - old]);
        standby.fill()?;
        primary.fill()?;
        lasting(cluster, 3 - old, DiskFault::Full).await?;
        lasting(cluster, old, DiskFault::Full).await?;
        cluster.wait_said(&["the disk for", "is full"]).await?;
        let output = cluster.stolonctl(&["status", "--check"], "").await?;
        let judged = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(judged.starts_with("no writes\n") && output.status.code() == Some(2), "{judged}");
        ensure!(judged.contains("no standby could take over now"), "{judged}");
        ensure!(cluster.primary().await? == old, "nobody had room");
        let log = cluster.log(&format!("keeper{old}"));
        ensure!(log.matches("is full").count() < 5, "it is said when it begins, not at every look");

        standby.make_room()?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        primary.make_room()?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}
