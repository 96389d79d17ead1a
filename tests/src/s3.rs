//! A bucket in memory, on a server that speaks as much of S3 as object stores need. Listings come in small pages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// How many objects a page of a listing has at most.
const PAGE: usize = 5;
/// Says in the environment of a process that it has a bucket.
const HAS_BUCKET: &str = "MILLSTREAM_TEST_S3";

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Does something where `s3://bucket` is a bucket, in this process and in those that it starts. Where it is in the environment is told
/// to a process when it starts; so the test of this name is started once more.
pub fn with_bucket(test: &str, act: impl FnOnce()) {
    if std::env::var_os(HAS_BUCKET).is_some() {
        return act();
    }
    let mut again = crate::again(test);
    again.env(HAS_BUCKET, "1");
    again.env("AWS_ENDPOINT", serve()).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "nowhere");
    again.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    let output = again.output().expect("the program starts again");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Serves as long as the process lives. Gives the URL.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    let objects = Objects::default();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let objects = objects.clone();
            // Who is killed in the middle of a request ends it.
            std::thread::spawn(move || drop(answer(connection, &objects)));
        }
    });
    url
}

fn answer(mut connection: TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    reader.read_line(&mut head)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap_or(0),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    // What does not come whole is not there at all.
    reader.read_exact(&mut body)?;
    let [method, target, _] = head.split_whitespace().collect::<Vec<_>>()[..] else { return Ok(()) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = path.strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/');
    let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, body) = match (method, name) {
        ("GET", "") => ("200 OK", list(&objects, query).into_bytes()),
        ("GET", name) => objects.get(name).map_or(("404 Not Found", Vec::new()), |content| ("200 OK", content.clone())),
        ("PUT", name) => {
            objects.insert(name.to_owned(), body);
            ("200 OK", Vec::new())
        }
        // Deletes many at once.
        ("POST", "") if query.starts_with("delete") => {
            let body = String::from_utf8_lossy(&body);
            let names = body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let mut text = "<DeleteResult>".to_owned();
            for name in names {
                objects.remove(name);
                // Writing to a string cannot fail, here and below.
                let _ = write!(text, "<Deleted><Key>{name}</Key></Deleted>");
            }
            ("200 OK", (text + "</DeleteResult>").into_bytes())
        }
        _ => ("501 Not Implemented", Vec::new()),
    };
    drop(objects);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(&body)
}

/// A page of a listing, which begins after its token.
fn list(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> String {
    let parameter = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, after) = (parameter("prefix"), parameter("continuation-token"));
    let mut left = objects.iter().filter(|(name, _)| name.starts_with(&prefix) && **name > after);
    let mut text = "<ListBucketResult><KeyCount>0</KeyCount>".to_owned();
    let mut last = "";
    for (name, content) in left.by_ref().take(PAGE) {
        last = name;
        let _ = write!(
            text,
            "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>\"1\"</ETag></Contents>",
            content.len()
        );
    }
    if left.next().is_some() {
        let _ = write!(text, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    text + "</ListBucketResult>"
}
