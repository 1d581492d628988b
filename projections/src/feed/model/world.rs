//! The world of the model, and everything that may happen in it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use chrono::DateTime;
use eventstore::{HighWater, Incarnation, RelayCursor};
use uuid::Uuid;

use super::actors::{Backup, Draw, Log, PARTITIONS, Projector, Relay, View, Without};
use crate::checkpoint::{COUNT, Checkpoints, Moves, Slots, Step};
use crate::feed::Message;
use crate::feed::log::Slotted;
use crate::feed::rules::{self, Course, Reaction};

pub(super) struct World {
    draw: Draw,
    without: Without,
    /// Nothing goes wrong any more.
    quiet: bool,
    /// Whether log or rows have changed since they were compared.
    pub(super) changed: bool,
    pub(super) log: Log,
    cursor: RelayCursor,
    kafka: [Vec<Option<Message>>; PARTITIONS as usize],
    pub(super) view: View,
    backup: Option<Backup>,
    /// Every event that Kafka has ever taken.
    taken: HashSet<Uuid>,
    /// The last one leads; the others are zombies.
    relays: Vec<Relay>,
    /// Those that the group has given all partitions to.
    projectors: Vec<Projector>,
    zombies: Vec<Projector>,
}

impl World {
    pub(super) fn new(seed: u64, without: Without) -> Self {
        let view = View { incarnation: 1, positions: [0; COUNT], rows: Default::default() };
        let lives = vec![Incarnation { id: 1, first_position: 1 }];
        let mut world = Self {
            draw: Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            without,
            quiet: false,
            changed: false,
            log: Log { events: Vec::new(), lives, highest: 1, now: DateTime::UNIX_EPOCH },
            cursor: RelayCursor::default(),
            kafka: Default::default(),
            view,
            backup: None,
            taken: HashSet::new(),
            relays: Vec::new(),
            projectors: Vec::new(),
            zombies: Vec::new(),
        };
        world.lead(0);
        world.rebalance();
        world
    }

    /// A new relay leads, from the stored cursor or from one that was stored a little earlier.
    fn lead(&mut self, earlier: usize) {
        let position = (self.cursor.position - i64::try_from(earlier).unwrap()).max(0);
        let course = Course::from(self.log.cursor(position), self.log.incarnations(), PARTITIONS);
        self.relays.push(Relay { course, memory: None, in_flight: VecDeque::new() });
        if self.relays.len() > 6 {
            self.relays.remove(0);
        }
    }

    /// The group shares its partitions out anew; whoever had them may not have heard.
    fn rebalance(&mut self) {
        self.zombies.append(&mut self.projectors);
        let excess = self.zombies.len().saturating_sub(4);
        self.zombies.drain(..excess);
        let shares = if self.draw.once_in(2) { vec![vec![0, 1]] } else { vec![vec![0], vec![1]] };
        for partitions in shares {
            let mut checkpoints = Checkpoints::new("model", 1, 1);
            checkpoints.slots = Slots::of_partitions(&partitions, PARTITIONS);
            // Offsets are hints: they lie anywhere.
            let offsets = [0, 1].map(|partition: usize| self.draw.below(self.kafka[partition].len() + 1));
            let (incarnations, pending) = (self.log.incarnations(), Vec::new());
            let mut projector = Projector { checkpoints, incarnations, partitions, offsets, pending, over: false };
            self.begin(&mut projector);
            self.projectors.push(projector);
        }
    }

    fn relay_step(&mut self, index: usize) {
        let mut relay = self.relays.remove(index);
        let alive = match self.draw.below(10) {
            0 => {
                self.beat(&mut relay);
                true
            }
            1..=3 => Self::acknowledge(&mut relay),
            4 => {
                self.save(&relay);
                true
            }
            _ => {
                self.publish(&mut relay);
                true
            }
        };
        // After an error the producer is thrown away, and what it has on its way with it.
        if alive {
            self.relays.insert(index, relay);
        } else if index == self.relays.len() {
            self.lead(0);
        }
    }

    fn publish(&mut self, relay: &mut Relay) {
        let events = relay.memory.as_ref().unwrap_or(&self.log.events);
        let Some(slotted) = events.get(usize::try_from(relay.course.sent()).unwrap()).cloned() else { return };
        let (slot, position, event_id) = (slotted.slot, slotted.event.position, slotted.event.event_id);
        let envelope = relay.course.send(slot, position);
        let event = if self.draw.once_in(10) { None } else { Some(slotted) };
        let (incarnation, previous) = (envelope.incarnation, envelope.previous);
        let message = Message::Event { incarnation, slot, position, previous, event };
        let current = relay.memory.is_none();
        assert!(!current || message.counts(&self.log.incarnations()), "what is published now counts");
        let taken = self.produce(envelope.partition, message);
        if taken {
            self.taken.insert(event_id);
        }
        relay.in_flight.push_back((Some((slot, position)), taken));
    }

    fn beat(&mut self, relay: &mut Relay) {
        if self.without == Without::Heartbeats {
            return;
        }
        for beat in relay.course.beats() {
            let message = Message::Beat { incarnation: beat.incarnation, lasts: beat.lasts, covered: beat.covered };
            let taken = self.produce(beat.partition, message);
            relay.in_flight.push_back((None, taken));
        }
    }

    fn produce(&mut self, partition: i32, message: Message) -> bool {
        let taken = self.quiet || !self.draw.once_in(20);
        if taken {
            self.kafka[usize::try_from(partition).unwrap()].push(Some(message));
        }
        taken
    }

    /// Kafka's word for the next one; whether the relay goes on.
    fn acknowledge(relay: &mut Relay) -> bool {
        match relay.in_flight.pop_front() {
            Some((_, false)) => return false,
            Some((Some((slot, position)), true)) => relay.course.acknowledge(slot, position),
            Some((None, true)) | None => {}
        }
        true
    }

    /// The statement that moves the cursor.
    fn save(&mut self, relay: &Relay) {
        let (cursor, newest) = (relay.course.acknowledged(), self.log.incarnations().newest().id);
        let fits = cursor.position <= self.log.end() && relay.course.newest() == newest;
        if fits && self.cursor.position <= cursor.position {
            let events = self.log.events.iter().take(usize::try_from(cursor.position).unwrap());
            let missing = events.filter(|of| !self.taken.contains(&of.event.event_id)).count();
            assert_eq!(missing, 0, "the cursor has passed what Kafka never took");
            self.cursor = cursor.clone();
        }
    }

    /// A projector's session begins: rows are adopted, checkpoints read, and the log is caught up with.
    fn begin(&mut self, projector: &mut Projector) {
        projector.incarnations = self.log.incarnations();
        let newest = projector.incarnations.newest().id;
        if self.without != Without::Incarnations {
            let places = self.view.positions.map(|position| HighWater { incarnation: self.view.incarnation, position });
            let end = HighWater { incarnation: newest, position: self.log.end() };
            assert_eq!(rules::beyond(&places, end), None, "a life is opened before anybody goes on");
            if self.view.incarnation < newest {
                if rules::lost(&places, &projector.incarnations) {
                    self.view.rows = Default::default();
                    self.view.positions = [0; COUNT];
                }
                self.view.incarnation = newest;
                self.changed = true;
            }
        }
        let slots = projector.checkpoints.slots;
        projector.checkpoints = Checkpoints::new("model", 1, newest);
        projector.checkpoints.slots = slots;
        projector.checkpoints.believe(self.view.positions);
        projector.pending.clear();
        projector.over = false;
        self.catch_up(projector, 0);
    }

    fn projector_step(&mut self, projector: &mut Projector) {
        if projector.over {
            self.begin(projector);
        }
        for _ in 0..=self.draw.below(4) {
            let partition = projector.partitions[self.draw.below(projector.partitions.len())];
            self.consume(projector, usize::try_from(partition).unwrap());
        }
        if self.draw.once_in(3) {
            self.flush(projector);
        }
    }

    /// Takes the next message of a partition; whether there was one.
    fn consume(&mut self, projector: &mut Projector, partition: usize) -> bool {
        let offset = projector.offsets[partition];
        if offset >= self.kafka[partition].len() {
            // A topic that was made anew is read from its beginning.
            let behind = offset > self.kafka[partition].len();
            projector.offsets[partition] = if behind { 0 } else { offset };
            return behind;
        }
        projector.offsets[partition] += 1;
        // What has expired is passed over.
        let Some(message) = self.kafka[partition][offset].take() else { return true };
        match self.without {
            Without::Nothing | Without::Heartbeats => self.hear(projector, &message),
            _ => self.hear(projector, &self.mistaken(projector, &message)),
        }
        self.kafka[partition][offset] = Some(message);
        true
    }

    /// The message as it is heard where a rule is left out.
    fn mistaken(&self, projector: &Projector, message: &Message) -> Message {
        let lives = &projector.incarnations;
        match message {
            Message::Event { incarnation, slot, position, previous, event } => {
                let ours = self.without == Without::Incarnations;
                let incarnation = if ours { lives.owner(*position) } else { *incarnation };
                let previous = if self.without == Without::Gaps { 0 } else { *previous };
                Message::Event { incarnation, slot: *slot, position: *position, previous, event: event.clone() }
            }
            Message::Beat { incarnation, lasts, covered } => {
                let ours = self.without == Without::Incarnations;
                let incarnation = if ours { lives.newest().id } else { *incarnation };
                Message::Beat { incarnation, lasts: lasts.clone(), covered: *covered }
            }
        }
    }

    fn hear(&mut self, projector: &mut Projector, message: &Message) {
        if !message.counts(&projector.incarnations) {
            return;
        }
        match (rules::react(&projector.checkpoints, message), message) {
            (Reaction::Take(event), _) => Self::take(projector, event.clone()),
            (Reaction::CatchUp(least), _) => self.catch_up(projector, least),
            (Reaction::Pass, Message::Event { event: Some(event), .. }) if self.without == Without::Duplicates => {
                Self::take(projector, event.clone());
            }
            (Reaction::Pass, _) => {}
        }
        rules::note(&mut projector.checkpoints, message);
    }

    fn take(projector: &mut Projector, slotted: Slotted) {
        projector.checkpoints.cover(slotted.slot, slotted.event.position);
        projector.pending.push(slotted);
    }

    /// As the runner reads the log; it may be stopped on the way.
    fn catch_up(&mut self, projector: &mut Projector, least: i64) {
        let mut at = projector.checkpoints.low();
        while at < self.log.end().max(least) && !self.stops() {
            let restored = projector.incarnations.newest() != self.log.incarnations().newest();
            if restored && self.without != Without::Incarnations {
                projector.over = true;
                return;
            }
            let from = usize::try_from(at).unwrap();
            let stretch = 1 + self.draw.below(32);
            let Some(last) = self.log.events.iter().skip(from).take(stretch).next_back() else { break };
            at = last.event.position;
            for slotted in &self.log.events[from..usize::try_from(at).unwrap()] {
                if projector.checkpoints.step(slotted.slot, slotted.event.position, 0) == Step::Apply {
                    Self::take(projector, slotted.clone());
                }
            }
            projector.checkpoints.cover_all(at);
        }
    }

    fn stops(&mut self) -> bool {
        !self.quiet && self.draw.once_in(40)
    }

    /// Commits what is in hand, in batches, and sometimes what heartbeats have covered.
    fn flush(&mut self, projector: &mut Projector) {
        let mut events = std::mem::take(&mut projector.pending);
        while !events.is_empty() && !projector.over {
            let rest = events.split_off(1 + self.draw.below(events.len()));
            let ends: BTreeMap<u8, i64> = events.iter().map(|of| (of.slot, of.event.position)).collect();
            let mut busy = Slots::default();
            rest.iter().for_each(|slotted| busy.insert(slotted.slot));
            let moves = projector.checkpoints.moves(&ends.into_iter().collect::<Vec<_>>(), busy, false);
            self.commit(projector, &moves, &events);
            events = rest;
        }
        if !projector.over && self.draw.once_in(3) {
            let moves = projector.checkpoints.moves(&[], Slots::default(), true);
            self.commit(projector, &moves, &[]);
        }
    }

    /// One transaction: the checkpoints are compared and moved, the rows written.
    fn commit(&mut self, projector: &mut Projector, moves: &Moves, batch: &[Slotted]) {
        let slots = moves.slots.iter().map(|slot| usize::try_from(*slot).unwrap());
        let as_expected =
            slots.clone().zip(&moves.expected).all(|(slot, expected)| self.view.positions[slot] == *expected);
        let ours = projector.checkpoints.incarnation == self.view.incarnation;
        if !as_expected || !(ours || self.without == Without::Incarnations) {
            projector.over = true;
            return;
        }
        self.changed |= !batch.is_empty();
        slots.zip(&moves.new).for_each(|(slot, new)| self.view.positions[slot] = *new);
        for slotted in batch {
            self.view.rows[usize::from(slotted.slot)].push(slotted.event.clone());
        }
        projector.checkpoints.committed(moves);
    }

    pub(super) fn step(&mut self) {
        match self.draw.below(1000) {
            0..250 => self.log.append(&mut self.draw),
            250..480 => self.relay_step(self.relays.len() - 1),
            480..510 => {
                let earlier = self.draw.below(4);
                self.lead(earlier);
            }
            510..580 => {
                let index = self.draw.below(self.relays.len());
                self.relay_step(index);
            }
            580..870 => {
                let index = self.draw.below(self.projectors.len());
                let mut projector = self.projectors.remove(index);
                self.projector_step(&mut projector);
                self.projectors.push(projector);
            }
            870..910 if !self.zombies.is_empty() => {
                let index = self.draw.below(self.zombies.len());
                let mut zombie = self.zombies.remove(index);
                self.projector_step(&mut zombie);
                self.zombies.push(zombie);
            }
            910..930 => self.rebalance(),
            930..940 => self.fall_behind(),
            940..950 => self.back_up(),
            950..957 => self.restore(),
            _ => self.break_kafka(),
        }
    }

    /// A partition loses its end or its beginning, or the whole topic is made anew.
    fn break_kafka(&mut self) {
        match self.draw.below(5) {
            0 | 1 => self.cut_tail(),
            2 | 3 => {
                let (partition, count) = (self.draw.below(2), 1 + self.draw.below(8));
                self.kafka[partition].iter_mut().take(count).for_each(|message| *message = None);
            }
            _ => self.kafka.iter_mut().for_each(Vec::clear),
        }
    }

    fn cut_tail(&mut self) {
        let (partition, count) = (self.draw.below(2), 1 + self.draw.below(5));
        let left = self.kafka[partition].len().saturating_sub(count);
        self.kafka[partition].truncate(left);
    }

    /// A projector that can't keep up loses what was delivered, and reads the log.
    fn fall_behind(&mut self) {
        let index = self.draw.below(self.projectors.len());
        let mut projector = self.projectors.remove(index);
        let lengths = [0, 1].map(|partition: usize| self.kafka[partition].len());
        projector.offsets = lengths;
        self.catch_up(&mut projector, 0);
        self.projectors.push(projector);
    }

    fn back_up(&mut self) {
        let (log, cursor, view) = (self.log.clone(), self.cursor.position, self.view.clone());
        self.backup = Some(Backup { log, cursor, view });
    }

    /// The log goes back, to a backup or a little: alone, or with the read models in one database. A backup may be of
    /// another life than the one that went on after it.
    fn restore(&mut self) {
        if self.log.end() < 6 {
            return;
        }
        let before = self.log.events.clone();
        let little = self.log.end() - 1 - i64::try_from(self.draw.below(5)).unwrap();
        // It is kept while the log goes on in another life.
        let backup = if self.draw.once_in(2) { self.backup.take() } else { None };
        match backup {
            Some(backup) => {
                self.log = Log { highest: self.log.highest, ..backup.log };
                self.cursor.position = backup.cursor;
                if self.draw.once_in(2) {
                    self.view = backup.view;
                }
                self.log.restore(self.log.end(), &mut self.draw);
            }
            None => self.log.restore(little, &mut self.draw),
        }
        self.changed = true;
        self.cursor = self.log.cursor(self.cursor.position.min(self.log.end()));
        // Relays of before still hold what they had read.
        for relay in &mut self.relays {
            relay.memory.get_or_insert_with(|| before.clone());
        }
        self.lead(0);
    }

    /// All is published, and the last of it may be lost once more. From then on all goes well: heartbeats come, and the
    /// projectors that have the partitions read them.
    pub(super) fn settle(&mut self) {
        self.quiet = true;
        self.lead(0);
        let mut relay = self.relays.pop().unwrap();
        while relay.course.acknowledged().position < self.log.end() {
            self.publish(&mut relay);
            assert!(Self::acknowledge(&mut relay));
        }
        if self.draw.once_in(2) {
            self.cut_tail();
        }
        let mut projectors = std::mem::take(&mut self.projectors);
        // A topic that was made anew may be as long as it was read before: the next message tells.
        for _ in 0..2 {
            self.beat(&mut relay);
            projectors.iter_mut().for_each(|projector| self.drain(projector));
        }
    }

    /// A projector reads all that there is.
    fn drain(&mut self, projector: &mut Projector) {
        if projector.over || projector.incarnations.newest() != self.log.incarnations().newest() {
            self.begin(projector);
        }
        for partition in projector.partitions.clone() {
            while self.consume(projector, usize::try_from(partition).unwrap()) {}
        }
        self.flush(projector);
        if projector.over {
            self.begin(projector);
            self.flush(projector);
        }
    }
}
