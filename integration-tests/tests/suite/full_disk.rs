//! A full disk under a coordinator with a SQLite log: calls are refused, nothing is lost, and work goes on by itself
//! when there is space again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, log_verify, migrate};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::REQUIRE_CONTAINERS_VARIABLE;
use integration_tests::wait::until;
use serde_json::json;
use uuid::Uuid;

/// A small file system, gone with its value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where we may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|mounted| mounted.status.success()).then(|| Self(at.to_owned()))
    }

    /// Leaves room for a few blocks: it shall run full under the coordinator's own hands.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let all = ballast.metadata().unwrap().len();
        ballast.set_len(all - 256 * 1024).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_loses_nothing() {
    let scratch = Scratch::new("full-disk").unwrap();
    let Some(disk) = SmallDisk::mount(&scratch.path().join("disk")) else {
        // CI runs as root: there it must not be left out unnoticed.
        assert_ne!(
            std::env::var(REQUIRE_CONTAINERS_VARIABLE).as_deref(),
            Ok("1"),
            "no right to mount a tmpfs"
        );
        say("full disk: LEFT OUT, no right to mount a tmpfs");
        return;
    };
    let url = format!("sqlite:{}", disk.0.join("unanimity.db").display());
    migrate(&url).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(Duration::from_secs(60)).await.unwrap();
    let begin = async |coordinator: &CoordinatorProcess, xid: Uuid| {
        let body = json!({ "mode": "tcc", "xid": xid, "timeout_ms": 600_000 });
        coordinator.post("/v1/transactions", &body).await
    };
    let early = Uuid::new_v4();
    assert_eq!(begin(&coordinator, early).await.unwrap().0, 201);
    disk.fill();

    let mut durable = vec![early];
    let mut refused = Vec::new();
    for _ in 0..2_000 {
        let xid = Uuid::new_v4();
        let (status, answer) = begin(&coordinator, xid).await.unwrap();
        if status == 201 {
            durable.push(xid);
            continue;
        }
        let code = answer["code"].as_str().unwrap_or_default();
        assert!(status == 503 && ["unavailable", "outcome_unknown"].contains(&code), "{status}: {answer}");
        refused.push(xid);
        if refused.len() == 5 {
            break;
        }
    }
    assert!(durable.len() > 1, "it was full before it was used");
    assert_eq!(refused.len(), 5, "a full disk took {} transactions", durable.len());
    assert!(coordinator.process.ended().unwrap().is_none(), "it must live on");
    let said = coordinator.process.output().unwrap();
    assert!(said.contains("full"), "its log does not say why");

    disk.free();
    let limit = Duration::from_secs(30);
    let later = Uuid::new_v4();
    until("it goes on by itself", limit, async || {
        let (status, answer) = begin(&coordinator, later).await?;
        ensure!(status == 201, "{status}: {answer}");
        Ok(())
    })
    .await
    .unwrap();
    coordinator.ready(limit).await.unwrap();
    // What was promised is there; what was refused can be begun, or is there after all.
    for xid in &durable {
        let commit = format!("/v1/transactions/{xid}/commit");
        let (status, committed) = coordinator.post(&commit, &json!({})).await.unwrap();
        assert_eq!((status, committed["status"].as_str()), (200, Some("committed")), "{committed}");
    }
    for xid in refused {
        assert_eq!(begin(&coordinator, xid).await.unwrap().0, 201);
    }
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(Duration::from_secs(30)).await.unwrap().success());
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
    say(&format!("full disk: {} transactions were durable before it refused; all are there", durable.len()));
}
