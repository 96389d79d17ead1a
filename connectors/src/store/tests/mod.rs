//! What every store does, and what becomes of folders when the disk fails.

mod crashes;
mod kills;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use millstream_engine::Blame;
use millstream_engine::checkpoint::{Object, Store};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};

use super::simulated::SimulatedDisk;
use super::*;

fn names(store: &dyn Store, prefix: &str) -> Vec<(String, u64)> {
    let listed = store.list(prefix).expect("it can be listed");
    listed.into_iter().map(|Object { name, bytes }| (name, bytes)).collect()
}

fn conforms(store: &dyn Store) {
    let get = |name: &str| store.get(name).expect("it can be read");
    assert_eq!(names(store, ""), []);
    assert_eq!((get("parts/a"), get("nothing")), (None, None));
    store.delete("parts/a").expect("absent is fine");

    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    store.put("parts/ab", b"one").expect("put");
    store.put("parts/ac", &large).expect("put");
    store.put("parts/empty", b"").expect("put");
    store.put("manifests/00000000000000000007", b"seven").expect("put");
    store.put("top-level_1.json", b"{}").expect("put");
    assert_eq!(get("parts/ab").as_deref(), Some(&b"one"[..]));
    assert_eq!(get("parts/ac"), Some(large));
    assert_eq!(get("parts/empty"), Some(Vec::new()));
    for no_object in ["parts", "parts/a", "manifests/0"] {
        assert_eq!(get(no_object), None, "{no_object}");
    }

    let parts = [("parts/ab", 3), ("parts/ac", 3_000_000), ("parts/empty", 0)].map(|(n, bytes)| (n.to_owned(), bytes));
    assert_eq!(names(store, "parts/"), parts);
    assert_eq!(names(store, "parts"), parts);
    assert_eq!(names(store, "parts/a"), parts[..2]);
    assert_eq!(names(store, "parts/ab"), parts[..1]);
    assert_eq!(names(store, "part/"), []);
    assert_eq!(names(store, "parts/b"), []);
    let all: Vec<String> = names(store, "").into_iter().map(|(name, _)| name).collect();
    let manifest = "manifests/00000000000000000007";
    assert_eq!(all, [manifest, "parts/ab", "parts/ac", "parts/empty", "top-level_1.json"]);

    store.put("parts/ab", b"a longer one").expect("in the place of the old one");
    assert_eq!(get("parts/ab").as_deref(), Some(&b"a longer one"[..]));
    store.put("parts/ab", b"1").expect("in the place of the old one");
    assert_eq!((get("parts/ab").as_deref(), names(store, "parts/ab")), (Some(&b"1"[..]), vec![("parts/ab".into(), 1)]));
    for name in ["parts/ab", "parts/ab", manifest] {
        store.delete(name).expect("removed, or absent");
        assert_eq!(get(name), None);
    }
    assert_eq!(names(store, "parts/"), parts[1..]);
    assert_eq!(names(store, "manifests/"), []);

    let long = "x".repeat(129);
    for bad in
        ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".", ".tmp-1", "a/.b", "A", "ä", "a b", "a\\b", "a%2fb", &long]
    {
        let faults = [store.put(bad, b"").err(), store.get(bad).err(), store.delete(bad).err()];
        assert!(faults.iter().flatten().all(|fault| fault.blame == Blame::Ours), "{bad}: {faults:?}");
        assert!(faults.iter().all(Option::is_some), "{bad}: {faults:?}");
    }

    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            scope.spawn(move || {
                for object in 0..5 {
                    store.put(&format!("many/{writer}-{object}"), &[writer; 100]).expect("put");
                    store.put("many/shared", &[writer; 1000]).expect("put");
                }
            });
        }
    });
    assert_eq!(names(store, "many/").len(), 21);
    let shared = get("many/shared").expect("somebody was the last");
    assert!(shared.len() == 1000 && shared.iter().all(|byte| *byte == shared[0]));
}

#[test]
fn all_stores_are_alike() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let base = folder.path();
    conforms(&*open("new/checkpoints", base).expect("opened"));
    assert!(base.join("new/checkpoints/parts/ac").is_file());
    conforms(&*open(&format!("file://{}/by-url", base.display()), std::path::Path::new("/nowhere")).expect("opened"));
    assert!(base.join("by-url/parts/ac").is_file());
    conforms(&Folder::on(SimulatedDisk::new(), "/new/checkpoints"));
    conforms(&Bucket::in_memory().expect("opened"));
    conforms(&*open("memory:///some/where", base).expect("opened"));
    let local = Arc::new(LocalFileSystem::new_with_prefix(base).expect("it is there"));
    conforms(&Bucket::on(local, Path::from("a/bucket")).expect("opened"));
}

/// Names an empty bucket, or an empty part of one; the keys are in the environment as for a run.
const BUCKET: &str = "MILLSTREAM_TEST_BUCKET";

#[test]
fn a_real_bucket_is_like_them() {
    match std::env::var(BUCKET) {
        Ok(url) => conforms(&*open(&url, std::path::Path::new("/nowhere")).expect("opened")),
        Err(_) => println!("skipped: no bucket in {BUCKET}"),
    }
}

#[test]
fn what_cannot_be_a_store_is_refused() {
    let keys = "keys and options are taken from AWS_…, GOOGLE_… and AZURE_… in the environment, not from it";
    let cases = [
        ("", CHOICES),
        ("http://host/path", CHOICES),
        ("https://host.example/path", CHOICES),
        ("ftp://host/path", CHOICES),
        ("s3:///", CHOICES),
        ("s3://", CHOICES),
        ("s3://[bucket/path", "it cannot be read"),
        ("s3://key:secret@bucket/path", keys),
        ("az://container/path?sig=secret", keys),
        ("file://elsewhere/path", "a file:/// URL names a folder of this machine"),
    ];
    for (to, why) in cases {
        let fault = open(to, std::path::Path::new("/base")).err().expect(to);
        assert_eq!(fault.blame, Blame::Definition, "{to}: {fault}");
        assert!(fault.message.contains(why), "{to}: {fault}");
        assert!(!fault.message.contains("secret"), "{fault}");
    }
    for to in ["s3://bucket/path", "s3://bucket", "gs://bucket/path"] {
        // The keys are asked for when they are first needed.
        open(to, std::path::Path::new("/base")).map(drop).expect(to);
    }
}

/// A bucket on a server that gives each request the same answer, and does not try again.
fn bucket_that_answers(status: &'static str) -> Bucket {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it has one"));
    std::thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.expect("a connection");
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).expect("a request") > 0);
            stream.write_all(answer.as_bytes()).expect("it is listening");
        }
    });
    bucket_at(&endpoint)
}

fn bucket_at(endpoint: &str) -> Bucket {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new().with_bucket_name("bucket").with_endpoint(endpoint).with_allow_http(true);
    let builder = builder.with_access_key_id("key").with_secret_access_key("secret").with_retry(retry);
    let store: Arc<dyn ObjectStore> = Arc::new(builder.build().expect("all is given"));
    Bucket::on(store, Path::from("under")).expect("opened")
}

#[test]
fn trouble_that_may_pass_may_be_tried_again() {
    let cases = [
        ("500 Internal Server Error", Some(true)),
        ("503 Slow Down", Some(true)),
        ("403 Forbidden", Some(false)),
        ("401 Unauthorized", Some(false)),
        ("404 Not Found", None),
    ];
    let check = |bucket: &Bucket, status: &str, retry: Option<bool>| {
        let put = bucket.put("parts/a", b"a").expect_err("the server refuses");
        assert_eq!((put.blame, put.retry), (Blame::World, retry.unwrap_or(false)), "{status}: {put}");
        assert!(put.message.starts_with("cannot write `parts/a` in AmazonS3(bucket)"), "{put}");
        let get = bucket.get("parts/a");
        assert_eq!(get.as_ref().err().map(|fault| fault.retry), retry, "{status}: {get:?}");
        // Of a listing the client does not tell why it failed.
        let list = bucket.list("parts/").expect_err("the server refuses");
        assert!(list.blame == Blame::World && list.retry, "{status}: {list}");
    };
    for (status, retry) in cases {
        check(&bucket_that_answers(status), status, retry);
    }
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    check(&bucket_at(&format!("http://{nobody}")), "nobody there", Some(true));
}
