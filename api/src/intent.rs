//! What the body of a command is: typed, with its references looked up, and then one command on one aggregate.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::text::ExternalId;
use domain::{Aggregate, StreamType};
use futures::StreamExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::call::Call;
use crate::extract::ids::Referent;
use crate::problem::Problem;

/// How many references are looked up at a time.
const LOOK_UPS: usize = 32;

/// A body that becomes one command on `A`. It is no command itself: what callers write and what the domain wants may
/// change apart.
pub trait Intent<A: Aggregate>: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// One that works, for the API's description.
    fn example() -> Value;

    /// The resources that it names, each with its pointer: looked up before the command is made.
    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        Vec::new()
    }

    /// What the caller names the resource that it creates.
    fn external_id(&self) -> Option<&str> {
        None
    }

    /// When it happened, where an import says so, and the pointer of the field that does.
    fn occurred_at(&self) -> Option<(&'static str, DateTime<Utc>)> {
        None
    }

    /// Looks up what else the command needs, once the references are known.
    fn complete<'a>(&'a mut self, _call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async { Ok(()) })
    }

    /// The command on the resource of that id.
    fn command(self, id: A::Id, call: &Call) -> Result<A::Command, Problem>;
}

/// Looks up what the intents of one request refer to, all external ids of one kind in one look. Gives the problems, by
/// the index of the intent.
pub async fn resolve<A: Aggregate, I: Intent<A>>(
    call: &Call,
    intents: Vec<(usize, &mut I)>,
) -> Result<HashMap<usize, Problem>, Problem> {
    let mut references = Vec::new();
    for (index, intent) in intents {
        references.extend(intent.references().into_iter().map(|(pointer, referent)| (index, pointer, referent)));
    }
    let (external, ours): (Vec<_>, Vec<_>) = references.into_iter().partition(|(_, _, r)| r.external().is_some());
    let mut problems = HashMap::new();
    find_external(call, external, &mut problems).await?;
    check_ours(call, ours, &mut problems).await?;
    Ok(problems)
}

type Reference<'a> = (usize, &'static str, &'a mut dyn Referent);

/// Whether the reference of that intent and pointer leads to something.
type Look = Result<(usize, &'static str, bool), Problem>;

fn unknown(pointer: &str) -> Problem {
    Problem::field(pointer, "is unknown; create it first, or check the id")
}

/// Puts our ids in the place of the callers'. What has a name is there.
async fn find_external(
    call: &Call,
    references: Vec<Reference<'_>>,
    problems: &mut HashMap<usize, Problem>,
) -> Result<(), Problem> {
    let mut names: HashMap<StreamType, HashSet<&str>> = HashMap::new();
    for (_, _, referent) in &references {
        names.entry(referent.stream()).or_default().extend(referent.external().map(ExternalId::as_str));
    }
    let mut found: HashMap<StreamType, HashMap<String, Uuid>> = HashMap::new();
    for (stream, names) in names {
        let names: Vec<&str> = names.into_iter().collect();
        found.insert(stream, call.state.executor.resolve_many(call.tenant(), stream, &names).await?);
    }
    for (index, pointer, referent) in references {
        let id = referent.external().and_then(|name| found.get(&referent.stream())?.get(name.as_str()).copied());
        match id {
            Some(id) => referent.found(id),
            None => {
                problems.insert(index, unknown(pointer));
            }
        }
    }
    Ok(())
}

/// Checks that what is named by our ids is there.
async fn check_ours(
    call: &Call,
    references: Vec<Reference<'_>>,
    problems: &mut HashMap<usize, Problem>,
) -> Result<(), Problem> {
    let mut looks: Vec<BoxFuture<'static, Look>> = Vec::new();
    for (index, pointer, referent) in references {
        let exists = referent.exists(call.state.executor.clone(), call.tenant());
        looks.push(Box::pin(async move { Ok((index, pointer, exists.await?)) }));
    }
    let mut looks = futures::stream::iter(looks).buffer_unordered(LOOK_UPS);
    while let Some(look) = looks.next().await {
        let (index, pointer, exists) = look?;
        if !exists {
            problems.entry(index).or_insert_with(|| unknown(pointer));
        }
    }
    Ok(())
}
