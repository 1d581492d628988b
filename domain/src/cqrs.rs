//! The adapter to cqrs-es: any [`Aggregate`] of ours as a `cqrs_es::Aggregate`, for its test framework and its
//! `CqrsFramework`.

use std::marker::PhantomData;

use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Aggregate, Context, Event};

/// An aggregate of ours, as cqrs-es wants it. Its services are the [`Context`] of the command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct Adapted<A: Aggregate>(pub A);

impl<A: Aggregate> cqrs_es::Aggregate for Adapted<A> {
    const TYPE: &'static str = A::STREAM.name;
    type Command = A::Command;
    type Event = Stored<A::Event>;
    type Error = A::Error;
    type Services = Context;

    async fn handle(&mut self, command: A::Command, ctx: &Context, sink: &EventSink<Self>) -> Result<(), A::Error> {
        for event in self.0.decide(command, ctx)? {
            sink.write(Stored(event), self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        self.0.apply(event.0);
    }
}

/// An event of ours with the serde form that cqrs-es asks for: `{"type", "schema_version", "data"}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<E>(pub E);

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    name: String,
    schema_version: i32,
    data: serde_json::Value,
}

impl<E: Event> Serialize for Stored<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.0.event_type();
        let payload = self.0.payload().map_err(serde::ser::Error::custom)?;
        let data = serde_json::from_str(&payload).map_err(serde::ser::Error::custom)?;
        Wire { name: kind.name.to_owned(), schema_version: kind.schema_version, data }.serialize(serializer)
    }
}

impl<'de, E: Event> Deserialize<'de> for Stored<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        E::decode(&wire.name, wire.schema_version, &wire.data.to_string()).map(Self).map_err(serde::de::Error::custom)
    }
}

impl<E: Event> cqrs_es::DomainEvent for Stored<E> {
    fn event_type(&self) -> String {
        self.0.event_type().name.to_owned()
    }

    fn event_version(&self) -> String {
        self.0.event_type().schema_version.to_string()
    }
}

/// Given-when-then on an aggregate, on cqrs-es' own test framework.
#[derive(Debug)]
pub struct Given<A: Aggregate> {
    events: Vec<Stored<A::Event>>,
    ctx: Context,
    aggregate: PhantomData<A>,
}

impl<A: Aggregate> Given<A>
where
    A::Error: PartialEq,
{
    /// What happened before, under the circumstances of the command to come.
    pub fn events(ctx: Context, events: impl IntoIterator<Item = A::Event>) -> Self {
        Self { events: events.into_iter().map(Stored).collect(), ctx, aggregate: PhantomData }
    }

    /// Expects that the command gives just these events.
    pub fn when_then(self, command: A::Command, expected: impl IntoIterator<Item = A::Event>) {
        let expected = expected.into_iter().map(Stored).collect();
        self.executor().when(command).then_expect_events(expected);
    }

    /// Expects that the command is refused for just this reason.
    pub fn when_refused(self, command: A::Command, expected: A::Error) {
        self.executor().when(command).then_expect_error(expected);
    }

    fn executor(self) -> cqrs_es::test::AggregateTestExecutor<Adapted<A>> {
        cqrs_es::test::TestFramework::with(self.ctx).given(self.events)
    }
}
