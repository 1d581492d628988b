use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, Notify, mpsc};

use super::testing::*;
use super::*;

/// A host that answers each request with this text.
async fn answering(answer: &'static str) -> Host {
    Host::start(move |mut stream| async move {
        while !read_request(&mut stream).await.is_empty() {
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

async fn post(answer: &'static str) -> Result<Incoming, EgressError> {
    let host = answering(answer).await;
    local().post_json(to(format!("http://provider.test:{}/v1", host.address.port()))).await
}

#[tokio::test]
async fn every_spelling_of_an_inner_address_is_refused() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let port = host.address.port();
    let egress = egress("", Answers::new(&[&["8.8.8.8"]]));
    for spelled in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f.0.0.1",
        "0X7F000001",
        "2130706433",
        "0177.0.0.1",
        "017700000001",
        "0x7f.0x0.0x0.0x1",
        "%31%32%37.0.0.1",
        "127%2e0.0.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "127．0．0．1",
        "127｡0｡0｡1",
        "①②⑦.0.0.1",
        "0",
        "0.0.0.0",
        "0x0",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:FFFF:7F00:0001]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[5f00::1]",
        "[100::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "0xffffffff",
    ] {
        for (scheme, why) in [("https", Forbidden::Address), ("http", Forbidden::Plain)] {
            let url = format!("{scheme}://{spelled}:{port}/");
            assert_eq!(egress.check(&url).await, Err(why), "{url}");
            assert_eq!(egress.post_json(to(&url)).await, Err(why.into()), "{url}");
        }
    }
    assert_eq!(host.connections().await, 0);
}

#[tokio::test]
async fn a_name_with_inner_addresses_alone_is_refused() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let url = format!("https://provider.test:{}/", host.address.port());
    for answer in [
        &["127.0.0.1"][..],
        &["127.0.0.1", "10.0.0.1", "::1", "fd00::1"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["0.0.0.0"],
        &["::"],
        &["169.254.169.254"],
    ] {
        let egress = egress("", Answers::new(&[answer]));
        assert_eq!(egress.check(&url).await, Err(Forbidden::Address), "{answer:?}");
        assert_eq!(egress.post_json(to(&url)).await, Err(Forbidden::Address.into()), "{answer:?}");
    }
    assert_eq!(egress("", Arc::new(SystemResolver)).check("https://localhost/").await, Err(Forbidden::Address));
    assert_eq!(host.connections().await, 0);
}

#[tokio::test]
async fn of_mixed_addresses_the_admitted_ones_are_tried() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let port = host.address.port();
    // Nobody listens at ::1, which is admitted; at the address beside it, which is not, somebody does.
    let mixed = egress("::1", Answers::new(&[&["127.0.0.1", "::1"]]));
    let url = format!("https://provider.test:{port}/");
    assert!(mixed.check(&url).await.is_ok());
    assert!(matches!(mixed.post_json(to(&url)).await, Err(EgressError::Connect)));
    assert_eq!(host.connections().await, 0);

    let first_refused = egress("127.0.0.1", Answers::new(&[&["10.0.0.1", "127.0.0.1"]]));
    let answer = first_refused.post_json(to(format!("http://provider.test:{port}/"))).await.unwrap();
    assert_eq!((answer.status, host.connections().await), (200, 1));
}

#[tokio::test]
async fn a_name_that_moves_inside_after_the_check_is_not_followed() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let answers = Answers::new(&[&["8.8.8.8"], &["127.0.0.1"]]);
    let egress = egress("", answers.clone());
    let url = egress.check(&format!("https://provider.test:{}/", host.address.port())).await.unwrap();
    let error = egress.post_json(to(url.as_str())).await.unwrap_err();
    assert_eq!(error, Forbidden::Address.into());
    assert!(error.is_unsent());
    assert_eq!((host.connections().await, answers.asked.load(Ordering::SeqCst)), (0, 2));
}

#[tokio::test]
async fn each_call_resolves_once_and_connects_to_that() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let answers = Answers::new(&[&["127.0.0.1"], &["127.0.0.1"], &["10.0.0.1"]]);
    let egress = egress("127.0.0.1", answers.clone());
    let call = || egress.post_json(to(format!("http://provider.test:{}/", host.address.port())));
    assert!(call().await.is_ok() && call().await.is_ok());
    assert_eq!(call().await, Err(Forbidden::Plain.into()));
    assert_eq!((host.connections().await, answers.asked.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test]
async fn without_tls_only_what_the_operator_names_is_called() {
    let public = egress("10.0.0.0/8", Answers::new(&[&["8.8.8.8"]]));
    for url in ["http://provider.test/", "http://8.8.8.8/"] {
        assert_eq!(public.check(url).await, Err(Forbidden::Plain), "{url}");
        assert_eq!(public.post_json(to(url)).await, Err(Forbidden::Plain.into()), "{url}");
    }
    assert!(public.check("https://provider.test/").await.is_ok());
    assert!(public.check("https://8.8.8.8/").await.is_ok());
    assert!(public.check("http://10.2.3.4/").await.is_ok());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_now_may_be_configured_but_not_called() {
    let egress = egress("", Answers::new(&[]));
    assert_eq!(egress.check("https://Later.test/a#b").await.unwrap().as_str(), "https://later.test/a");
    assert_eq!(egress.post_json(to("https://later.test/a")).await, Err(EgressError::Unresolved));
}

#[tokio::test]
async fn exactly_what_was_given_is_sent() {
    let seen = Arc::new(Mutex::new(String::new()));
    let kept = seen.clone();
    let host = Host::start(move |mut stream| {
        let kept = kept.clone();
        async move {
            *kept.lock().await = read_request(&mut stream).await;
            let answer = "HTTP/1.1 429 No\r\nretry-after: 7\r\ncontent-type: text/html\r\nset-cookie: a=b\r\n\
                          content-length: 3\r\n\r\nno!";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let url = format!("http://{}/v1?x=1", host.address);
    let egress = local();
    let answer = egress.post_json(to(&url)).await.unwrap();
    assert_eq!((answer.status, answer.retry_after), (429, Some(Duration::from_secs(7))));
    assert_eq!((answer.content_type.as_deref(), &answer.body[..]), (Some("text/html"), &b"no!"[..]));
    assert!(!format!("{answer:?} {:?}", to(&url)).contains("no!"));
    egress.post_json(to(&url)).await.unwrap(); // and no cookie comes back
    let request = seen.lock().await.clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    lines.sort_unstable();
    let host_line = format!("host: {}", host.address);
    let agent = concat!("user-agent: annals/", env!("CARGO_PKG_VERSION"));
    let mut expected = vec![
        "POST /v1?x=1 HTTP/1.1",
        "accept: application/json",
        "authorization: Bearer hush",
        "content-length: 21",
        "content-type: application/json",
        host_line.as_str(),
        agent,
    ];
    expected.sort_unstable();
    assert_eq!((lines, body), (expected, r#"{"secret":"personal"}"#));

    let mut framed = to(&url);
    framed.headers.push(("transfer-encoding".parse().unwrap(), "chunked".parse().unwrap()));
    assert!(matches!(egress.post_json(framed).await, Err(EgressError::Invalid(_))));
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let inner = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let location = inner.address;
    let host = Host::start(move |mut stream| async move {
        read_request(&mut stream).await;
        let answer = format!("HTTP/1.1 307 Go\r\nlocation: http://{location}/\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    assert_eq!(local().post_json(to(format!("http://{}/", host.address))).await.unwrap().status, 307);
    assert_eq!((host.connections().await, inner.connections().await), (1, 0));
}

#[tokio::test]
async fn a_body_without_end_is_given_up_at_its_bound() {
    for head in ["transfer-encoding: chunked\r\n", "connection: close\r\n"] {
        let written = Arc::new(AtomicUsize::new(0));
        let counter = written.clone();
        let host = Host::start(move |mut stream| {
            let counter = counter.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes()).await.unwrap();
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {
                    counter.fetch_add(chunk.len(), Ordering::SeqCst);
                }
            }
        })
        .await;
        let begun = Instant::now();
        let result = local().post_json(to(format!("http://{}/", host.address))).await;
        assert_eq!(result, Err(EgressError::BodyTooLarge(1 << 16)));
        assert!(begun.elapsed() < Duration::from_secs(3));
        host.connections().await;
        let stopped = written.load(Ordering::SeqCst);
        host.connections().await;
        assert_eq!(written.load(Ordering::SeqCst), stopped, "the connection is still read");
    }
}

#[tokio::test]
async fn a_body_may_reach_its_bound_but_not_pass_it() {
    let host = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await;
    let sized = |max_body| Outgoing { max_body, ..to(format!("http://{}/", host.address)) };
    assert_eq!(local().post_json(sized(10)).await.unwrap().body, b"0123456789");
    assert_eq!(local().post_json(sized(9)).await, Err(EgressError::BodyTooLarge(9)));
    assert_eq!(local().post_json(sized(0)).await, Err(EgressError::BodyTooLarge(0)));
    let huge = post("HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\nx").await;
    assert_eq!(huge, Err(EgressError::BodyTooLarge(1 << 16)));
}

#[tokio::test]
async fn headers_without_end_are_given_up() {
    // Many, and one: the number is bounded, and the bytes are.
    for text in ["a: b\r\n", "aaaaaaaaaaaaaaaa"] {
        let host = Host::start(move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
            while stream.write_all(text.repeat(64).as_bytes()).await.is_ok() {}
        })
        .await;
        let result = local().post_json(to(format!("http://{}/", host.address))).await;
        assert_eq!(result, Err(EgressError::HeadersTooLarge), "{text:?}");
    }
}

#[tokio::test]
async fn interim_answers_without_end_are_given_up_before_they_cost_anything() {
    // In one read come hundreds of them, and reading them never waits: only a bound on all bytes ends it.
    let host = Host::start(move |mut stream| async move {
        read_request(&mut stream).await;
        while stream.write_all("HTTP/1.1 100 \r\n\r\n".repeat(4_096).as_bytes()).await.is_ok() {}
    })
    .await;
    let request = Outgoing { timeout: Duration::from_secs(60), ..to(format!("http://{}/", host.address)) };
    assert_eq!(local().post_json(request).await, Err(EgressError::HeadersTooLarge));
}

#[tokio::test]
async fn chunks_that_say_more_than_they_bring_are_given_up() {
    let host = Host::start(move |mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;").await;
        while stream.write_all("x".repeat(64 * 1_024).as_bytes()).await.is_ok() {}
    })
    .await;
    let request = Outgoing { timeout: Duration::from_secs(60), ..to(format!("http://{}/", host.address)) };
    let error = local().post_json(request).await.unwrap_err();
    assert!(matches!(error, EgressError::BodyTooLarge(_) | EgressError::BodyIncomplete), "{error:?}");
}

#[tokio::test]
async fn a_compressed_body_stays_as_it_is() {
    let answer = post("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
    assert_eq!(answer.body, b"abc");
}

#[tokio::test]
async fn a_host_that_says_nothing_or_stops_has_its_time() {
    for said in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "HTTP/1.1 100 Go\r\n\r\n"]
    {
        let host = answering(said).await;
        let request = Outgoing { timeout: Duration::from_millis(200), ..to(format!("http://{}/", host.address)) };
        let error = local().post_json(request).await.unwrap_err();
        assert_eq!(error, EgressError::Timeout, "{said:?}");
        assert!(!error.is_unsent());
    }
}

#[tokio::test]
async fn a_host_that_leaves_early_is_told_apart() {
    for (said, error) in [
        ("", EgressError::NoAnswer),
        ("HTTP/1.1 200 O", EgressError::NoAnswer),
        ("SSH-2.0-OpenSSH\r\n\r\n", EgressError::NoAnswer),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", EgressError::BodyIncomplete),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", EgressError::BodyIncomplete),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", EgressError::BodyIncomplete),
    ] {
        let host = Host::start(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(said.as_bytes()).await.unwrap();
        })
        .await;
        let result = local().post_json(to(format!("http://{}/", host.address))).await;
        assert_eq!(result, Err(error), "{said:?}");
    }
    let closed = answering("").await.address;
    let refused = local().post_json(to(format!("http://{closed}/"))).await;
    assert_eq!(refused, Err(EgressError::Connect));
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection() {
    let (closed, mut hears) = mpsc::channel(1);
    let arrived = Arc::new(Notify::new());
    let notify = arrived.clone();
    let host = Host::start(move |mut stream| {
        let (closed, notify) = (closed.clone(), notify.clone());
        async move {
            read_request(&mut stream).await;
            notify.notify_one();
            let _ = closed.send(stream.read(&mut [0; 1]).await.unwrap_or(0)).await;
        }
    })
    .await;
    let egress = local();
    let request = to(format!("http://{}/", host.address));
    let call = tokio::spawn(async move { egress.post_json(request).await });
    arrived.notified().await;
    call.abort();
    assert_eq!(time::timeout(Duration::from_secs(2), hears.recv()).await.unwrap(), Some(0));
}

#[tokio::test]
async fn no_error_repeats_what_was_sent_or_answered() {
    let host = answering("HTTP/1.1 200 OK\r\nx-secret: sesame\r\ncontent-length: 90000\r\n\r\nsesame").await;
    let local = local();
    let answered = local.post_json(to(format!("http://{}/hidden?key=hush", host.address))).await.unwrap_err();
    let refused = local.post_json(to("http://10.9.8.7/hidden?key=hush")).await.unwrap_err();
    for error in [answered, refused] {
        let text = format!("{error} {error:?}");
        for secret in ["hidden", "hush", "sesame", "personal", "10.9.8.7", "127.0.0.1"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
