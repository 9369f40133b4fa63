//! MariaDB and MySQL.

use sqlx::{Connection as _, MySqlConnection, Row as _};

use super::{Findings, GID_PREFIX, Prepared, parts};

/// The format id of our XIDs: `una1` as a number.
const FORMAT_ID: i64 = 0x756e_6131;

pub(super) async fn look(url: &str) -> Result<Findings, sqlx::Error> {
    // sqlx knows one name for both.
    let url = url.strip_prefix("mariadb://").map_or_else(|| url.to_owned(), |rest| format!("mysql://{rest}"));
    let mut connection = MySqlConnection::connect(&url).await?;
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut connection).await?;
    let flush: i64 = sqlx::query_scalar("SELECT CAST(@@innodb_flush_log_at_trx_commit AS SIGNED)")
        .fetch_one(&mut connection)
        .await?;
    let mut warnings = Vec::new();
    if flush != 1 {
        warnings.push(format!(
            "innodb_flush_log_at_trx_commit is {flush}: a crash can lose what a participant's fence said was done \
             (protocol M13)"
        ));
    }
    let (mut prepared, mut foreign) = (Vec::new(), 0);
    // Not a statement that can be prepared.
    match sqlx::raw_sql("XA RECOVER").fetch_all(&mut connection).await {
        Ok(rows) => {
            for row in rows {
                let (format, gtrid): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                let data: Vec<u8> = row.try_get_unchecked(3)?;
                match ours(format, gtrid, &data) {
                    Some(found) => prepared.push(found),
                    None => foreign += 1,
                }
            }
        }
        Err(error) => warnings.push(format!(
            "XA RECOVER is not allowed to this user, so that prepared transactions cannot be listed or recovered \
             (MySQL 8: GRANT XA_RECOVER_ADMIN): {error}"
        )),
    }
    connection.close().await?;
    Ok(Findings { server: version, problems: Vec::new(), warnings, prepared, foreign })
}

/// A line of `XA RECOVER`: the data are gtrid (log and transaction) and bqual (`una1:` and the key), one
/// after the other.
fn ours(format: i64, gtrid_bytes: i64, data: &[u8]) -> Option<Prepared> {
    let text = std::str::from_utf8(data).ok().filter(|text| text.is_ascii())?;
    let (gtrid, bqual) = text.split_at_checked(usize::try_from(gtrid_bytes).ok()?)?;
    let (log, xid) = gtrid.split_at_checked(32)?;
    let key = bqual.strip_prefix(GID_PREFIX)?;
    let gid = format!("{GID_PREFIX}{log}:{xid}:{key}");
    let (log_id, xid) = parts(&gid).filter(|_| format == FORMAT_ID)?;
    Some(Prepared { gid, log_id, xid, age: None, place: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_xa_recover_are_read() {
        let (log, key) = ("0191e7a45c1b7d3e8f001a2b3c4d5e6f", "5d41402abc4b2a76b9719d911017c592");
        let data = format!("{log}{log}una1:{key}");
        let found = ours(FORMAT_ID, 64, data.as_bytes()).expect("ours");
        assert_eq!(found.gid, format!("una1:{log}:{log}:{key}"));
        assert!(ours(1, 64, data.as_bytes()).is_none(), "another format");
        for gtrid in [-1, 0, 31, 65, 1_000] {
            assert!(ours(FORMAT_ID, gtrid, data.as_bytes()).is_none(), "{gtrid}");
        }
        assert!(ours(FORMAT_ID, 64, b"\xff").is_none());
    }
}
