//! A ledger in Redis: what it is told to do with what it is given, and who reaches it.

use std::time::Duration;

use super::{Finding, Verdict, unknown};
use crate::app::ledger::survey;
use crate::clock::Clock;
use crate::config::ledger::{LedgerConfig, LedgerKind, RedisConfig, RedisMode};
use crate::ledger::redis::survey::Survey;

pub(super) async fn examine(config: &LedgerConfig, skew: Duration, clock: &dyn Clock) -> Vec<Finding> {
    let redis = match &config.kind {
        LedgerKind::Embedded { path } => {
            let seen = format!("embedded, in {}: for one broker and no other", path.display());
            return vec![Finding::fine("ledger", seen)];
        }
        LedgerKind::Redis(redis) => redis,
    };
    let before = clock.now();
    let survey = match survey(config, redis).await {
        Ok(survey) => survey,
        Err(error) => {
            return vec![Finding::bad(
                "redis",
                Verdict::Broken,
                format!("{error:#}"),
                "look at `urls`, `username`, `password_file` and `ca_file` in [ledger.redis]",
            )];
        }
    };
    let after = clock.now();
    let mut findings = vec![eviction(&survey), persistence(&survey)];
    findings.extend(replication(redis, &survey));
    findings.push(login(&survey));
    findings.extend(replaying(&survey));
    findings.push(encryption(redis));
    findings.push(match survey.time {
        Some(time) => clocks(time, before.as_millis(), after.as_millis(), skew),
        None => unknown("clock", "clocks that NTP keeps"),
    });
    findings
}

fn eviction(survey: &Survey) -> Finding {
    match survey.eviction.as_deref() {
        Some("noeviction") => Finding::fine("redis: eviction", "noeviction"),
        Some(policy) => Finding::bad(
            "redis: eviction",
            Verdict::Unsafe,
            format!(
                "`maxmemory-policy {policy}`: Redis forgets leases when its memory is full, and nobody ends them"
            ),
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
        ),
        None => unknown("redis: eviction", "`maxmemory-policy noeviction`"),
    }
}

fn persistence(survey: &Survey) -> Finding {
    let about = "redis: persistence";
    match (survey.appends, survey.syncs.as_deref()) {
        (Some(true), Some("no")) => Finding::bad(
            about,
            Verdict::Unsafe,
            "`appendfsync no`: a crash of its machine loses what the system had not written",
            "set `appendfsync everysec` or `always`",
        ),
        (Some(true), Some(syncs)) => Finding::fine(about, format!("append-only file, synced {syncs}")),
        (Some(true), None) => unknown(about, "`appendfsync everysec` or `always`"),
        (Some(false), _) => Finding::bad(
            about,
            Verdict::Unsafe,
            "no append-only file: after a restart Redis is empty or old, which is a lost ledger",
            "set `appendonly yes`",
        ),
        (None, _) => unknown(about, "`appendonly yes`"),
    }
}

fn replication(config: &RedisConfig, survey: &Survey) -> Option<Finding> {
    if config.mode == RedisMode::Cluster || (config.mode == RedisMode::Single && survey.replicas == Some(0)) {
        return None;
    }
    let about = "redis: replication";
    Some(match (survey.least_replicas, survey.replicas) {
        (Some(0), _) => Finding::bad(
            about,
            Verdict::Unsafe,
            "`min-replicas-to-write 0`: a primary that is cut off goes on answering, and a failover forgets what it answered",
            "set `min-replicas-to-write 1`",
        ),
        (Some(least), Some(replicas)) if replicas < least => Finding::bad(
            about,
            Verdict::Broken,
            format!("{replicas} replicas follow, and {least} have to: Redis takes no writes"),
            "start the replicas, or look why they do not follow",
        ),
        (Some(least), replicas) => {
            let replicas = replicas.unwrap_or_default();
            Finding::fine(about, format!("{replicas} replicas follow, {least} have to"))
        }
        (None, _) => unknown(about, "`min-replicas-to-write 1`"),
    })
}

fn login(survey: &Survey) -> Finding {
    match survey.user.as_deref() {
        Some("default") => Finding::bad(
            "redis: user",
            Verdict::Unsafe,
            "the user `default`: whoever reaches this Redis as it may write what is live and what is not",
            "make an ACL user for Dayfly alone, on its prefix, and write `user default off resetpass ~* &* +@all`: nobody \
             logs in as it then, and Redis reads its append-only file with its rights",
        ),
        Some(user) => Finding::fine("redis: user", user),
        None => unknown("redis: user", "an ACL user of its own"),
    }
}

/// Redis 7 reads its append-only file as the user `default`: what that may not do is dropped at the next start, and
/// what scripts wrote is the whole ledger (<https://github.com/redis/redis/issues/14541>).
fn replaying(survey: &Survey) -> Option<Finding> {
    let about = "redis: rights of `default`";
    match (survey.appends, survey.default_may_all) {
        (Some(false), _) => None,
        (_, Some(true)) => Some(Finding::fine(about, "all of them, as its append-only file needs")),
        (_, Some(false)) => Some(Finding::bad(
            about,
            Verdict::Broken,
            "not all of them: at its next start Redis drops what the user may not do from its append-only file, and \
             that is the ledger",
            "ACL SETUSER default off resetpass ~* &* +@all, and the same in its configuration",
        )),
        (_, None) => Some(unknown(
            about,
            "`user default off resetpass ~* &* +@all` in its ACLs",
        )),
    }
}

fn encryption(config: &RedisConfig) -> Finding {
    let plain = config
        .urls
        .iter()
        .find(|url| !url.starts_with("rediss://") && !is_local(url));
    match plain {
        None => Finding::fine("redis: way", "encrypted, or on this machine"),
        Some(url) => Finding::bad(
            "redis: way",
            Verdict::Unsafe,
            format!("{url}: whoever is on the way reads and changes what is live"),
            "use `rediss://`, with `ca_file`",
        ),
    }
}

fn is_local(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Brokers and Redis compare nothing by each other's clocks; but a machine whose clock is off refuses evidence that
/// is good, and takes what is over.
fn clocks(theirs: u64, before: u64, after: u64, skew: Duration) -> Finding {
    // It was read at some time between the two.
    let off = Duration::from_millis(before.saturating_sub(theirs).max(theirs.saturating_sub(after)));
    match off > skew {
        false => Finding::fine("clock", format!("with that of Redis, to {} ms", off.as_millis())),
        true => Finding::bad(
            "clock",
            Verdict::Unsafe,
            format!(
                "{} s from that of Redis: more than `identity.skew` excuses",
                off.as_secs()
            ),
            "keep the clocks of all machines by NTP",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_may_ask_is_not_called_fine() {
        let blind = Survey::default();
        assert_eq!(eviction(&blind).verdict, Verdict::Unknown);
        assert_eq!(persistence(&blind).verdict, Verdict::Unknown);
        assert_eq!(login(&blind).verdict, Verdict::Unknown);
        assert_eq!(replaying(&blind).unwrap().verdict, Verdict::Unknown);
        let unsynced = Survey {
            appends: Some(true),
            ..blind
        };
        assert_eq!(persistence(&unsynced).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_default_user_without_rights_loses_what_is_appended() {
        let with = |appends, may| Survey {
            appends: Some(appends),
            default_may_all: may,
            ..Survey::default()
        };
        assert_eq!(
            replaying(&with(true, Some(false))).unwrap().verdict,
            Verdict::Broken
        );
        assert_eq!(replaying(&with(true, Some(true))).unwrap().verdict, Verdict::Fine);
        assert_eq!(replaying(&with(false, Some(false))), None);
        let said = login(&Survey {
            user: Some("default".to_owned()),
            ..Survey::default()
        });
        assert!(
            said.remedy
                .unwrap()
                .contains("user default off resetpass ~* &* +@all")
        );
    }
}
