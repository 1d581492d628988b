use domain::personal::{OPEN, Profile};
use domain::{Personal, RetentionClass as Class};
use serde_json::json;

use super::super::keystore::tests::Dirs;
use super::*;

const TENANT: Uuid = Uuid::from_u128(7);
const EVENT: Uuid = Uuid::from_u128(8);

fn person(id: u128) -> Uuid {
    Uuid::from_u128(id)
}

fn process(dirs: &Dirs) -> Keys {
    Keys::new(Arc::new(dirs.open(1)), 0)
}

/// What the log would say about a slot that was stored.
fn row(subject: Subject) -> SubjectRow {
    match subject {
        Subject::Slot { ring, slot, .. } => SubjectRow { ring: Some(ring), slot: Some(slot.into()), erased: false },
        other => SubjectRow { ring: None, slot: None, erased: other == Subject::Erased },
    }
}

/// Resolves people as the vault does, with these rows in the log.
async fn resolve(keys: &Keys, people: &[Uuid], rows: &HashMap<Uuid, SubjectRow>) -> Resolved {
    let life = keys.caches.life(0);
    let known = people.iter().map(|id| match keys.caches.subject(TENANT, *id, life) {
        Some(known) => (*id, known),
        None => (*id, keys.note(TENANT, *id, rows.get(id), life).unwrap()),
    });
    keys.resolve(TENANT, known.collect(), life).await.unwrap()
}

async fn open_value(resolved: &Resolved, value: &mut Value) -> Result<(), VaultError> {
    let mut places = Vec::new();
    walk::sealed_places(value, &mut places)?;
    resolved.open(TENANT, places).await
}

#[tokio::test]
async fn what_one_process_seals_another_opens_until_the_person_is_erased() {
    let dirs = Dirs::new();
    let writer = process(&dirs);
    let life = writer.caches.life(0);
    let (ada, bob) = (person(1), person(2));
    let slots =
        [(ada, writer.allot(TENANT, ada, life).await.unwrap()), (bob, writer.allot(TENANT, bob, life).await.unwrap())];
    let payload = json!({
        "name": Personal::<_, Profile>::open(ada, "Ada"),
        "friends": [{ "age": Personal::<_, Profile>::open(bob, 1.5) }, { "none": Personal::<String, Profile>::erased() }],
        "amount": 3,
    })
    .to_string();
    let places = walk::open_places(&payload).unwrap();
    let resolved = resolve(&writer, &[ada, bob], &HashMap::new()).await;
    let text = resolved.seal(TENANT, EVENT, &payload, &places).unwrap();
    assert!(!text.contains("Ada") && !text.contains(OPEN));
    let again = resolved.seal(TENANT, EVENT, &payload, &places).unwrap();
    assert_ne!(text, again, "a fresh nonce each time");

    let mut rows: HashMap<_, _> = slots.into_iter().map(|(person, slot)| (person, row(slot))).collect();
    let reader = process(&dirs);
    let opened = json!({ "name": "Ada", "friends": [{ "age": 1.5 }, { "none": null }], "amount": 3 });
    let mut value: Value = serde_json::from_str(&text).unwrap();
    open_value(&resolve(&reader, &[ada, bob], &rows).await, &mut value).await.unwrap();
    assert_eq!(value, opened);

    rows.insert(ada, row(Subject::Erased));
    let reader = process(&dirs);
    let resolved = resolve(&reader, &[ada, bob], &rows).await;
    let mut value: Value = serde_json::from_str(&text).unwrap();
    open_value(&resolved, &mut value).await.unwrap();
    assert_eq!(value, json!({ "name": null, "friends": [{ "age": 1.5 }, { "none": null }], "amount": 3 }));
    let refused = resolved.seal(TENANT, EVENT, &payload, &places);
    assert!(matches!(refused, Err(VaultError::SubjectErased(who)) if who == ada));
}

#[tokio::test]
async fn values_moved_into_a_state_open_there_but_not_for_another_tenant() {
    let dirs = Dirs::new();
    let keys = process(&dirs);
    let ada = person(1);
    keys.allot(TENANT, ada, keys.caches.life(0)).await.unwrap();
    let resolved = resolve(&keys, &[ada], &HashMap::new()).await;
    let payload = json!({ "a": { "b": Personal::<_, Profile>::open(ada, json!({ "$sealed": "AQ" })) } }).to_string();
    let text = resolved.seal(TENANT, EVENT, &payload, &walk::open_places(&payload).unwrap()).unwrap();
    let event: Value = serde_json::from_str(&text).unwrap();
    let mut state = json!({ "elsewhere": [event["a"]["b"]] });
    open_value(&resolved, &mut state).await.unwrap();
    assert_eq!(state, json!({ "elsewhere": [{ "$sealed": "AQ" }] }), "what was inside is not opened again");

    let mut foreign = event.clone();
    let mut places = Vec::new();
    walk::sealed_places(&mut foreign, &mut places).unwrap();
    assert!(matches!(resolved.open(person(99), places).await, Err(VaultError::Seal(SealError::OtherTenant))));
}

#[tokio::test]
async fn a_ring_gives_each_person_one_slot_and_a_restart_begins_another() {
    let dirs = Dirs::new();
    let keys = Arc::new(process(&dirs));
    let life = keys.caches.life(0);
    // Each person is named by two callers at once.
    let callers: Vec<_> = (0..600_u128)
        .map(|caller| {
            let keys = keys.clone();
            tokio::spawn(async move { (caller / 2, keys.allot(TENANT, person(caller / 2), life).await.unwrap()) })
        })
        .collect();
    let mut slots = HashMap::new();
    for caller in callers {
        let (person, slot) = caller.await.unwrap();
        assert_eq!(*slots.entry(person).or_insert(slot), slot, "both callers got the same");
    }
    let distinct: std::collections::HashSet<_> = slots.values().map(|slot| format!("{slot:?}")).collect();
    assert_eq!(distinct.len(), 300);
    let rings = |dirs: &Dirs| {
        let files = std::fs::read_dir(dirs.path("one").join("rings").join(TENANT.to_string())).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|is| is == "ring")).count()
    };
    assert_eq!(rings(&dirs), 2, "256 slots each");
    process(&dirs).allot(TENANT, person(1000), 0).await.unwrap();
    assert_eq!(rings(&dirs), 3);
}

#[tokio::test]
async fn a_slot_is_pending_until_it_is_confirmed() {
    let dirs = Dirs::new();
    let keys = process(&dirs);
    let ada = person(1);
    keys.allot(TENANT, ada, keys.caches.life(0)).await.unwrap();
    let pending = super::super::new_slots(&resolve(&keys, &[ada], &HashMap::new()).await, &[ada]);
    assert_eq!(pending.len(), 1);
    assert_eq!(super::super::new_slots(&resolve(&keys, &[ada], &HashMap::new()).await, &[ada]), pending);
    keys.caches.stored(TENANT, &pending[0]);
    assert!(super::super::new_slots(&resolve(&keys, &[ada], &HashMap::new()).await, &[ada]).is_empty());

    // Another process was first: its slot is taken from the log.
    let bob = person(2);
    keys.allot(TENANT, bob, keys.caches.life(0)).await.unwrap();
    keys.caches.mistaken(TENANT, bob);
    let other = process(&dirs).allot(TENANT, bob, 0).await.unwrap();
    let resolved = resolve(&keys, &[bob], &HashMap::from([(bob, row(other))])).await;
    let Subject::Slot { ring, slot, .. } = other else { unreachable!("it was allotted") };
    assert_eq!(resolved.subject(bob), Subject::Slot { ring, slot, stored: true });
    assert!(super::super::new_slots(&resolved, &[bob]).is_empty());
}

#[tokio::test]
async fn a_key_that_is_lost_without_a_tombstone_is_missing_and_one_that_was_destroyed_stays_so() {
    let dirs = Dirs::new();
    let keys = process(&dirs);
    let (ada, stranger) = (person(1), person(2));
    let slot = keys.allot(TENANT, ada, keys.caches.life(0)).await.unwrap();
    let payload = json!({ "name": Personal::<_, Profile>::open(ada, "Ada") }).to_string();
    let places = walk::open_places(&payload).unwrap();
    let resolved = resolve(&keys, &[ada], &HashMap::new()).await;
    let text = resolved.seal(TENANT, EVENT, &payload, &places).unwrap();
    let missing = |subject, class, destroyed| Some(MissingKey { subject, class, destroyed });
    assert_eq!(resolved.missing([(ada, Class::Profile)].into_iter()), None);
    assert_eq!(
        resolved.missing([(ada, Class::Profile), (stranger, Class::Billing)].into_iter()),
        missing(stranger, Class::Billing, false)
    );

    let Subject::Slot { ring, slot: number, .. } = slot else { unreachable!("it was allotted") };
    keys.blocking(move |files| files.destroy(TENANT, ring, number, &[Class::Profile])).await.unwrap();
    let rows = HashMap::from([(ada, row(slot))]);
    let resolved = resolve(&process(&dirs), &[ada], &rows).await;
    assert_eq!(resolved.missing([(ada, Class::Profile)].into_iter()), missing(ada, Class::Profile, true));
    assert_eq!(
        resolved.missing([(ada, Class::Profile), (stranger, Class::Billing)].into_iter()),
        missing(stranger, Class::Billing, false),
        "what is lost is told first"
    );
    let mut value: Value = serde_json::from_str(&text).unwrap();
    open_value(&resolved, &mut value).await.unwrap();
    assert_eq!(value, json!({ "name": null }));
    let refused = resolved.seal(TENANT, EVENT, &payload, &places);
    assert!(matches!(refused, Err(VaultError::SubjectErased(subject)) if subject == ada));

    for dir in ["one", "two"] {
        let ring = dirs.path(dir).join("rings").join(TENANT.to_string()).join(format!("{ring}.ring"));
        std::fs::remove_file(ring).unwrap();
    }
    let resolved = resolve(&process(&dirs), &[ada], &rows).await;
    assert_eq!(resolved.missing([(ada, Class::Profile)].into_iter()), missing(ada, Class::Profile, false));
    let mut value: Value = serde_json::from_str(&text).unwrap();
    assert!(
        matches!(open_value(&resolved, &mut value).await, Err(VaultError::KeyMissing { subject, .. }) if subject == ada)
    );
}
