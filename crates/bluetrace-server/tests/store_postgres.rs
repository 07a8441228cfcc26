//! The store in PostgreSQL keeps the laws of every store, with any number of servers, and what it has acknowledged, whatever
//! happens to the database.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test panics where something is not as it should be")]

#[path = "support/postgres.rs"]
#[expect(dead_code, reason = "each program of tests uses a part of it")]
mod postgres;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bluetrace_authority::conformance::{block_on, together};
use bluetrace_authority::store::{
    AccountId, AccountOpened, CodeCheck, CodeForm, CodeHash, CodeIssued, CodeLimits, CodeRedeemed, ImportedTempId,
    KeyTerm, Lockout, LoginRecorded, NewNotice, NewSealingKey, NewUploadCode, PasswordHash, PasswordSource,
    PresentedCode, SealingKeyId, SealingKeyState, Shredded, Store, StoreError, StoreFuture, TempIdImported,
    TempIdsIssued, UploadBegun, UploadCompleted, UploadKey, UploadRequest, Verdict, WRAPPED_KEY_BYTES, WrappedKey,
};
use bluetrace_protocol::{
    ExposureNotice, Record, TempId, Timestamp, UploadId, UploadSummary, Uploaded, UploadedRecord, Username, Window,
};
use bluetrace_server::postgres::{OpenError, PostgresOptions, PostgresPlace, PostgresStore};

use crate::postgres::{CLUSTER, Cluster};

mod laws {
    bluetrace_authority::store_conformance!(super::fresh());
}

// ---- Several servers. What they race for by the thousand is in `races`.

#[test]
fn the_partition_of_a_new_day_is_made_once_whoever_needs_it_first() {
    let [one, other] = two_servers();
    let accounts = ["a", "b", "c", "d"].map(|username| opened(one, username));
    for days in 0..i64::from(ROUNDS / 4) {
        let begin = |store: &'static PostgresStore, account| {
            let request = UploadRequest { forget_at: at(days * DAY), ..request(account, &format!("day-{days}"), 1) };
            store.begin_upload(request, at(0).plus(-1))
        };
        let [a, b, c, d] = accounts;
        let answers = all(vec![begin(one, a), begin(other, b), begin(one, c), begin(other, d)]);
        for (store, answer) in [one, other].into_iter().cycle().zip(answers) {
            let UploadBegun::Open { key, .. } = answer else { panic!("{answer:?}") };
            assert_eq!(
                block_on(store.append_records(key, 0, vec![heard(1)])).unwrap().map(|stored| stored.durable),
                Some(1)
            );
        }
    }
}

#[test]
fn no_more_wrong_codes_are_looked_at_on_two_servers_than_on_one() {
    let [one, other] = two_servers();
    let limits = CodeLimits { window_s: 60, max_wrong_by_account: 3, max_wrong: 5, max_live: 9 };
    for round in 0..ROUNDS / 4 {
        let now = at(100 * i64::from(round));
        let mut guesses = Vec::new();
        for guess in 0..4_u8 {
            for (user, store) in [("alice", one), ("bob", other)] {
                let account = match round {
                    0 => opened_once(store, user),
                    _ => block_on(store.login_state(name(user), now.into())).unwrap().account.unwrap().id,
                };
                let code = PresentedCode { hash: CodeHash([guess; 32]), form: Some(CodeForm::Six), limits };
                guesses.push(store.redeem_upload_code(account, code, at(FORGET), now));
            }
        }
        let outcomes = all(guesses);
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, CodeRedeemed::Refused { .. })).count();
        assert_eq!(refused, 5, "{outcomes:?}");
    }
}

#[test]
fn nobody_who_uses_an_upload_code_again_while_its_upload_ends_in_whatever_way_meets_a_deadlock() {
    let database = CLUSTER.database();
    // one that there is shows at once
    CLUSTER.sql(&database, &format!("ALTER DATABASE {database} SET deadlock_timeout = '10ms'"));
    let [one, other] = [(); 2].map(|()| server(&CLUSTER, &database));
    let limits = CodeLimits { window_s: 60, max_wrong_by_account: 9, max_wrong: 9_999, max_live: 9_999 };
    for round in 0..ROUNDS / 2 {
        let people = [0, 1, 2, 3].map(|person| {
            let username = format!("{person}-{round}");
            let account = opened(&one, &username);
            let hash = CodeHash([u8::try_from(round).unwrap(), person].repeat(16).try_into().unwrap());
            let (case, issued_by) = (String::new(), String::new());
            let form = CodeForm::Eight;
            let new = NewUploadCode { hash, form, case, issued_by, expires: at(50), limits };
            let CodeIssued::Issued(id) = block_on(one.issue_upload_code(new, at(0))).unwrap() else { panic!("taken") };
            let code = CodeCheck::Required(Some(PresentedCode { hash, form: None, limits }));
            let begin = move |upload| UploadRequest { code, ..request(account, upload, 0) };
            (username, account, id, begun(&one, begin("u")), begin("u"), begin("again"))
        });
        let outcomes = all(people
            .iter()
            .enumerate()
            .map(|(place, (username, account, id, key, first, second))| {
                // a ring of people who have met the next one
                let met = people[(place + 1) % people.len()].1;
                let (one, other) = (&one, &other);
                let complete = async move {
                    for _ in 0..round % 6 {
                        one.find_upload(*account, first.upload.clone(), at(1)).await?;
                    }
                    let notice = ExposureNotice { from: at(0), to: at(1), advice: "advice".into() };
                    let notice = NewNotice { account: met, notice, forget_at: at(FORGET) };
                    one.complete_upload(*key, UploadSummary::default(), vec![notice], at(1)).await
                };
                let begin_another = other.begin_upload(second.clone(), at(1));
                let end = async move {
                    match round % 4 {
                        0 => _ = other.revoke_upload_code(*id, at(1)).await?,
                        1 => _ = one.remove_account(name(username)).await?,
                        2 => _ = other.expire(at(1)).await?,
                        _ => {}
                    }
                    Ok::<_, StoreError>(())
                };
                Box::pin(async move {
                    let (completed, another, ended) = tokio::join!(complete, begin_another, end);
                    ended?;
                    Ok((completed?, another?))
                }) as StoreFuture<'_, _>
            })
            .collect());
        for (completed, another) in outcomes {
            let (is_complete, is_open) =
                (completed == UploadCompleted::Now, matches!(another, UploadBegun::Open { summary: None, .. }));
            assert!(!(is_complete && is_open), "one of them has used the code");
            assert!(is_complete || is_open || round % 4 < 2, "{completed:?} {another:?}");
        }
    }
    for store in [one, other] {
        store.close();
    }
    // what a connection has counted is seen when it is gone
    let connections = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while CLUSTER.sql(&database, connections) != "0" {}
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(CLUSTER.sql(&database, deadlocks), "0");
}

#[test]
fn one_temp_id_or_key_name_on_two_servers_is_given_once() {
    let [one, other] = two_servers();
    let [alice, bob] = [opened(one, "alice"), opened(one, "bob")];
    for round in 0..ROUNDS {
        let number = 10 * u64::from(round);
        let issue = |store: &'static PostgresStore, account, numbers: [u64; 3]| {
            store.issue_temp_ids(account, numbers.map(|own| record(number + own)).into(), at(FORGET))
        };
        let issued = all(vec![issue(one, alice, [1, 2, 3]), issue(other, bob, [4, 3, 2])]);
        assert_eq!(issued.iter().filter(|issued| **issued == TempIdsIssued::Issued).count(), 1, "{issued:?}");
        let line = |username| ImportedTempId { username: name(username), record: record(number + 7) };
        let [by_one, by_other] = [format!("one-{round}"), format!("other-{round}")];
        let imported = all(vec![
            one.import_temp_ids(vec![line(&by_one)], at(FORGET), at(0)),
            other.import_temp_ids(vec![line(&by_other)], at(FORGET), at(0)),
            other.import_temp_ids(vec![line(&by_one)], at(FORGET), at(0)),
        ]);
        assert_eq!(imported.iter().filter(|outcome| outcome[0] == TempIdImported::Added).count(), 1, "{imported:?}");
        let id = SealingKeyId(1 + i64::from(round));
        let add = |store: &'static PostgresStore| store.add_sealing_key(key(id));
        let added = all(vec![add(one), add(other), add(one)]);
        assert_eq!(added.iter().filter(|added| **added).count(), 1);
    }
    let keys = block_on(other.sealing_keys(at(0))).unwrap();
    assert_eq!(keys.len(), usize::try_from(ROUNDS).unwrap());
}

#[test]
fn an_account_is_opened_and_removed_once_whoever_tries_to_log_in_meanwhile() {
    let [one, other] = two_servers();
    for round in 0..ROUNDS {
        let name = name(&format!("user-{round}"));
        let open =
            |store: &'static PostgresStore| store.open_account(name.clone(), hash(), PasswordSource::Operator, at(0));
        let attempt = {
            let name = name.clone();
            async move { other.record_login(name, Verdict::Wrong, RULE, at(0).into()).await }
        };
        let (opened, attempt) = block_on(async { tokio::join!(together(vec![open(one), open(other)]), attempt) });
        attempt.unwrap();
        let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        assert_eq!(opened.iter().filter(|outcome| matches!(outcome, AccountOpened::Opened(_))).count(), 1);
        let remove = |store: &'static PostgresStore| store.remove_account(name.clone());
        let removed = all(vec![remove(one), remove(other)]);
        assert_eq!(removed.iter().filter(|removed| **removed).count(), 1);
        let next = block_on(one.record_login(name, Verdict::Wrong, RULE, at(1).into())).unwrap();
        assert_eq!(next, LoginRecorded::Wrong { left: 2 }, "nothing is left of what was before");
    }
}

#[test]
fn servers_that_start_together_make_the_schema_once() {
    for _ in 0..20 {
        let database = CLUSTER.database();
        let stores = in_threads(4, || server(&CLUSTER, &database));
        let alice = opened(&stores[0], "alice");
        let found = block_on(stores[3].login_state(name("alice"), at(0).into())).unwrap();
        assert_eq!(found.account.unwrap().id, alice);
    }
}

#[test]
#[ignore = "needs pgbouncer; .ci/run has it"]
fn through_a_pooler_that_puts_every_transaction_on_another_connection_all_is_the_same() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let url = cluster.through_a_pooler(&database);
    let open = || {
        let place = PostgresPlace::parse(&url, None).unwrap();
        PostgresStore::open(place, options(), "mark", [1; 32]).unwrap()
    };
    let [one, other] = [open(), open()];
    let alice = opened(&one, "alice");
    in_threads(4, || {
        for round in 0..ROUNDS {
            let request = request(alice, &format!("upload-{round}"), 30);
            let key = [&one, &other].map(|store| begun(store, request.clone()))[0];
            for (first, store) in [(0, &one), (10, &other), (20, &one)] {
                let records = (u64::from(first)..u64::from(first) + 10).map(heard).collect();
                assert!(block_on(store.append_records(key, first, records)).unwrap().unwrap().durable >= first + 10);
            }
            let ids = vec![record(u64::from(round))];
            block_on(other.issue_temp_ids(alice, ids, at(FORGET))).unwrap();
            block_on(one.record_login(name("mallory"), Verdict::Wrong, RULE, at(0).into())).unwrap();
        }
    });
    let uploads = block_on(other.uploads(None, u32::MAX, at(1))).unwrap();
    assert_eq!(uploads.iter().map(|row| row.durable).sum::<u32>(), 30 * ROUNDS);
    for id in [1, 2] {
        assert!(block_on(one.add_sealing_key(key(SealingKeyId(id)))).unwrap());
    }
    assert_eq!(block_on(other.shred_sealing_key(SealingKeyId(1))).unwrap(), Shredded::Done);
    while block_on(one.expire(at(DAY))).unwrap().more {}
    assert_eq!(cluster.sql(&database, "SELECT count(*) FROM uploaded_record"), "0");
}

// ---- What is refused

#[test]
fn what_another_version_or_program_or_authority_has_written_is_refused() {
    let database = CLUSTER.database();
    let open = |mark| PostgresStore::open(place(&CLUSTER, &database), options(), mark, [0; 32]);
    CLUSTER.sql(&database, "CREATE TABLE account (id integer)");
    assert!(matches!(open("mark"), Err(OpenError::Foreign { .. })));
    CLUSTER.sql(&database, "DROP TABLE account");
    drop(open("mark").unwrap());
    assert!(matches!(open("another"), Err(OpenError::OtherKey { .. })));
    drop(open("mark").unwrap());
    CLUSTER.sql(&database, "UPDATE bluetrace_state SET value = '99' WHERE name = 'schema'");
    let error = open("mark").unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("use that version"), "{error}");
}

#[test]
fn what_servers_of_version_1_write_before_and_after_the_first_newer_one_came_is_understood() {
    let database = CLUSTER.database();
    CLUSTER.sql(&database, include_str!("../src/postgres/schema_1.sql"));
    CLUSTER.sql(
        &database,
        "CREATE TABLE bluetrace_state (name text PRIMARY KEY, value text NOT NULL);
         INSERT INTO bluetrace_state (name, value) VALUES ('schema', '1'), ('master key', 'mark');
         INSERT INTO account (id, username, created, notices) VALUES (1, 'alice', 0, 2)",
    );
    let notice = |number: i64| {
        let columns = "account, number, begins, ends, advice, forget_at";
        CLUSTER.sql(
            &database,
            &format!(
                "INSERT INTO notice ({columns}) SELECT * FROM (VALUES (1, {number}, 0, 900, 'advice', 9999999999)) AS n"
            ),
        );
    };
    notice(1);
    let store = server(&CLUSTER, &database);
    notice(2);
    assert_eq!(CLUSTER.sql(&database, "SELECT value FROM bluetrace_state WHERE name = 'schema'"), "2");
    let alice = AccountId(1);
    assert_eq!(block_on(store.unread_notices(alice, 9, at(1))).unwrap().unwrap().len(), 2);
    assert_eq!(block_on(store.told(alice, vec![alice], 9, at(1))).unwrap(), [], "nobody knows whose uploads they were");
}

#[test]
fn a_database_that_acknowledges_what_it_can_lose_is_refused() {
    let durable = PostgresOptions { requires_durability: true, ..options() };
    let database = CLUSTER.database();
    let open = || PostgresStore::open(place(&CLUSTER, &database), durable.clone(), "mark", [0; 32]);
    assert!(open().unwrap_err().to_string().contains("fsync = off"));
    CLUSTER.sql(&database, &format!("ALTER DATABASE {database} SET synchronous_commit = off"));
    assert!(open().unwrap_err().to_string().contains("synchronous_commit = off"));
}

#[test]
fn an_error_says_what_is_wrong_and_no_values() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    opened(&store, "alice");
    CLUSTER.sql(&database, "ALTER TABLE account ADD CHECK (username <> 'secretive')");
    let error = block_on(store.open_account(name("secretive"), hash(), PasswordSource::Operator, at(0))).unwrap_err();
    assert!(matches!(error, StoreError::Failed(_)) && !error.to_string().contains("secretive"), "{error}");
    CLUSTER.sql(&database, "DROP TABLE stranger");
    let error = block_on(store.login_state(name("secretive"), at(0).into())).unwrap_err();
    assert!(error.to_string().contains("42P01") && !error.to_string().contains("secretive"), "{error}");
    let nobody = PostgresPlace::parse("postgres://nobody:pass%20word@127.0.0.1:1/trace", None).unwrap();
    let error = PostgresStore::open(nobody, options(), "mark", [0; 32]).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && !error.contains("pass"), "{error}");
}

#[test]
fn over_tls_the_certificate_and_its_name_are_verified_before_the_password_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let [(certificate, key), (other, _)] = [(); 2].map(|()| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    });
    let (_cluster, port) = Cluster::start_with_tls(&certificate, &key);
    let [root, other_root] = [file("root.pem", &certificate), file("other.pem", &other)];
    let open = |host: &str, password: &str, parameters: &str| {
        let url = format!("postgres://desk@{host}:{port}/trace?{parameters}");
        let place = PostgresPlace::parse(&url, Some(password)).unwrap();
        PostgresStore::open(place, options(), "mark", [1; 32]).map_err(|error| error.to_string())
    };
    let verified = format!("sslmode=verify-full&sslrootcert={root}");
    opened(&open("localhost", "secret", &verified).unwrap(), "alice");
    let refused = open("localhost", "wrong", &verified).unwrap_err();
    assert!(refused.contains("28P01"), "{refused}");
    for (host, parameters) in
        [("127.0.0.1", verified), ("localhost", format!("sslmode=verify-full&sslrootcert={other_root}"))]
    {
        let refused = open(host, "secret", &parameters).unwrap_err();
        assert!(refused.contains("cannot be reached"), "{host}: {refused}");
    }
    let refused = open("localhost", "secret", "sslmode=disable").unwrap_err();
    assert!(refused.contains("28000"), "{refused}");
}

#[test]
fn a_database_that_takes_no_writes_is_said_to_take_none() {
    let database = CLUSTER.database();
    CLUSTER.sql(&database, &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let place = PostgresPlace::parse(&CLUSTER.url(&database), None).unwrap();
    let refused = PostgresStore::open(place, options(), "mark", [1; 32]).unwrap_err().to_string();
    assert!(refused.contains("takes no writes") && refused.contains("default_transaction_read_only"), "{refused}");
}

#[test]
fn a_host_that_answers_nothing_is_passed_over_after_its_time() {
    // it accepts, as the kernel of a paused machine does, and says nothing
    let paused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = paused.local_addr().unwrap().port();
    let database = CLUSTER.database();
    let folder = CLUSTER.folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://bluetrace@127.0.0.1:{port},127.0.0.1:1,{folder}:5432/{database}");
    let options = PostgresOptions { connect_timeout: Duration::from_secs(1), ..options() };
    let asked = Instant::now();
    let store = PostgresStore::open(PostgresPlace::parse(&url, None).unwrap(), options, "mark", [1; 32]).unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(1));
    opened(&store, "alice");
    drop(paused);
}

// ---- What is forgotten

#[test]
fn a_day_that_is_over_is_dropped_with_its_partition_and_the_next_is_made_ahead() {
    let database = CLUSTER.database();
    let [store, other] = [server(&CLUSTER, &database), server(&CLUSTER, &database)];
    let alice = opened(&store, "alice");
    let partitions = || {
        CLUSTER.sql(
            &database,
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'uploaded_record_%' ORDER BY 1",
        )
    };
    let day = |days: i64| format!("uploaded_record_{}", at(0).as_unix() / DAY + days);
    for days in [0, 1] {
        let request = UploadRequest { forget_at: at(days * DAY), ..request(alice, &format!("u{days}"), 5_000) };
        let key = begun(&store, request);
        block_on(store.append_records(key, 0, (0..5_000).map(heard).collect())).unwrap();
    }
    assert_eq!(partitions(), [day(0), day(1)].join("\n"));
    block_on(store.expire(at(1))).unwrap();
    assert_eq!(partitions(), [day(0), day(1), day(2)].join("\n"), "the day is not over");
    all(vec![store.expire(at(DAY)), other.expire(at(DAY)), store.expire(at(DAY))]);
    all(vec![store.expire(at(DAY))]);
    assert_eq!(partitions(), [day(1), day(2)].join("\n"));
    assert_eq!(CLUSTER.sql(&database, "SELECT count(*) FROM uploaded_record"), "5000");
    // a clock that is behind still finds a place for what it begins
    let late = UploadRequest { forget_at: at(1), ..request(alice, "late", 3) };
    let key = begun(&store, late.clone());
    assert_eq!(block_on(store.append_records(key, 0, vec![heard(1)])).unwrap().map(|stored| stored.durable), Some(1));
    CLUSTER.sql(&database, &format!("DROP TABLE {}", day(0)));
    assert_eq!(
        block_on(other.append_records(key, 1, vec![heard(2)])).unwrap().map(|stored| stored.durable),
        Some(2),
        "made anew by whoever needs it"
    );
}

#[test]
fn a_partition_that_was_half_detached_is_detached_by_the_next_who_comes() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    let alice = opened(&store, "alice");
    let key = begun(&store, UploadRequest { forget_at: at(0), ..request(alice, "u", 1) });
    block_on(store.append_records(key, 0, vec![heard(1)])).unwrap();
    let count = |what: &str| {
        let of_this = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND ";
        CLUSTER.sql(&database, &format!("{of_this} {what}"))
    };
    thread::scope(|scope| {
        // while somebody reads the records, a partition is not detached to the end
        scope.spawn(|| {
            let until_told = "DO $$ BEGIN WHILE NOT EXISTS (SELECT 1 FROM import_note) LOOP PERFORM pg_sleep(0.01);
                              END LOOP; END $$";
            CLUSTER.sql(&database, &format!("BEGIN; SELECT count(*) FROM uploaded_record; {until_told}; COMMIT"))
        });
        while count("wait_event = 'PgSleep'") == "0" {}
        let expiring = scope.spawn(|| block_on(store.expire(at(DAY))).unwrap());
        while count("query LIKE 'ALTER%DETACH%CONCURRENTLY' AND wait_event_type = 'Lock'") == "0" {}
        count("query LIKE 'ALTER%DETACH%CONCURRENTLY' AND pg_terminate_backend(pid)");
        block_on(store.note_import("over", String::new())).unwrap();
        expiring.join().unwrap();
    });
    assert_eq!(
        CLUSTER.sql(&database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'uploaded_record_18395%'"),
        "0"
    );
}

#[test]
fn what_a_removed_account_uploaded_is_deleted_at_once() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    let [alice, bob] = [opened(&store, "alice"), opened(&store, "bob")];
    let [of_alice, of_bob] = [alice, bob].map(|account| begun(&store, request(account, "u", 25_000)));
    for key in [of_alice, of_bob] {
        block_on(store.append_records(key, 0, (0..25_000).map(heard).collect())).unwrap();
    }
    assert!(block_on(store.remove_account(name("alice"))).unwrap());
    assert_eq!(CLUSTER.sql(&database, "SELECT count(*), count(DISTINCT upload) FROM uploaded_record"), "25000|1");
    assert_eq!(CLUSTER.sql(&database, "SELECT count(*) FROM upload"), "1");
}

#[test]
fn a_page_of_an_upload_is_read_without_the_rest_before_the_database_has_statistics() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    let key = begun(&store, request(opened(&store, "alice"), "u", 50_000));
    for first in [0, 25_000] {
        let records = (first..first + 25_000).map(|number| heard(number.into())).collect();
        block_on(store.append_records(key, first, records)).unwrap();
    }
    store.close();
    // what a connection has read is told when it ends
    let read = || -> i64 {
        let others = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let begun = Instant::now();
        while CLUSTER.sql(&database, others) != "0" {
            assert!(begun.elapsed() < Duration::from_secs(30), "the store's connections do not end");
        }
        let blocks = "SELECT sum(heap_blks_read + heap_blks_hit) FROM pg_statio_user_tables
                      WHERE relname LIKE 'uploaded_record%'";
        CLUSTER.sql(&database, blocks).parse().unwrap()
    };
    let (before, store) = (read(), server(&CLUSTER, &database));
    for first in (0..50_000).step_by(1_000) {
        let page = block_on(store.uploaded_records(key, first, 1_000, at(0))).unwrap();
        assert_eq!((page.len(), &page[0]), (1_000, &heard(first.into())));
    }
    store.close();
    let size = "SELECT sum(pg_relation_size(oid)) / 8192 FROM pg_class
                WHERE relname LIKE 'uploaded_record%' AND relkind = 'r'";
    let blocks = CLUSTER.sql(&database, size).split('.').next().unwrap().parse::<i64>().unwrap();
    let looked_at = read() - before;
    // the database may look at all of them meanwhile, for its statistics, and again to tidy up
    assert!((blocks / 2..8 * blocks).contains(&looked_at), "{looked_at} of {blocks}");
}

#[test]
fn a_shredded_key_is_in_no_file_of_a_table_whoever_reads_the_others_meanwhile() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    for id in [1, 2] {
        assert!(block_on(store.add_sealing_key(key(SealingKeyId(id)))).unwrap());
    }
    CLUSTER.sql(&database, "CHECKPOINT");
    assert!(is_in_a_table(&database, &[1; WRAPPED_KEY_BYTES]));
    // a reader from before, which would keep the old row from being vacuumed
    let holds = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read =
                "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM account; SELECT pg_sleep(1); COMMIT";
            CLUSTER.sql(&database, read)
        });
        while CLUSTER.sql(
            &database,
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
        ) == "0"
        {}
        assert_eq!(block_on(store.shred_sealing_key(SealingKeyId(1))).unwrap(), Shredded::Done);
        reader.join().unwrap()
    });
    assert!(holds.starts_with('0'));
    CLUSTER.sql(&database, "CHECKPOINT");
    assert!(!is_in_a_table(&database, &[1; WRAPPED_KEY_BYTES]));
    let rows = block_on(store.sealing_keys(at(0))).unwrap();
    assert!(matches!(rows[0].state, SealingKeyState::Shredded));
    assert_eq!(rows[1].state, SealingKeyState::Live(key(SealingKeyId(2)).wrapped));
}

/// Whether any file of a database, other than the write-ahead log, holds these bytes.
fn is_in_a_table(database: &str, bytes: &[u8]) -> bool {
    let number = CLUSTER.sql(database, "SELECT oid FROM pg_database WHERE datname = current_database()");
    let folder = CLUSTER.folder().join("data/base").join(number);
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.any(|file| fs::read(file).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes))
}

// ---- A database that goes away

#[test]
fn a_database_that_stops_under_load_loses_nothing_acknowledged_and_comes_back_by_itself() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let options = PostgresOptions { connections: 4, patience: Duration::from_secs(2), ..options() };
    let store = PostgresStore::open(place(&cluster, &database), options, "mark", [1; 32]).unwrap();
    let alice = opened(&store, "alice");
    let keys: Vec<_> =
        (0..6).map(|number| begun(&store, request(alice, &format!("u{number}"), u32::MAX / 9_999))).collect();
    let (is_over, failures) = (AtomicBool::new(false), AtomicU32::new(0));
    let acknowledged: Vec<u32> = thread::scope(|scope| {
        let uploads: Vec<_> = keys
            .iter()
            .map(|key| {
                scope.spawn(|| {
                    let mut durable = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let next = (u64::from(durable)..u64::from(durable) + 20).map(heard).collect();
                        match block_on(store.append_records(*key, durable, next)) {
                            Ok(now) => durable = now.unwrap().durable,
                            Err(StoreError::Unavailable(_)) => _ = failures.fetch_add(1, Ordering::Relaxed),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    durable
                })
            })
            .collect();
        for _ in 0..3 {
            let before = failures.load(Ordering::Relaxed);
            cluster.stop();
            while failures.load(Ordering::Relaxed) < before + 20 {
                thread::yield_now();
            }
            let asked = Instant::now();
            assert!(matches!(block_on(store.expire(at(0))), Err(StoreError::Unavailable(_))));
            assert!(asked.elapsed() < Duration::from_secs(20), "who asks is told soon");
            cluster.wake();
            // and goes on by itself
            let deadline = Instant::now() + Duration::from_mins(2);
            while block_on(store.expire(at(0))).is_err() {
                assert!(Instant::now() < deadline);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        uploads.into_iter().map(|upload| upload.join().unwrap()).collect()
    });
    assert_eq!(store.waiting(), 0);
    for (key, acknowledged) in keys.into_iter().zip(acknowledged) {
        let stored = block_on(store.uploaded_records(key, 0, u32::MAX, at(0))).unwrap();
        assert!(stored.len() >= usize::try_from(acknowledged).unwrap());
        assert_eq!(stored, (0..u64::try_from(stored.len()).unwrap()).map(heard).collect::<Vec<_>>());
    }
}

#[test]
fn who_finds_the_line_full_or_waits_too_long_is_told_at_once() {
    let database = CLUSTER.database();
    let options = PostgresOptions {
        connections: 1,
        max_waiting: 3,
        patience: Duration::from_millis(200),
        answer_timeout: Duration::from_mins(1),
        ..options()
    };
    let store = PostgresStore::open(place(&CLUSTER, &database), options, "mark", [1; 32]).unwrap();
    opened(&store, "alice");
    thread::scope(|scope| {
        let blocker = scope.spawn(|| CLUSTER.sql(&database, "BEGIN; LOCK TABLE account; SELECT pg_sleep(3); COMMIT"));
        let is_locked =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        while CLUSTER.sql(&database, is_locked) == "0" {}
        let outcomes = block_on(together((0..10).map(|_| store.login_state(name("alice"), at(0).into())).collect()));
        let texts: Vec<_> = outcomes.into_iter().map(|outcome| outcome.err().map(|error| error.to_string())).collect();
        let count = |text: &str| texts.iter().flatten().filter(|found| found.contains(text)).count();
        assert_eq!((count("too many wait"), count("too busy")), (6, 3), "{texts:?}");
        blocker.join().unwrap();
    });
    assert!(block_on(store.login_state(name("alice"), at(0).into())).unwrap().account.is_some());
}

#[test]
fn a_closed_store_has_finished_what_was_under_way_and_says_that_it_is_closed() {
    let database = CLUSTER.database();
    let store = server(&CLUSTER, &database);
    let alice = opened(&store, "alice");
    let mut calls: Vec<_> = (0..50).map(|n| store.issue_temp_ids(alice, vec![record(n)], at(100))).collect();
    // polled once, a call is under way
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for call in &mut calls {
        let _ready = call.as_mut().poll(&mut context);
    }
    drop(calls);
    // in the line behind them
    block_on(store.expire(at(0))).unwrap();
    store.close();
    assert!(matches!(block_on(store.expire(at(0))), Err(StoreError::Unavailable(_))));
    drop(store);
    assert_eq!(CLUSTER.sql(&database, "SELECT count(*) FROM temp_id"), "50");
}

/// An empty store, in a database of its own.
fn fresh() -> ((), PostgresStore) {
    ((), server(&CLUSTER, &CLUSTER.database()))
}

/// One server on a database.
fn server(cluster: &Cluster, database: &str) -> PostgresStore {
    static SEED: AtomicU8 = AtomicU8::new(1);
    let seed = [SEED.fetch_add(1, Ordering::Relaxed); 32];
    PostgresStore::open(place(cluster, database), options(), "mark", seed).unwrap()
}

/// Two servers on one database. They are there until the test program ends.
fn two_servers() -> [&'static PostgresStore; 2] {
    let database = CLUSTER.database();
    [(); 2].map(|()| &*Box::leak(Box::new(server(&CLUSTER, &database))))
}

fn place(cluster: &Cluster, database: &str) -> PostgresPlace {
    PostgresPlace::parse(&cluster.url(database), None).unwrap()
}

fn options() -> PostgresOptions {
    PostgresOptions {
        // a case asks many questions at once, and machines are slow
        max_waiting: 100_000,
        patience: Duration::from_mins(5),
        answer_timeout: Duration::from_mins(5),
        requires_durability: false,
        ..PostgresOptions::default()
    }
}

/// Answers of calls that are under way at once.
fn all<T>(calls: Vec<StoreFuture<'_, T>>) -> Vec<T> {
    block_on(together(calls)).into_iter().map(Result::unwrap).collect()
}

fn in_threads<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn opened(store: &PostgresStore, username: &str) -> AccountId {
    let opened = block_on(store.open_account(name(username), hash(), PasswordSource::Operator, at(0))).unwrap();
    let AccountOpened::Opened(id) = opened else { panic!("{opened:?}") };
    id
}

fn opened_once(store: &PostgresStore, username: &str) -> AccountId {
    match block_on(store.open_account(name(username), hash(), PasswordSource::Operator, at(0))).unwrap() {
        AccountOpened::Opened(id) | AccountOpened::Exists(id) => id,
    }
}

fn begun(store: &PostgresStore, request: UploadRequest) -> UploadKey {
    let begun = block_on(store.begin_upload(request, at(0))).unwrap();
    let UploadBegun::Open { key, .. } = begun else { panic!("{begun:?}") };
    key
}

fn request(account: AccountId, upload: &str, records: u32) -> UploadRequest {
    let upload = UploadId::parse(upload).unwrap();
    UploadRequest { account, upload, records, forget_at: at(FORGET), code: CodeCheck::NotRequired }
}

fn key(id: SealingKeyId) -> NewSealingKey {
    let term = KeyTerm { issues_from: at(0), issues_until: at(1), last_expiry: at(2), forget_at: at(3) };
    NewSealingKey { id, term, wrapped: WrappedKey([id.0.to_be_bytes()[7]; WRAPPED_KEY_BYTES]) }
}

fn name(username: &str) -> Username {
    Username::parse(username).unwrap()
}

fn hash() -> PasswordHash {
    PasswordHash("hash".into())
}

fn record(number: u64) -> Record {
    let temp_id = TempId::parse(&format!("{number:020}")).unwrap();
    Record { temp_id, window: Window::new(at(0), at(899)).unwrap() }
}

fn heard(number: u64) -> Uploaded {
    Uploaded::Record(UploadedRecord { record: record(number), received: None, rssi: None, seen: None })
}

/// So many seconds after the begin of a test, which is the begin of a day.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(18_395 * DAY + seconds).unwrap()
}

const DAY: i64 = 24 * 60 * 60;

/// When uploads are forgotten, in seconds after the begin of a test.
const FORGET: i64 = 1_000;

/// How often a race is run.
const ROUNDS: u32 = 100;

const RULE: Lockout = Lockout { max_failures: 3, block_duration_s: 60 };
