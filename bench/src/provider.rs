//! A provider that answers at once, and notes when the first byte of each call came: the input says which call it is.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";

/// When call `n` came, by its number; none that did not.
pub type Came = Arc<Mutex<Vec<Option<Instant>>>>;

/// Starts it; gives its address.
pub async fn start(came: Came) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, came.clone()));
        }
    });
    address
}

/// Answers the requests of one connection, one after the other.
async fn serve(mut stream: TcpStream, came: Came) {
    let mut bytes = Vec::new();
    loop {
        let mut first = None;
        let body = loop {
            if let Some(body) = whole(&bytes) {
                break body;
            }
            let mut part = [0; 8192];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes.extend_from_slice(&part[..read]),
            }
            first.get_or_insert_with(Instant::now);
        };
        let text = String::from_utf8_lossy(&bytes[body.0..body.1]).into_owned();
        let number = text.trim_start_matches("{\"n\":").trim_end_matches('}').parse::<usize>();
        if let (Ok(number), Some(at)) = (number, first) {
            let mut came = came.lock().expect("no panic held it");
            if came.len() <= number {
                came.resize(number + 1, None);
            }
            came[number].get_or_insert(at);
        }
        bytes.drain(..body.1);
        if stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// Where the body of the first request begins and ends, once it is there.
fn whole(bytes: &[u8]) -> Option<(usize, usize)> {
    let begin = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..begin]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
    (bytes.len() >= begin + length).then_some((begin, begin + length))
}
