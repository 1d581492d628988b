use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::files::tests::TempDir;
use super::*;

const TENANT: Uuid = Uuid::from_u128(7);
const ALL: [RetentionClass; 3] = RetentionClass::ALL;

pub(crate) fn root_key(byte: u8) -> RootKey {
    RootKey::from_base64(&STANDARD.encode([byte; 32])).unwrap()
}

/// The two directories of a test's key store.
pub(crate) struct Dirs(TempDir);

impl Dirs {
    pub(crate) fn new() -> Self {
        Self(TempDir::new())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    /// The store as one more process would open it.
    pub(crate) fn open(&self, root: u8) -> KeyStore {
        KeyStore::open(root_key(root), self.path("one"), self.path("two")).unwrap()
    }
}

fn has(ring: &Ring, slot: u8) -> bool {
    ALL.iter().all(|class| ring.key(slot, *class).is_some())
}

fn lacks(ring: &Ring, slot: u8) -> bool {
    ALL.iter().all(|class| ring.key(slot, *class).is_none())
}

/// Nothing stays in a tenant's directories but one ring and the lock.
fn tidy(dirs: &Dirs) -> bool {
    ["one", "two"].iter().all(|dir| {
        let names = fs::read_dir(dirs.path(dir).join("rings").join(TENANT.to_string())).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .all(|name| name == "lock" || name.ends_with(".ring"))
    })
}

#[test]
fn a_wrong_root_key_or_a_copy_in_the_same_place_is_refused_at_once() {
    let dirs = Dirs::new();
    dirs.open(1);
    let open = |root, copy: &str| KeyStore::open(root_key(root), dirs.path("one"), dirs.path(copy));
    assert!(matches!(open(2, "two"), Err(KeyStoreError::WrongRootKey(_))));
    assert!(matches!(open(1, "one"), Err(KeyStoreError::OneDirectory(_))));
    assert!(matches!(open(1, "one/../one"), Err(KeyStoreError::OneDirectory(_))));
    // One of the two checks alone still tells, and damage is mended.
    fs::remove_file(dirs.path("one").join("root-key.check")).unwrap();
    assert!(matches!(open(2, "two"), Err(KeyStoreError::WrongRootKey(_))));
    fs::write(dirs.path("one").join("root-key.check"), b"damaged").unwrap();
    open(1, "two").unwrap();
    fs::remove_file(dirs.path("two").join("root-key.check")).unwrap();
    assert!(matches!(open(2, "two"), Err(KeyStoreError::WrongRootKey(_))));
}

#[test]
fn a_ring_is_the_same_to_every_process_and_either_copy_heals_the_other() {
    let dirs = Dirs::new();
    let ring = dirs.open(1).create_ring(TENANT).unwrap();
    let store = dirs.open(1);
    let paths = store.ring_paths(TENANT, ring.id());
    let whole = fs::read(&paths[0]).unwrap();
    assert_eq!(whole, fs::read(&paths[1]).unwrap());
    for path in &paths {
        for damage in [None, Some(Vec::new()), Some(whole[..5000].to_vec()), Some([&whole[..], b"x"].concat())] {
            match damage {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            assert!(store.ring(TENANT, ring.id()).unwrap().same_as(&ring));
            assert!(store.newest(TENANT, ring.id()).unwrap().1, "both copies are whole again");
        }
    }
    assert!(tidy(&dirs));
    fs::remove_file(&paths[0]).unwrap();
    fs::write(&paths[1], b"damaged").unwrap();
    assert!(matches!(store.ring(TENANT, ring.id()), Err(KeyStoreError::Unreadable(_))));
    fs::remove_file(&paths[1]).unwrap();
    assert!(matches!(store.ring(TENANT, ring.id()), Err(KeyStoreError::Missing(_))));
    assert!(matches!(store.ring(TENANT, Uuid::from_u128(1)), Err(KeyStoreError::Missing(_))));
}

#[test]
fn a_ring_is_served_from_one_copy_even_where_the_other_cannot_be_healed() {
    let dirs = Dirs::new();
    let store = dirs.open(1);
    let ring = store.create_ring(TENANT).unwrap();
    let [first, _] = store.ring_paths(TENANT, ring.id());
    // A directory in the file's place: neither can be read nor replaced.
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();
    assert!(store.ring(TENANT, ring.id()).unwrap().same_as(&ring));
    assert!(store.destroy(TENANT, ring.id(), 3, &ALL).is_err(), "but nothing is destroyed by half");
    assert!(has(&store.ring(TENANT, ring.id()).unwrap(), 3));
}

#[test]
fn destroyed_keys_are_gone_from_both_copies_and_the_others_stay() {
    let dirs = Dirs::new();
    let store = dirs.open(1);
    let ring = store.create_ring(TENANT).unwrap();
    let id = ring.id();
    store.destroy(TENANT, id, 3, &[RetentionClass::Profile]).unwrap();
    let next = store.ring(TENANT, id).unwrap();
    assert!(ring.survives_in(&next, 3, &[RetentionClass::Profile]));
    for _ in 0..2 {
        store.destroy(TENANT, id, 3, &ALL).unwrap();
        let next = store.ring(TENANT, id).unwrap();
        assert_eq!(next.generation(), 2, "what is destroyed is not destroyed again");
        assert!(ring.survives_in(&next, 3, &ALL));
    }
    assert!(tidy(&dirs));
    assert!(matches!(store.destroy(TENANT, Uuid::from_u128(1), 3, &ALL), Err(KeyStoreError::Missing(_))));
}

#[test]
fn an_old_copy_never_brings_destroyed_keys_back() {
    let dirs = Dirs::new();
    let store = dirs.open(1);
    let id = store.create_ring(TENANT).unwrap().id();
    let paths = store.ring_paths(TENANT, id);
    let old = fs::read(&paths[0]).unwrap();
    store.destroy(TENANT, id, 3, &ALL).unwrap();
    for path in &paths {
        fs::write(path, &old).unwrap();
        assert!(lacks(&store.ring(TENANT, id).unwrap(), 3));
        assert_ne!(fs::read(path).unwrap(), old, "the old copy was replaced");
    }
    // Both old: nothing here can tell, the tombstones are replayed.
    for path in &paths {
        fs::write(path, &old).unwrap();
    }
    assert!(has(&store.ring(TENANT, id).unwrap(), 3));
    store.destroy(TENANT, id, 3, &ALL).unwrap();
    assert!(lacks(&store.ring(TENANT, id).unwrap(), 3));
}

#[test]
fn a_destruction_killed_between_any_two_steps_is_carried_on() {
    let steps = 8;
    for done in 0..=steps {
        let dirs = Dirs::new();
        let store = dirs.open(1);
        let ring = store.create_ring(TENANT).unwrap();
        let paths = store.ring_paths(TENANT, ring.id());
        let witnesses = paths.each_ref().map(|path| beside(path, ".witness"));
        for (path, witness) in paths.iter().zip(&witnesses) {
            fs::hard_link(path, witness).unwrap();
        }
        let next = ring.without(3, &ALL);
        let bytes = next.encode(&store.root, nonce().unwrap()).unwrap();
        for step in 0..done {
            let path = &paths[step % 2];
            match step / 2 {
                0 => store.stage(path, &next, &bytes),
                // Killed between keeping the old name and renaming.
                1 if step + 1 == done => files::keep(path, &beside(path, OLD)),
                1 => store.swap(path),
                2 => store.verify(path, &next),
                _ => store.sweep(path),
            }
            .unwrap();
        }

        // A reader comes first in every other round; it must not undo what was done.
        if done % 2 == 0 {
            dirs.open(1).ring(TENANT, ring.id()).unwrap();
        }
        dirs.open(1).destroy(TENANT, ring.id(), 3, &ALL).unwrap();
        let after = dirs.open(1).ring(TENANT, ring.id()).unwrap();
        assert!(ring.survives_in(&after, 3, &ALL), "killed after step {done}");
        for witness in &witnesses {
            assert!(fs::read(witness).unwrap().iter().all(|byte| *byte == 0), "killed after step {done}: old bytes");
            fs::remove_file(witness).unwrap();
        }
        assert!(tidy(&dirs), "killed after step {done}");
    }
}

#[test]
fn processes_that_destroy_heal_and_read_at_once_lose_nothing() {
    let dirs = Dirs::new();
    let ring = dirs.open(1).create_ring(TENANT).unwrap();
    let id = ring.id();
    let workers: Vec<_> = (0..4_u8)
        .map(|worker| {
            let store = dirs.open(1);
            std::thread::spawn(move || {
                for slot in (worker..16).step_by(4) {
                    store.destroy(TENANT, id, slot, &ALL).unwrap();
                    let ring = store.ring(TENANT, id).unwrap();
                    assert!(lacks(&ring, slot) && has(&ring, 100));
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let after = dirs.open(1).ring(TENANT, id).unwrap();
    assert_eq!(after.generation(), 16);
    assert!((0..16).all(|slot| lacks(&after, slot)) && (16..=255).all(|slot| has(&after, slot)));
    assert!(tidy(&dirs));
}

#[test]
fn another_root_key_opens_no_ring_and_heals_none() {
    let dirs = Dirs::new();
    let store = dirs.open(1);
    let ring = store.create_ring(TENANT).unwrap();
    let before = fs::read(&store.ring_paths(TENANT, ring.id())[0]).unwrap();
    let stranger = KeyStore { root: root_key(2), dirs: store.dirs.clone() };
    assert!(matches!(stranger.ring(TENANT, ring.id()), Err(KeyStoreError::Unreadable(_))));
    assert!(matches!(stranger.destroy(TENANT, ring.id(), 3, &ALL), Err(KeyStoreError::Unreadable(_))));
    assert_eq!(fs::read(&store.ring_paths(TENANT, ring.id())[0]).unwrap(), before);
}
