//! `unanimity check --participant-database`, on a real PostgreSQL.

use serde_json::{Value, json};

use crate::cli::{json_of, run, stderr, stdout};
use crate::postgres::Database;

const XID: &str = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
const HEX: &str = "0191e7a45c1b7d3e8f001a2b3c4d5e6f";

fn of(found: &Value, database: &str) -> Vec<Value> {
    let prepared = found["prepared"].as_array().expect("a list").iter();
    let here = |line: &&Value| line["database"].as_str().is_some_and(|place| place.starts_with(database));
    prepared.filter(here).cloned().collect()
}

#[tokio::test]
async fn prepared_transactions_of_ours_are_listed_and_never_touched() {
    let database = Database::create().await;
    let check = async |json: bool| {
        let mut arguments = vec!["check", "--participant-database", &database.url];
        arguments.extend(json.then_some("--json"));
        run(&arguments).await
    };
    // Unlike a coordinator's gid in one way each: somebody else's.
    let ours = format!("una1:{HEX}:{HEX}:{HEX}");
    let gids = [&ours, &format!("una2:{HEX}:{HEX}:{HEX}"), &format!("una1:{HEX}:{HEX}"), "backup's"]
        .map(str::to_owned);
    for (n, gid) in gids.iter().enumerate() {
        let quoted = gid.replace('\'', "''");
        // A table each, so that none waits for another.
        database.run(&format!("BEGIN; CREATE TABLE t{n} (n int); PREPARE TRANSACTION '{quoted}'")).await;
    }
    for _ in 0..2 {
        let output = check(true).await;
        let found = json_of(&output);
        assert_eq!((output.status.code(), &found["ok"]), (Some(0), &json!(true)), "{output:?}");
        let [line] = &of(&found, database.name())[..] else { panic!("one of ours: {found}") };
        assert_eq!((&line["gid"], &line["xid"], &line["log_id"]), (&json!(ours), &json!(XID), &json!(XID)));
        assert!(line["age_s"].as_u64().is_some_and(|age| age < 600), "{line}");
        assert!(found["foreign"].as_u64().is_some_and(|count| count >= 3), "{found}");
    }
    let text = stdout(&check(false).await);
    assert!(text.contains("transactions can be prepared here") && text.contains(&ours), "{text}");
    assert!(text.contains("nothing here was touched") && text.contains("somebody else's"), "{text}");
    for gid in &gids {
        database.run(&format!("ROLLBACK PREPARED '{}'", gid.replace('\'', "''"))).await;
    }
    let found = json_of(&check(true).await);
    assert_eq!(of(&found, database.name()), Vec::<Value>::new());
    database.remove().await;
}

#[tokio::test]
async fn a_database_that_cannot_be_asked_is_told_without_its_password() {
    for (url, code) in [
        ("oracle://u:s3cret@h/d", 2),
        ("postgres://u:s3cret@127.0.0.1:1/d", 1),
        ("mysql://u:s3cret@127.0.0.1:1/d", 1),
        ("not a url", 2),
    ] {
        let output = run(&["check", "--participant-database", url]).await;
        assert_eq!(output.status.code(), Some(code), "{url}: {output:?}");
        assert!(!stderr(&output).contains("s3cret") && stderr(&output).starts_with("error: "), "{output:?}");
    }
}
