//! Who listens to Server-Sent Events.

use std::time::Duration;

use serde_json::Value;

use crate::client::Call;

/// Longer than any pause between two messages.
const PATIENCE: Duration = Duration::from_secs(40);

/// A stream that is being read.
pub(crate) struct Listener {
    response: reqwest::Response,
    bytes: Vec<u8>,
    /// The last `id` that came.
    pub(crate) last: String,
}

/// A message of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Null where there is none: then it only says how far the stream has come.
    pub(crate) data: Value,
    /// Whether it has a comment.
    pub(crate) comments: bool,
}

impl Message {
    pub(crate) fn parse(text: &str) -> Self {
        let mut message = Self::default();
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => message.id = id.to_owned(),
                Some(("event", name)) => message.name = name.to_owned(),
                Some(("data", data)) => message.data = serde_json::from_str(data).unwrap(),
                Some(("", _)) => message.comments = true,
                Some(("retry", retry)) => assert!(retry.parse::<u32>().is_ok()),
                _ => panic!("{line} is no line of an event stream"),
            }
        }
        message
    }

    /// The sequence of the event.
    pub(crate) fn sequence(&self) -> i64 {
        self.data["sequence"].as_i64().unwrap_or_else(|| panic!("{self:?} is no event"))
    }

    pub(crate) fn assert_end(&self, reason: &str) {
        assert_eq!((self.name.as_str(), self.data["reason"].as_str()), ("end", Some(reason)), "{self:?}");
        assert_eq!(self.data["sequence"], self.id, "{self:?}");
        assert!(self.data["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
    }
}

impl Listener {
    /// Begins to listen; the place where it begins is `last`.
    pub(crate) async fn open(call: Call) -> Self {
        Self::try_open(call).await.unwrap_or_else(|text| panic!("no stream: {text}"))
    }

    /// The same, or what was answered in its place.
    pub(crate) async fn try_open(call: Call) -> Result<Self, String> {
        let response = call.begin().await.map_err(|error| error.to_string())?;
        if response.status() != 200 {
            return Err(format!("{} {}", response.status(), response.text().await.unwrap_or_default()));
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let begins = response.headers()["annals-read-sequence"].to_str().unwrap().to_owned();
        let mut listener = Self { response, bytes: Vec::new(), last: String::new() };
        let first = listener.next().await.ok_or("it ended before it began")?;
        assert_eq!((&first.id, &first.data), (&begins, &Value::Null));
        Ok(listener)
    }

    /// The next message; none at the end, or where the connection breaks.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
                break end;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a stream is never silent");
            self.bytes.extend(chunk.ok().flatten()?);
        };
        let text: Vec<u8> = self.bytes.drain(..end + 2).collect();
        let message = Message::parse(std::str::from_utf8(&text).unwrap().trim_end());
        self.last.clone_from(&message.id);
        Some(message)
    }

    /// The next message that is more than a sign of life.
    pub(crate) async fn heard(&mut self) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.data != Value::Null {
                return message;
            }
        }
    }

    /// The next so many events.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let message = self.heard().await;
            assert_eq!((message.name.as_str(), message.data["object"].as_str()), ("", Some("event")), "{message:?}");
            events.push(message.data);
        }
        events
    }
}
