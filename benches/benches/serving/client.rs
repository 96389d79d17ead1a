//! Whoever asks: numbers that look random, and connections on which requests come at their pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The columns of a row.
pub const NUMBERS: usize = 13;
pub const CATEGORIES: usize = 26;

/// When each request was due, how long its answer took, and its status; 0 where none came.
pub type Asked = Vec<(f64, f64, u16)>;

/// Numbers that look random.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn row(&mut self) -> ([f64; NUMBERS], [u64; CATEGORIES]) {
        let number = |random: &mut Self| random.below(1000) as f64 / 100.0;
        (std::array::from_fn(|_| number(self)), std::array::from_fn(|_| self.below(100_000)))
    }

    /// A record, as JSON; without a label, or with one, or with the opposite of it.
    pub fn record(&mut self, labelled: Option<bool>) -> Vec<u8> {
        let (numbers, categories) = self.row();
        let mut columns: Vec<String> = numbers.iter().enumerate().map(|(at, x)| format!("\"n{at}\":{x}")).collect();
        columns.extend(categories.iter().enumerate().map(|(at, code)| format!("\"c{at}\":{code}")));
        if let Some(opposite) = labelled {
            columns.push(format!("\"y\":{}", (numbers[0] + numbers[1] > 10.0) != opposite));
        }
        format!("{{{}}}", columns.join(",")).into_bytes()
    }

    /// A request over HTTP.
    pub fn request(&mut self) -> Vec<u8> {
        let (numbers, categories) = self.row();
        let tensor = |name: String, kind: &str, value: String| {
            format!("{{\"name\":\"{name}\",\"shape\":[1],\"datatype\":\"{kind}\",\"data\":[{value}]}}")
        };
        let mut inputs: Vec<String> = Vec::new();
        inputs.extend(numbers.iter().enumerate().map(|(at, x)| tensor(format!("n{at}"), "FP64", x.to_string())));
        inputs.extend(categories.iter().enumerate().map(|(at, x)| tensor(format!("c{at}"), "INT64", x.to_string())));
        let body = format!("{{\"inputs\":[{}]}}", inputs.join(","));
        let head = "POST /v2/models/questions/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

/// Asks these things in turns, so many a second over all connections.
pub fn ask_http(address: SocketAddr, requests: Vec<Vec<u8>>, rate: f64, seconds: f64, connections: usize) -> Asked {
    let requests = Arc::new(requests);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let clients: Vec<_> = (0..connections)
            .map(|at| {
                let (first, interval) = (at as f64 / rate, connections as f64 / rate);
                tokio::spawn(client(address, requests.clone(), start, (first, interval, seconds)))
            })
            .collect();
        let mut asked = Vec::new();
        for client in clients {
            asked.extend(client.await.expect("no panic"));
        }
        asked
    })
}

/// Asks on one connection; a request that is due while the one before is not answered waits, and that counts.
async fn client(
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    start: Instant,
    (first, interval, seconds): (f64, f64, f64),
) -> Asked {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("it can be set");
    let (mut asked, mut buffer) = (Vec::new(), vec![0_u8; 64 << 10]);
    for number in 0.. {
        let due = first + f64::from(number) * interval;
        if due > seconds || start.elapsed().as_secs_f64() > seconds {
            break;
        }
        let wait = due - start.elapsed().as_secs_f64();
        if wait > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        }
        let sent = if wait > 0.0 { due } else { start.elapsed().as_secs_f64() };
        let request = &requests[(number as usize * 7 + (first * 1e6) as usize) % requests.len()];
        stream.write_all(request).await.expect("it is read");
        let mut read = 0;
        let status = loop {
            let more = stream.read(&mut buffer[read..]).await.expect("it answers");
            if more == 0 {
                break 0;
            }
            read += more;
            if let Some(status) = complete(&buffer[..read]) {
                break status;
            }
        };
        // A client that asks one thing after the other asks later where answers are late: that is not the server's time.
        asked.push((due, start.elapsed().as_secs_f64() - sent, status));
        if status == 0 {
            break;
        }
    }
    asked
}

/// The status of a response that is all there.
fn complete(response: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(response).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
    (body.len() >= length).then(|| head.split(' ').nth(1)?.parse().ok())?
}
