//! Commands on resources.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use commands::Receipt;
use domain::{AnyId, TypedId};
use eventstore::new_id;
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{MAX_ITEMS, Resource, location, name_taken, receipt, refusal, shown_state};
use crate::batch_room::ITEMS_AT_A_TIME;
use crate::call::Call;
use crate::extract::query::Nothing;
use crate::intent::{Intent, resolve};
use crate::operation::Answer;
use crate::problem::Problem;
use crate::strict;

/// Creates one; what was created, and the answer to that.
pub async fn create<A: Resource, I: Intent<A>>(call: &Call) -> Result<(Receipt<A>, Answer), Problem> {
    let keyed = call.keyed(&call.body).await?;
    if let Some(earlier) = replay::<A>(call, keyed.as_ref()).await? {
        let answer = receipt::<A>(&earlier)?.at(&location::<A>(earlier.id));
        return Ok((earlier, answer));
    }
    let mut intent: I = strict::typed(call.body.clone())?;
    if let Some((_, problem)) = resolve::<A, I>(call, vec![(0, &mut intent)]).await?.into_iter().next() {
        return Err(problem);
    }
    let made = execute_new::<A, I>(call, intent, keyed).await?;
    let answer = receipt::<A>(&made)?.at(&location::<A>(made.id));
    Ok((made, answer))
}

/// What an earlier request with the same key came to: before anything is looked up, for the world may have changed.
async fn replay<A: Resource>(call: &Call, keyed: Option<&commands::Keyed>) -> Result<Option<Receipt<A>>, Problem> {
    let Some(keyed) = keyed else { return Ok(None) };
    let earlier = call.state.executor.replay::<A>(call.tenant(), keyed).await;
    earlier.map_err(|error| refusal::<A>(call, error))
}

async fn execute_new<A: Resource, I: Intent<A>>(
    call: &Call,
    mut intent: I,
    keyed: Option<commands::Keyed>,
) -> Result<Receipt<A>, Problem> {
    let occurred_at = intent.occurred_at();
    if let Some((pointer, at)) = occurred_at {
        call.not_in_the_future(pointer, at)?;
    }
    let id = A::Id::from(new_id());
    let mut context = call.command(occurred_at.map(|(_, at)| at)).creating();
    context.if_match = None;
    context.idempotency = keyed;
    intent.complete(call).await?;
    let command = intent.command(id, call)?;
    call.state.executor.execute::<A>(context, id, command).await.map_err(|error| refusal::<A>(call, error))
}

/// Carries a verb out on one.
pub(super) async fn act<A: Resource, I: Intent<A>>(call: &Call) -> Result<Answer, Problem> {
    let keyed = call.keyed(&call.body).await?;
    if let Some(earlier) = replay::<A>(call, keyed.as_ref()).await? {
        return receipt::<A>(&earlier);
    }
    let intent: I = strict::typed(call.body.clone())?;
    let id = call.target::<A>().await?;
    let command = intent_on::<A, I>(call, id, intent).await?;
    execute_on::<A>(call, id, command, keyed).await
}

/// Carries a verb out that says it all.
pub(super) async fn verb<A: Resource>(call: &Call, command: fn(&Call) -> A::Command) -> Result<Answer, Problem> {
    let keyed = call.keyed(&call.body).await?;
    if let Some(earlier) = replay::<A>(call, keyed.as_ref()).await? {
        return receipt::<A>(&earlier);
    }
    strict::typed::<Nothing>(call.body.clone())?;
    let id = call.target::<A>().await?;
    execute_on::<A>(call, id, command(call), keyed).await
}

async fn intent_on<A: Resource, I: Intent<A>>(call: &Call, id: A::Id, mut intent: I) -> Result<A::Command, Problem> {
    if let Some((_, problem)) = resolve::<A, I>(call, vec![(0, &mut intent)]).await?.into_iter().next() {
        return Err(problem);
    }
    intent.complete(call).await?;
    intent.command(id, call)
}

async fn execute_on<A: Resource>(
    call: &Call,
    id: A::Id,
    command: A::Command,
    keyed: Option<commands::Keyed>,
) -> Result<Answer, Problem> {
    let mut context = call.command(None);
    context.idempotency = keyed;
    let done = call.state.executor.execute::<A>(context, id, command).await;
    receipt::<A>(&done.map_err(|error| refusal::<A>(call, error))?)
}

/// Changes what the body names. What is sent back as it was shown says nothing, so that GET then PATCH works.
pub(super) async fn change<A: Resource, I: Intent<A>>(call: &Call) -> Result<Answer, Problem> {
    let keyed = call.keyed(&call.body).await?;
    if let Some(earlier) = replay::<A>(call, keyed.as_ref()).await? {
        return receipt::<A>(&earlier);
    }
    let id = call.target::<A>().await?;
    let known = call.state.executor.load::<A>(call.tenant(), id).await?;
    if !known.exists() {
        return Err(Problem::not_found());
    }
    let mut seen = shown_state::<A>(id, &known)?;
    call.show(&mut seen).await?;
    let intent: I = strict::typed(Value::Object(changed::<A, I>(call.body.clone(), &seen)?))?;
    let command = intent_on::<A, I>(call, id, intent).await?;
    execute_on::<A>(call, id, command, keyed).await
}

/// The fields that differ from what the caller sees; one that can't be changed must not.
fn changed<A: Resource, I: Intent<A>>(body: Value, seen: &Value) -> Result<Map<String, Value>, Problem> {
    let Value::Object(mut body) = body else {
        return Err(Problem::field("", "must be an object"));
    };
    // When it last changed is nothing that anybody means to set, and old news in whatever was read before.
    body.retain(|name, value| name != "updated_at" && seen.get(name) != Some(value));
    let schema = schemars::schema_for!(I);
    let takes = |name: &str| schema.get("properties").and_then(|fields| fields.get(name)).is_some();
    match body.keys().find(|name| seen.get(name.as_str()).is_some() && !takes(name)) {
        Some(name) => {
            let pointer = format!("/{}", strict::escape(name));
            Err(Problem::field(pointer, "is read-only: leave it out, or send it back unchanged"))
        }
        None => Ok(body),
    }
}

/// How many items of a batch are shown before others have their turn.
const SHOWN_AT_A_TIME: usize = 16;

/// How an item of a batch went.
type Item<A> = Result<Receipt<A>, Problem>;

/// Creates many; one bad item harms no other.
pub(super) async fn batch<A: Resource, I: Intent<A>>(mut call: Call) -> Result<Answer, Problem> {
    let begun = Instant::now();
    let items = items(std::mem::take(&mut call.body))?;
    let call = &call;
    let mut outcomes: Vec<Option<Item<A>>> = items.iter().map(|_| None).collect();
    let mut keys = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let keyed = call.keyed(item).await?.map(|keyed| {
            let item = i32::try_from(index).unwrap_or(i32::MAX);
            commands::Keyed { item, status: 201, ..keyed }
        });
        keys.push(keyed);
    }
    replay_items::<A>(call, &keys, &mut outcomes).await?;
    let keyed = keys.iter().any(Option::is_some);
    let intents = intents::<A, I>(call, items, keyed, &mut outcomes).await?;
    let mut names = HashSet::new();
    // Of two items with one name the first is tried first.
    let (first, again): (Vec<_>, Vec<_>) = intents
        .into_iter()
        .partition(|(_, intent)| intent.external_id().is_none_or(|name| names.insert(name.to_owned())));
    create_all::<A, I>(call, first, &mut keys, &mut outcomes, (begun, ITEMS_AT_A_TIME as usize)).await;
    create_all::<A, I>(call, again, &mut keys, &mut outcomes, (begun, 1)).await;
    answer(call, outcomes).await
}

/// Creates these items of a batch that began then, so many at a time.
async fn create_all<A: Resource, I: Intent<A>>(
    call: &Call,
    intents: Vec<(usize, I)>,
    keys: &mut [Option<commands::Keyed>],
    outcomes: &mut [Option<Item<A>>],
    (begun, at_a_time): (Instant, usize),
) {
    let work = intents.into_iter().map(|(index, intent)| -> BoxFuture<'_, (usize, Item<A>)> {
        let keyed = keys[index].take();
        Box::pin(async move {
            let _room = call.state.batch_room.item(|| call.beside_others(), begun).await;
            (index, execute_new::<A, I>(call, intent, keyed).await)
        })
    });
    let mut work = futures::stream::iter(work).buffered(at_a_time);
    while let Some((index, outcome)) = work.next().await {
        outcomes[index] = Some(outcome);
    }
}

/// Lets others have their turn. To show a thousand items takes a core for twenty milliseconds, and whoever asks for little
/// meanwhile would wait for as long: while others do ask, the core rests in between.
async fn let_others_in(call: &Call) {
    match call.beside_others() {
        true => tokio::time::sleep(Duration::from_millis(1)).await,
        false => tokio::task::yield_now().await,
    }
}

async fn answer<A: Resource>(call: &Call, outcomes: Vec<Option<Item<A>>>) -> Result<Answer, Problem> {
    let mut data = Vec::with_capacity(outcomes.len());
    let mut highest = 0;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        if index % SHOWN_AT_A_TIME == SHOWN_AT_A_TIME - 1 {
            let_others_in(call).await;
        }
        data.push(match outcome.unwrap_or_else(|| Err(Problem::unavailable())) {
            Ok(made) => {
                highest = highest.max(made.sequence);
                json!({ "status": 201, "resource": shown_state::<A>(made.id, &made.loaded)? })
            }
            Err(problem) => {
                let problem = problem.beneath(&format!("/items/{index}"));
                json!({ "status": problem.code().status, "problem": problem.to_json(&call.trace.request_id) })
            }
        });
    }
    let answer = Answer::new(json!({ "object": "batch", "data": data }));
    Ok(if highest > 0 { answer.wrote(highest) } else { answer })
}

/// The items of a batch's body.
fn items(body: Value) -> Result<Vec<Value>, Problem> {
    let Value::Object(mut body) = body else { return Err(Problem::field("", "must be an object")) };
    let items = body.remove("items");
    strict::plain(&Value::Object(body.clone()))?;
    if let Some(name) = body.keys().next() {
        let pointer = format!("/{}", strict::escape(name));
        return Err(Problem::of_field(
            crate::problem::codes::UNKNOWN_FIELD,
            pointer,
            "is not a field here; leave it out",
        ));
    }
    match items {
        Some(Value::Array(items)) if (1..=MAX_ITEMS).contains(&items.len()) => Ok(items),
        Some(Value::Array(_)) => Err(Problem::field("/items", format!("must have 1 to {MAX_ITEMS} items"))),
        Some(_) => Err(Problem::field("/items", "must be an array")),
        None => Err(Problem::field("/items", "is required")),
    }
}

/// Answers the items that an earlier request with the same key has carried out.
async fn replay_items<A: Resource>(
    call: &Call,
    keys: &[Option<commands::Keyed>],
    outcomes: &mut [Option<Item<A>>],
) -> Result<(), Problem> {
    let Some(Some(first)) = keys.first() else { return Ok(()) };
    let store = call.state.executor.store();
    let answered = store.idempotency_items(call.tenant().uuid(), &first.key).await?;
    for (outcome, keyed) in outcomes.iter_mut().zip(keys) {
        let Some(keyed) = keyed.as_ref().filter(|keyed| answered.contains_key(&keyed.item)) else { continue };
        let earlier = call.state.executor.replay::<A>(call.tenant(), keyed).await;
        *outcome = earlier.map_err(|error| refusal::<A>(call, error)).transpose();
    }
    Ok(())
}

/// The items that are left, typed, with their references looked up; without a key, those whose name is taken already are
/// told at once.
async fn intents<A: Resource, I: Intent<A>>(
    call: &Call,
    items: Vec<Value>,
    keyed: bool,
    outcomes: &mut [Option<Item<A>>],
) -> Result<Vec<(usize, I)>, Problem> {
    let mut intents = Vec::with_capacity(items.len());
    for (index, item) in
        items.into_iter().enumerate().filter(|(index, _)| outcomes[*index].is_none()).collect::<Vec<_>>()
    {
        match strict::plain(&item).and_then(|()| strict::typed::<I>(item)) {
            Ok(intent) => intents.push((index, intent)),
            Err(problem) => outcomes[index] = Some(Err(problem)),
        }
    }
    let references = intents.iter_mut().map(|(index, intent)| (*index, intent)).collect();
    for (index, problem) in resolve::<A, I>(call, references).await? {
        outcomes[index] = Some(Err(problem));
    }
    // Under a key a name may be taken by the first request itself, which goes on meanwhile: only the executor can tell.
    let taken = if keyed { HashMap::new() } else { taken::<A, I>(call, &intents).await? };
    for (index, intent) in &intents {
        if let Some(holder) = intent.external_id().and_then(|name| taken.get(name))
            && outcomes[*index].is_none()
        {
            let kind = domain::aggregate::EXTERNAL_ID;
            outcomes[*index] = Some(Err(name_taken(kind, AnyId::new(A::STREAM.prefix, *holder))));
        }
    }
    intents.retain(|(index, _)| outcomes[*index].is_none());
    Ok(intents)
}

/// Which of the names are taken, in one look: an import that is run again should not try each.
async fn taken<A: Resource, I: Intent<A>>(
    call: &Call,
    intents: &[(usize, I)],
) -> Result<HashMap<String, Uuid>, Problem> {
    let names: Vec<&str> = intents.iter().filter_map(|(_, intent)| intent.external_id()).collect();
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(call.state.executor.resolve_many(call.tenant(), A::STREAM, &names).await?)
}
