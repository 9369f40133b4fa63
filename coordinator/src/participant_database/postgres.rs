//! PostgreSQL.

use std::time::Duration;

use sqlx::{Connection as _, FromRow, PgConnection};

use super::{Findings, GID_PREFIX, Prepared, old, parts};

const SETTINGS: &str = "/* participant_settings */ SELECT \
    current_setting('server_version') AS version, \
    current_setting('max_prepared_transactions')::bigint AS max_prepared, \
    current_setting('max_connections')::bigint AS max_connections, \
    current_setting('synchronous_commit') AS synchronous_commit, \
    current_setting('fsync') AS fsync, \
    pg_is_in_recovery() AS in_recovery";

/// All of the server: a role sees every line, and finishes only its own in its own database.
const PREPARED: &str = "/* participant_prepared */ SELECT gid, \
    extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_s, \
    database || ', as ' || owner AS place \
    FROM pg_prepared_xacts ORDER BY prepared LIMIT 10000";

#[derive(Debug, FromRow)]
struct Settings {
    version: String,
    max_prepared: i64,
    max_connections: i64,
    synchronous_commit: String,
    fsync: String,
    in_recovery: bool,
}

#[derive(Debug, FromRow)]
struct Line {
    gid: String,
    age_s: f64,
    place: String,
}

pub(super) async fn look(url: &str) -> Result<Findings, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let settings: Settings = sqlx::query_as(SETTINGS).fetch_one(&mut connection).await?;
    let lines: Vec<Line> = sqlx::query_as(PREPARED).fetch_all(&mut connection).await?;
    connection.close().await?;
    let all = lines.len();
    let prepared: Vec<Prepared> = lines
        .into_iter()
        .filter(|line| line.gid.starts_with(GID_PREFIX))
        .filter_map(|line| {
            let (log_id, xid) = parts(&line.gid)?;
            let age = Some(Duration::try_from_secs_f64(line.age_s.max(0.0)).unwrap_or_default());
            Some(Prepared { gid: line.gid, log_id, xid, age, place: Some(line.place) })
        })
        .collect();
    let mut warnings = warnings(&settings, all);
    warnings.extend(old(&prepared));
    Ok(Findings {
        server: format!("PostgreSQL {}", settings.version),
        problems: problems(&settings),
        warnings,
        foreign: all - prepared.len(),
        prepared,
    })
}

fn problems(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    if settings.in_recovery {
        problems.push("it is a read replica (in recovery): give the address of the primary".to_owned());
    }
    if settings.max_prepared == 0 {
        problems.push(format!(
            "max_prepared_transactions is 0 (the default): no transaction can be prepared. Set it to at least the \
             number of branches that are in doubt at once, max_connections ({}) is a safe choice, and restart",
            settings.max_connections
        ));
    }
    problems
}

fn warnings(settings: &Settings, standing: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    let (most, connections) = (settings.max_prepared, settings.max_connections);
    let standing = i64::try_from(standing).unwrap_or(i64::MAX);
    if most > 0 && standing >= most {
        warnings
            .push(format!("all {most} of max_prepared_transactions are in use: every prepare is refused"));
    } else if most > 0 && standing > most / 2 {
        warnings.push(format!("{standing} of {most} max_prepared_transactions are in use"));
    }
    if most > 0 && most < connections {
        warnings.push(format!(
            "max_prepared_transactions ({most}) is smaller than max_connections ({connections}): while a coordinator \
             is away, each connection can leave a prepared transaction behind, and then prepares are refused"
        ));
    }
    if settings.synchronous_commit == "off" {
        warnings.push(
            "synchronous_commit is off: a crash can lose what a participant's fence said was done (protocol M13)"
                .to_owned(),
        );
    }
    if settings.fsync == "off" {
        warnings.push("fsync is off: a crash of the machine can lose prepared transactions".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(max_prepared: i64) -> Settings {
        Settings {
            version: "15".to_owned(),
            max_prepared,
            max_connections: 100,
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            in_recovery: false,
        }
    }

    #[test]
    fn too_few_prepared_transactions_are_told() {
        assert!(problems(&settings(0))[0].contains("max_prepared_transactions is 0"));
        assert!(problems(&settings(100)).is_empty() && warnings(&settings(100), 50).is_empty());
        assert!(warnings(&settings(10), 0)[0].contains("smaller than max_connections (100)"));
        assert!(warnings(&settings(100), 51)[0].contains("51 of 100"));
        assert!(warnings(&settings(100), 100)[0].contains("every prepare is refused"));
        let careless =
            Settings { synchronous_commit: "off".to_owned(), fsync: "off".to_owned(), ..settings(100) };
        assert_eq!(warnings(&careless, 0).len(), 2);
    }
}
