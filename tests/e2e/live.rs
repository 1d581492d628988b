//! The log as it grows: streams of events over real HTTP, with readers that hang up, dawdle, lie and come back.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::TypedId;
use eventstore::{EventFilter, Role};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::backup::Backup;
use crate::client::Client;
use crate::house::{House, Lodging, Tenant};
use crate::listener::{Listener, Message};
use crate::orders::order;
use crate::processes::{Running, ready};
use crate::random::Random;
use crate::restored::{create, place, refused};
use crate::tests;

tests![
    events_come_as_they_are_appended_and_as_the_list_shows_them,
    only_what_is_asked_for_comes_and_the_place_moves_on,
    what_a_reader_says_that_it_has_seen_is_checked,
    who_may_not_see_personal_data_hears_null,
    nothing_is_lost_or_doubled_however_often_readers_come_back,
    a_slow_reader_is_cut_with_a_reason_and_has_everything_when_it_comes_back,
    a_stream_ends_with_its_key,
    a_tenant_has_so_many_streams,
    a_process_that_ends_says_so_and_is_not_held_up,
    a_log_that_goes_back_ends_its_streams,
    idle_streams_ask_nothing_of_postgres,
    a_page_is_bounded_in_events_and_in_bytes,
];

const NOWHERE: (&str, &str) = ("ANNALS_KAFKA_BROKERS", "");

fn sequences(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["sequence"].as_i64().unwrap()).collect()
}

async fn events_come_as_they_are_appended_and_as_the_list_shows_them(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let mut live = Listener::open(tenant.get("/events/stream")).await;
    assert_eq!(live.last, tenant.first_head.to_string(), "it begins with what comes next");
    let mut others = Listener::open(other.get("/events/stream")).await;
    let customer = tenant.post("/customers", &json!({"name": "Ada"})).expect(201).await;
    let message = live.heard().await;
    assert_eq!((message.sequence(), message.id.as_str()), (customer.sequence(), customer.header("annals-sequence")));
    assert_eq!((message.name.as_str(), message.data["data"]["name"].as_str()), ("", Some("Ada")));
    tenant.post("/orders", &order(customer.id(), 5)).expect(201).await;
    live.events(1).await;
    // Of all this nobody else hears: the first event is its own, at a sequence of its own.
    let theirs = other.post("/customers", &json!({})).expect(201).await;
    let message = others.heard().await;
    assert_eq!((message.sequence(), message.data["stream"].as_str()), (theirs.sequence(), Some(theirs.id())));
    let list = tenant.get("/events?limit=100").expect(200).await;
    let mut all = Listener::open(tenant.get("/events/stream?after=0")).await;
    assert_eq!(all.last, "0");
    assert_eq!(all.events(list.data().len()).await, list.data());
}

async fn only_what_is_asked_for_comes_and_the_place_moves_on(house: &House) {
    let tenant = house.tenant().await;
    let ada = tenant.post("/customers", &json!({"external_id": "ada"})).expect(201).await;
    let mut placed = Listener::open(tenant.get("/events/stream?type=order.placed&after=0")).await;
    let mut hers = Listener::open(tenant.get(&format!("/events/stream?stream={}&after=0", ada.id()))).await;
    let mut refunds = Listener::open(tenant.get("/events/stream?type=order.refunded")).await;
    let first = tenant.post("/orders", &order(ada.id(), 5)).expect(201).await;
    tenant.patch("/customers/ext:ada", &json!({"country": "FR"})).expect(200).await;
    let last = tenant.post("/orders", &order(ada.id(), 7)).expect(201).await;
    assert_eq!(sequences(&placed.events(2).await), [first.sequence(), last.sequence()]);
    let types: Vec<_> = hers.events(2).await.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["customer.created", "customer.changed"]);
    // Nothing that fits comes, and the place moves on.
    let heartbeat = refunds.next().await.unwrap();
    assert!(heartbeat.comments && heartbeat.data == Value::Null, "{heartbeat:?}");
    assert_eq!(heartbeat.id, last.header("annals-sequence"));
    let refund = tenant.post(&format!("/orders/{}/refund", last.id()), &json!({})).header("idempotency-key", "r");
    let refund = refund.expect(200).await;
    let back = tenant.get("/events/stream?type=order.refunded").header("last-event-id", &refunds.last);
    assert_eq!(Listener::open(back).await.heard().await.sequence(), refund.sequence());
    for (query, pointer) in [("type=order.", "?type"), ("stream=xyz", "?stream"), ("limit=5", "?limit")] {
        let told = tenant.get(&format!("/events/stream?{query}")).send().await;
        assert_eq!((told.status, told.pointers()), (422, vec![pointer]), "{}", told.text);
    }
}

async fn what_a_reader_says_that_it_has_seen_is_checked(house: &House) {
    let tenant = house.tenant().await;
    let last = tenant.post("/customers", &json!({})).expect(201).await.sequence();
    let beyond = (last + 1).to_string();
    for bad in ["x", "-1", "", "1.5", "7@", "7@1", "99999999999999999999", "0, 1", &beyond] {
        let told = tenant.get("/events/stream").header("last-event-id", bad).problem(422, "validation-failed").await;
        assert_eq!(told.pointers(), ["Last-Event-ID"], "{bad}: {}", told.text);
    }
    for bad in ["x", "-1", &beyond] {
        let told = tenant.get(&format!("/events/stream?after={bad}")).problem(422, "validation-failed").await;
        assert_eq!(told.pointers(), ["?after"], "{bad}: {}", told.text);
    }
    // Of a life that this log never had.
    let told = tenant.get("/events/stream").header("last-event-id", "1@2").problem(409, "log-restored").await;
    assert_eq!(told.body["sequence"], last, "{}", told.text);
    // The header is newer than the address that a browser comes back to.
    let back = tenant.get("/events/stream?after=0").header("last-event-id", (last - 1).to_string());
    assert_eq!(sequences(&Listener::open(back).await.events(1).await), [last]);
}

async fn who_may_not_see_personal_data_hears_null(house: &House) {
    let tenant = house.tenant().await;
    let reader = tenant.key(&["audit:read"]).await;
    let mut live = Listener::open(reader.get("/events/stream")).await;
    tenant.post("/customers", &json!({"name": "Ada", "country": "GB"})).expect(201).await;
    let event = live.heard().await.data;
    assert_eq!((&event["data"]["name"], &event["data"]["country"]), (&Value::Null, &json!("GB")));
    let writer = tenant.key(&["commerce:read", "commerce:write"]).await;
    let told = writer.get("/events/stream").problem(403, "forbidden").await;
    assert_eq!(told.body["scope"], "audit:read");
}

/// Reads until a sequence has come, and hangs up again and again; gives what has come, in order.
async fn read_restlessly(clients: &[Client], path: &str, until: i64, seed: u64) -> Vec<i64> {
    let (mut random, mut last, mut seen) = (Random::new(seed), "0".to_owned(), Vec::new());
    while seen.last() != Some(&until) {
        let client = &clients[random.below(clients.len())];
        let call = match random.below(2) {
            0 => client.get(path).header("last-event-id", &last),
            _ => client.get(&format!("{path}{}after={last}", if path.contains('?') { '&' } else { '?' })),
        };
        let mut live = Listener::open(call).await;
        for _ in 0..random.between(1, 40) {
            let Some(message) = live.next().await else { break };
            if message.data != Value::Null {
                seen.push(message.sequence());
            }
            last = live.last.clone();
            if seen.last() == Some(&until) {
                break;
            }
        }
    }
    seen
}

/// Two processes serve; what the one appends the other hears of by itself.
async fn nothing_is_lost_or_doubled_however_often_readers_come_back(_: &House) {
    const WRITERS: usize = 6;
    const WRITES: usize = 60;
    let lodging = Lodging::new().await;
    let second = lodging.free_address();
    let serve = [
        Running::start(&lodging, "serve", &[NOWHERE]),
        Running::start(&lodging, "serve", &[NOWHERE, ("ANNALS_LISTEN", &second)]),
    ];
    let (tenant, other) = (lodging.tenant().await, lodging.tenant().await);
    ready(&tenant).await;
    ready(&tenant.at(&second)).await;
    let processes = [tenant.client.clone(), tenant.at(&second)];
    let last = tenant.first_head + (WRITERS * WRITES) as i64;
    let write = |number: usize| {
        let (client, stranger) = (processes[number % 2].clone(), other.clone());
        async move {
            for step in 0..WRITES {
                client.post("/customers", &json!({ "name": format!("{number} {step}") })).expect(201).await;
                if step % 3 == number % 3 {
                    stranger.post("/customers", &json!({})).expect(201).await;
                }
            }
        }
    };
    let writing = futures::future::join_all((0..WRITERS).map(write));
    let reading =
        futures::future::join_all((0..8).map(|seed| read_restlessly(&processes, "/events/stream", last, seed)));
    let (read, _) = tokio::join!(reading, writing);
    for seen in read {
        assert!(seen.iter().copied().eq(1..=last), "{seen:?}");
    }
    assert_eq!(tenant.events_head().await, last);
    // The same of what is filtered, when all is there.
    let filtered = read_restlessly(&processes, "/events/stream?type=customer.created", last, 99).await;
    assert!(filtered.iter().copied().eq(tenant.first_head + 1..=last), "{filtered:?}");
    for process in serve {
        assert_eq!(process.end().await, 0);
    }
    lodging.leave().await;
}

/// Megabytes of orders; gives the last sequence.
async fn write_much(tenant: &Tenant, batches: usize) -> i64 {
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let line = json!({"sku": "s".repeat(250), "name": "n".repeat(250), "quantity": 1, "total": {"amount": 1, "currency": "USD"}});
    let mut large = order(customer.id(), 1);
    large["lines"] = json!(vec![line; 100]);
    let mut last = customer.sequence();
    for _ in 0..batches {
        let made = tenant.post("/orders/batch", &json!({"items": vec![large.clone(); 15]})).expect(200).await;
        assert!(made.data().iter().all(|item| item["status"] == 201), "{}", made.text);
        last = made.sequence();
    }
    last
}

/// Asks for everything, and takes the first byte of it.
async fn ask_and_stall(address: &str, key: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    // Of version 1.0, so that the bytes that come are those of the stream.
    let request = format!("GET /api/v1/events/stream?after=0 HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_u8().await.unwrap();
    stream
}

async fn a_slow_reader_is_cut_with_a_reason_and_has_everything_when_it_comes_back(house: &House) {
    let tenant = house.tenant().await;
    let last = write_much(&tenant, 12).await;
    let address = house.address();
    let mut slow = ask_and_stall(address.trim_start_matches("http://"), &tenant.secret).await;
    // This is the reader: one that does something else for longer than it is waited for.
    tokio::time::sleep(Duration::from_secs(14)).await;
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(30), slow.read_to_string(&mut text)).await;
    read.expect("it ends").unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let messages: Vec<_> = body.trim_end().split("\n\n").skip(1).map(Message::parse).collect();
    let (end, events) = messages.split_last().unwrap();
    end.assert_end("slow");
    let mut seen: Vec<_> = events.iter().map(Message::sequence).collect();
    assert!((1..last).contains(&(seen.len() as i64)), "{} of {last} came", seen.len());
    assert_eq!(end.id, seen.last().unwrap().to_string(), "what came before the end is what it says");
    let mut back = Listener::open(tenant.get("/events/stream").header("last-event-id", &end.id)).await;
    seen.extend(sequences(&back.events(usize::try_from(last).unwrap() - seen.len()).await));
    assert!(seen.iter().copied().eq(1..=last), "{seen:?}");
}

async fn a_stream_ends_with_its_key(house: &House) {
    let tenant = house.tenant().await;
    let (id, revoked) = tenant.key_with_id(&["audit:read"]).await;
    let expires = chrono::DateTime::from(std::time::SystemTime::now()) + TimeDelta::seconds(3);
    let executor = house.lodging.executor();
    let made = commands::admin::create_key(
        executor,
        tenant.id,
        "short".parse().unwrap(),
        vec!["audit:read".into()],
        Some(expires),
    );
    let (_, text) = made.await.unwrap();
    let expiring = tenant.with_key(Some(text.expose_secret()));
    let mut live = Listener::open(tenant.get("/events/stream")).await;
    let mut short = Listener::open(expiring.get("/events/stream")).await;
    let mut withdrawn = Listener::open(revoked.get("/events/stream?type=order.placed")).await;
    let begun = Instant::now();
    house.revoke(&tenant, &id).await;
    withdrawn.heard().await.assert_end("invalid-api-key");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(withdrawn.next().await, None);
    assert_eq!(live.heard().await.data["type"], "api_key.revoked", "others go on");
    // Where it is remembered for some seconds it opens no stream.
    revoked.get("/events/stream?after=0").problem(401, "invalid-api-key").await;
    loop {
        let message = short.heard().await;
        if message.name == "end" {
            message.assert_end("api-key-expired");
            break;
        }
    }
    expiring.get("/events/stream").problem(401, "api-key-expired").await;
    tenant.post("/customers", &json!({})).expect(201).await;
    assert_eq!(live.heard().await.data["type"], "customer.created");
}

async fn a_tenant_has_so_many_streams(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let open = || Listener::try_open(tenant.get("/events/stream"));
    let mut all = futures::future::join_all((0..100).map(|_| Listener::open(tenant.get("/events/stream")))).await;
    let told = tenant.get("/events/stream").problem(429, "rate-limited").await;
    assert!(!told.header("retry-after").is_empty());
    Listener::open(other.get("/events/stream")).await;
    all.pop();
    let begun = Instant::now();
    while let Err(told) = open().await {
        assert!(told.contains("rate-limited") && begun.elapsed() < Duration::from_secs(10), "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let customer = tenant.post("/customers", &json!({})).expect(201).await;
    let heard = futures::future::join_all(all.iter_mut().map(Listener::heard)).await;
    assert!(heard.iter().all(|message| message.sequence() == customer.sequence()));
}

async fn a_process_that_ends_says_so_and_is_not_held_up(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[NOWHERE]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    let last = write_much(&tenant, 8).await;
    let mut live = Listener::open(tenant.get("/events/stream")).await;
    let mut filtered = Listener::open(tenant.get("/events/stream?type=order.refunded&after=0")).await;
    let address = lodging.address();
    let mut stalled = ask_and_stall(address.trim_start_matches("http://"), &tenant.secret).await;
    tenant.post("/customers", &json!({})).expect(201).await;
    assert_eq!(live.heard().await.sequence(), last + 1);
    let begun = Instant::now();
    let (code, ends) = tokio::join!(serve.end(), async { [live.heard().await, filtered.heard().await] });
    assert_eq!(code, 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    ends.iter().for_each(|end| end.assert_end("closing"));
    assert_eq!(ends[0].id, (last + 1).to_string());
    assert_eq!((live.next().await, filtered.next().await), (None, None));
    // The other end is gone, whether or not anybody reads.
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest).await;

    let serve = Running::start(&lodging, "serve", &[NOWHERE]);
    ready(&tenant).await;
    let next = tenant.post("/customers", &json!({})).expect(201).await;
    let mut back = Listener::open(tenant.get("/events/stream").header("last-event-id", &ends[0].id)).await;
    assert_eq!(back.heard().await.sequence(), next.sequence());
    drop(back);
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn a_log_that_goes_back_ends_its_streams(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[NOWHERE]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    create(&tenant, "ada").await;
    let kept = place(&tenant, "kept", "ext:ada", 5).await;
    let backup = Backup::take(&lodging).await;
    let lost = place(&tenant, "lost", "ext:ada", 7).await;
    // The connections were broken, and every one of them costs a try.
    let mut live = loop {
        if let Ok(live) = Listener::try_open(tenant.get("/events/stream")).await {
            break live;
        }
    };
    assert_eq!(live.last, lost.header("annals-sequence"));
    backup.restore().await;
    let next = place(&tenant, "next", "ext:ada", 11).await;
    live.heard().await.assert_end("log-restored");
    assert_eq!(live.last, lost.header("annals-sequence"));
    assert_eq!(live.next().await, None);
    let told = refused(|| tenant.get("/events/stream").header("last-event-id", &live.last), 409, "log-restored").await;
    assert_eq!(told.body["sequence"], kept.sequence(), "{}", told.text);
    // From what is left it goes on, in the life that followed.
    let back = told.body["sequence"].to_string();
    let mut live = loop {
        if let Ok(mut live) = Listener::try_open(tenant.get("/events/stream").header("last-event-id", &back)).await
            && let Some(message) = live.next().await
            && message.name != "end"
        {
            assert_eq!((message.id.as_str(), message.sequence()), (next.header("annals-sequence"), next.sequence()));
            break live;
        }
    };
    let last = place(&tenant, "last", "ext:ada", 1).await;
    assert_eq!(live.heard().await.id, last.header("annals-sequence"));
    assert!(live.last.ends_with("@2"), "{}", live.last);
    drop(live);
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

/// How often tables that streams read were looked into.
async fn looks(lodging: &Lodging) -> Vec<(String, i64)> {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    let looks = sqlx::query_as(
        "SELECT relname::text, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables
         WHERE relname IN ('events', 'tenant_heads', 'api_key_lookup', 'subjects') ORDER BY 1",
    );
    let looks = looks.fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    looks
}

async fn idle_streams_ask_nothing_of_postgres(_: &House) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[NOWHERE]);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let tenant = lodging.tenant().await;
        ready(&tenant).await;
        let calls = (0..50).map(|_| Listener::open(tenant.get("/events/stream")));
        streams.extend(futures::future::join_all(calls).await);
    }
    // By the first sign of life PostgreSQL has counted what opening them took.
    let alive = futures::future::join_all(streams.iter_mut().map(Listener::next)).await;
    assert!(alive.iter().flatten().all(|message| message.comments), "{alive:?}");
    let before = looks(&lodging).await;
    let alive = futures::future::join_all(streams.iter_mut().map(Listener::next)).await;
    assert!(alive.iter().flatten().all(|message| message.comments), "{alive:?}");
    let after = looks(&lodging).await;
    assert!(before.len() == 4 && before.iter().any(|(_, looks)| *looks > 0), "{before:?}");
    assert_eq!(before, after, "150 streams said twice that they are alive");
    drop(streams);
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn a_page_is_bounded_in_events_and_in_bytes(house: &House) {
    let tenant = house.tenant().await;
    let customer = tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    for amount in 1..=10 {
        tenant.post("/orders", &order("ext:c", amount)).expect(201).await;
    }
    let (begin, end) = (customer.sequence(), customer.sequence() + 10);
    let page = async |until, filter: EventFilter, limit, bytes| {
        let page = house.store.read_tenant_within(tenant.id.uuid(), begin, until, &filter, (limit, bytes)).await;
        let (events, stands) = page.unwrap();
        let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences.iter().collect::<HashSet<_>>().len(), sequences.len());
        assert!(sequences.iter().copied().eq(begin + 1..=begin + sequences.len() as i64), "{sequences:?}");
        (sequences.len(), stands)
    };
    let any = EventFilter::default;
    assert_eq!(page(end, any(), 100, 1_000_000).await, (10, end), "all there is");
    assert_eq!(page(end, any(), 4, 1_000_000).await, (4, begin + 4), "so many");
    assert_eq!(page(end, any(), 10, 1_000_000).await, (10, end));
    assert_eq!(page(end, any(), 100, 1).await, (1, begin + 1), "one at least");
    let (count, stands) = page(end, any(), 100, 1_500).await;
    assert!((2..10).contains(&count) && stands == begin + count as i64, "{count} events in 1,500 bytes");
    assert_eq!(page(begin + 3, any(), 100, 1_000_000).await, (3, begin + 3));
    let refunds = EventFilter { event_type: Some("order.refunded".into()), stream: None };
    assert_eq!(page(end, refunds, 100, 1_000_000).await, (0, end), "nothing that fits, up to the end");
    assert_eq!(page(end + 5, any(), 100, 1_000_000).await, (10, end + 5));
}
