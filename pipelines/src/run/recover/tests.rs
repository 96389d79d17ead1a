//! Tables: a journal as it was left, checkpoints as they are there, and where a run starts or why it does not.

use millstream_connectors::broker::simulated::Simulated;
use millstream_connectors::broker::{Append, Broker, Message};
use millstream_engine::binding::{Binding, Range};
use millstream_engine::publish::{Progress, Tally};
use millstream_engine::source::Position;

use super::*;
use crate::run::journal::{Record, Rollback, Writer};
use crate::run::tenure::{Appended, Tenure, range};

const TOPIC: &str = "shop.progress";

/// The parts of `first`; in `second`, model `m` is another; in `third`, only what keeps no state.
fn definition(name: &str) -> Definition {
    let sources = ["orders", "questions"].map(str::to_owned).to_vec();
    let model = if name == "second" { "4" } else { "3" };
    let parts = [("source/orders", "1"), ("request/questions", "2"), ("m", model), ("n", "5")];
    let fingerprints = parts.map(|(name, fingerprint)| (name.to_owned(), fingerprint.to_owned())).into();
    Definition { definition: name.to_owned(), sources, fingerprints, ..Definition::default() }
}

/// An epoch that takes ten orders, and answers one question; a partition is idle in every third.
fn progress(epoch: Epoch, answers: &str) -> Progress {
    let part = |source, lo, hi| Range { source, partition: 0, lo, hi, count: hi - lo, digest: "d".to_owned() };
    Progress {
        binding: Binding {
            epoch,
            ranges: vec![part(0, 10 * epoch, 10 * epoch + 10), part(1, epoch, epoch + 1)],
            now_ms: epoch as i64,
            seed: u64::MAX - epoch,
            idle: if epoch % 6 < 3 { vec![(0, 1)] } else { vec![] },
        },
        revisions: [(
            "m".to_owned(),
            millstream_engine::publish::RevisionMark { revision: epoch, digest: "r".to_owned() },
        )]
        .into(),
        answers: Tally { count: 1, digest: answers.to_owned() },
    }
}

/// A pipeline's journal, with a checkpoint after some epochs.
struct World {
    broker: Simulated,
    candidates: Vec<Candidate>,
    definition: Definition,
    accept_loss: bool,
    log_is_whole: bool,
}

/// What happens.
enum Do {
    /// A run commits the epochs up to this one, with these answers; checkpoints are made before these epochs.
    Commit(Epoch, &'static str, &'static [Epoch]),
    /// A rollback to an epoch, skipping orders.
    Rollback(Epoch, Option<(u64, u64)>),
    /// Retention removes what is before an epoch's record, or all.
    Trim(Epoch),
    Empty,
    /// The topic is created anew.
    Anew,
    /// The newest manifest cannot be read.
    Corrupt,
    /// The definition changes.
    Redefine(&'static str),
}

impl World {
    fn after(happened: &[Do]) -> Self {
        let broker = Simulated::new();
        broker.create(TOPIC, 1).expect("a new topic");
        let mut world = Self {
            broker,
            candidates: vec![],
            definition: definition("first"),
            accept_loss: false,
            log_is_whole: true,
        };
        let mut next = 0;
        for what in happened {
            match what {
                Do::Commit(last, answers, checkpoints) => {
                    world.commit(next..=*last, answers, checkpoints);
                    next = last + 1;
                }
                Do::Rollback(to, skip) => {
                    let orders = |(lo, hi)| Skip { source: "orders".to_owned(), partition: 0, lo, hi };
                    let skip = skip.map(orders).into_iter().collect();
                    let rollback = Rollback { to: *to, version: "v".to_owned(), skip };
                    world.append(vec![Record::Rollback(rollback).message(0).expect("json")]);
                }
                Do::Trim(epoch) => world.trim(*epoch),
                Do::Empty => world.discard(range(&world.broker, TOPIC).expect("it is there").1),
                Do::Anew => {
                    world.broker = Simulated::new();
                    world.broker.create(TOPIC, 1).expect("a new topic");
                    next = 0;
                }
                Do::Corrupt => world.candidates[0].note = Err(Fault::world("its checksum differs")),
                Do::Redefine(fingerprint) => world.definition = definition(fingerprint),
            }
        }
        world
    }

    fn tenure(&self) -> Tenure {
        let says = self.definition.says().expect("an object");
        Tenure::take(Arc::new(self.broker.clone()), TOPIC, says, 0).expect("no faults")
    }

    fn append(&self, messages: Vec<Message>) {
        let append = Append { topic: TOPIC.to_owned(), messages };
        assert!(matches!(self.tenure().append(&[append]), Ok(Appended::Done)));
    }

    fn discard(&self, before: u64) {
        self.broker.discard(TOPIC, &[Position { partition: 0, offset: before }]).expect("it is there");
    }

    /// Removes what is before an epoch's record.
    fn trim(&self, epoch: Epoch) {
        let tenure = self.tenure();
        let history = History::read(&tenure, tenure.first().expect("no faults"), &BTreeSet::new()).expect("a journal");
        self.discard(history.past(epoch).expect("it is there").offset);
    }

    fn commit(&mut self, epochs: std::ops::RangeInclusive<Epoch>, answers: &str, checkpoints: &[Epoch]) {
        let decision = self.choose().expect("a run can start");
        let ledger = Ledger::new(self.definition.clone(), &decision);
        let mut tenure = self.tenure();
        let mut writer = Writer::new(self.definition.clone());
        for epoch in epochs {
            if checkpoints.contains(&epoch) {
                let note = ledger.note(epoch).expect("it is known");
                // As it comes back from its manifest.
                let note = serde_json::to_value(note).and_then(serde_json::from_value).expect("json");
                self.candidates.insert(0, Candidate { epoch, note: Ok(note) });
            }
            let progress = progress(epoch, answers);
            let messages = writer.messages(tenure.incarnation(), [&progress].into_iter()).expect("json");
            let digest = millstream_engine::digest::of(messages[0].value.as_deref().unwrap_or_default());
            let from = tenure.seen();
            let append = Append { topic: TOPIC.to_owned(), messages };
            assert!(matches!(tenure.append(&[append]), Ok(Appended::Done)));
            ledger.add(epoch, digest, from, &progress.binding.idle);
            writer.wrote(&progress);
        }
    }

    fn choose(&self) -> Result<Decision<Epoch>> {
        self.choose_unless(&[])
    }

    /// Chooses; these candidates' objects turn out to be damaged.
    fn choose_unless(&self, damaged: &[Epoch]) -> Result<Decision<Epoch>> {
        let tenure = self.tenure();
        let first = tenure.first()?;
        let requests = BTreeSet::from(["questions".to_owned()]);
        let mut read = |from: Option<u64>| History::read(&tenure, from.unwrap_or(first).max(first), &requests);
        let mut open = |at: usize| {
            let epoch = self.candidates[at].epoch;
            if damaged.contains(&epoch) { Err(Fault::world("an object is damaged")) } else { Ok(epoch) }
        };
        let part = |(name, fingerprint): (&String, &String)| Part {
            name: name.clone(),
            fingerprint: fingerprint.clone(),
            reads: vec![],
            stateful: true,
        };
        let choice = Choice {
            topic: TOPIC,
            definition: &self.definition,
            parts: &self.definition.fingerprints.iter().map(part).collect::<Vec<_>>(),
            accept_loss: self.accept_loss,
            candidates: &self.candidates,
            read: &mut read,
            open: &mut open,
            is_log_whole: &mut || Ok(self.log_is_whole),
        };
        choice.choose()
    }
}

/// A checkpoint, the epochs that are replayed, and why others were passed over.
type Chosen = (Option<Epoch>, Vec<Epoch>, Vec<String>);

fn chosen(decision: Result<Decision<Epoch>>) -> Result<Chosen, String> {
    let decision = decision.map_err(|fault| fault.message)?;
    let replay = decision.replay.iter().map(|recorded| recorded.binding.epoch).collect();
    Ok((decision.checkpoint, replay, decision.passed_over))
}

#[test]
fn the_newest_checkpoint_that_the_journal_vouches_for_is_chosen() {
    use Do::{Anew, Commit, Corrupt, Redefine, Rollback};
    let passed = |why: &[&str]| why.iter().map(|why| (*why).to_owned()).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<Do>, Chosen)> = vec![
        ("nothing yet", vec![], (None, vec![], vec![])),
        ("no checkpoint", vec![Commit(3, "a", &[])], (None, (0..=3).collect(), vec![])),
        ("the newest", vec![Commit(9, "a", &[3, 6, 8])], (Some(8), vec![8, 9], vec![])),
        ("at the very end", vec![Commit(9, "a", &[3]), Commit(9, "a", &[])], (Some(3), (3..=9).collect(), vec![])),
        ("several runs", vec![Commit(4, "a", &[3]), Commit(9, "a", &[6])], (Some(6), (6..=9).collect(), vec![])),
        (
            "the newest manifest is corrupt",
            vec![Commit(9, "a", &[3, 6, 8]), Corrupt],
            (Some(6), (6..=9).collect(), passed(&["checkpoint 8: its checksum differs"])),
        ),
        (
            "rolled back after the checkpoint",
            vec![Commit(9, "a", &[3, 6]), Rollback(7, None), Commit(11, "b", &[])],
            (Some(6), (6..=11).collect(), vec![]),
        ),
        (
            "rolled back to where the checkpoint is",
            vec![Commit(9, "a", &[3, 6]), Rollback(5, None), Commit(11, "b", &[])],
            (Some(6), (6..=11).collect(), vec![]),
        ),
        (
            "rolled back before the checkpoint",
            vec![Commit(9, "a", &[3, 6]), Rollback(4, None)],
            (Some(3), (3..=9).collect(), passed(&["checkpoint 6: a rollback has undone epoch 5"])),
        ),
        (
            "rolled back before all checkpoints",
            vec![Commit(9, "a", &[3, 6]), Rollback(0, None)],
            (
                None,
                (0..=9).collect(),
                passed(&["checkpoint 6: a rollback has undone epoch 5", "checkpoint 3: a rollback has undone epoch 2"]),
            ),
        ),
        (
            "a checkpoint of what came after a rollback",
            vec![Commit(9, "a", &[3]), Rollback(4, None), Commit(13, "b", &[12])],
            (Some(12), vec![12, 13], vec![]),
        ),
        (
            "the journal was made anew, and is shorter",
            vec![Commit(9, "a", &[3, 8]), Anew, Commit(4, "b", &[])],
            (
                None,
                (0..=4).collect(),
                passed(&[
                    "checkpoint 8: the journal does not hold epoch 7: it ends with epoch 4",
                    "checkpoint 3: it follows another epoch 2 than the journal holds",
                ]),
            ),
        ),
        (
            "a checkpoint of another definition, whose topic was made anew",
            vec![Commit(9, "a", &[3]), Anew, Redefine("second"), Commit(4, "b", &[])],
            (None, (0..=4).collect(), passed(&["checkpoint 3: it follows another epoch 2 than the journal holds"])),
        ),
    ];
    for (name, happened, expected) in cases {
        // A journal that is made anew while checkpoints are there is a fault of its own, tested below.
        let world = if name.contains("anew") { anew(happened) } else { World::after(&happened) };
        assert_eq!(chosen(world.choose()), Ok(expected), "{name}");
    }
}

/// What happened, where the runs after the topic was created anew did not know of the checkpoints.
fn anew(happened: Vec<Do>) -> World {
    let at = happened.iter().position(|what| matches!(what, Do::Anew)).expect("it happens");
    let mut happened = happened;
    let after = happened.split_off(at);
    let before = World::after(&happened);
    let mut world = World::after(&after);
    world.candidates = before.candidates;
    world
}

#[test]
fn there_is_no_way_to_go_on() {
    use Do::{Anew, Commit, Empty, Redefine, Rollback, Trim};
    let changed = "the definition has changed, and the log no longer holds what it takes to rebuild m (its own configuration \
        has changed); `millstream diff OLD NEW` shows all of it. Restore the definition, start anew with another --state \
        (and other topics, if they are on Kafka), or give up what is lost with --accept-loss";
    let mend = "Restore a checkpoint, or start anew with another --state (and other topics, if they are on Kafka); and let \
        the topic keep all its records (retention.ms=-1, cleanup.policy=delete)";
    let trimmed = |first: Epoch, why: &str| {
        format!(
            "shop.progress begins with epoch {first}: retention has removed what was before, and no checkpoint can be \
             used ({why}). {mend}"
        )
    };
    let empty = |newest: Epoch, why: &str| {
        format!(
            "shop.progress holds no epoch, although there are checkpoints, the newest of epoch {newest}: was the topic \
             created anew, or has retention removed all? no checkpoint can be used ({why}). Restore the topic, or start \
             anew with another --state (and other topics, if they are on Kafka)"
        )
    };
    let cases: Vec<(&str, Vec<Do>, String)> = vec![
        ("changed, and trimmed", vec![Commit(4, "a", &[3]), Trim(2), Redefine("second")], changed.to_owned()),
        ("trimmed, without checkpoints", vec![Commit(5, "a", &[]), Trim(5)], trimmed(5, "there is none")),
        (
            "created anew",
            vec![Commit(4, "a", &[3]), Anew],
            empty(3, "checkpoint 3: the journal does not hold epoch 2, nor any other"),
        ),
        (
            "emptied",
            vec![Commit(4, "a", &[3]), Empty],
            empty(3, "checkpoint 3: the journal does not hold epoch 2, nor any other"),
        ),
        (
            "trimmed, and rolled back to before",
            vec![Commit(4, "a", &[3]), Commit(9, "a", &[7]), Rollback(2, None), Trim(5)],
            trimmed(
                5,
                "checkpoint 7: a rollback has undone epoch 6; \
                 checkpoint 3: the journal no longer holds epoch 2: it begins with epoch 5",
            ),
        ),
    ];
    for (name, happened, expected) in cases {
        let world = World::after(&happened);
        assert_eq!(chosen(world.choose()), Err(expected), "{name}");
    }
}

#[test]
fn damaged_objects_lead_to_the_checkpoint_before() {
    let world = World::after(&[Do::Commit(9, "a", &[3, 6, 8])]);
    let why = |epoch: Epoch| format!("checkpoint {epoch}: an object is damaged");
    assert_eq!(chosen(world.choose_unless(&[8])), Ok((Some(6), (6..=9).collect(), vec![why(8)])));
    assert_eq!(chosen(world.choose_unless(&[8, 6, 3])), Ok((None, (0..=9).collect(), vec![why(8), why(6), why(3)])));
}

#[test]
fn retention_may_remove_what_checkpoints_hold() {
    let world = World::after(&[Do::Commit(9, "a", &[3, 6, 8])]);
    world.trim(5);
    let passed = "checkpoint 3: the journal no longer holds epoch 2: it begins with epoch 5".to_owned();
    assert_eq!(chosen(world.choose()), Ok((Some(8), vec![8, 9], vec![])));
    let damaged = chosen(world.choose_unless(&[8])).expect("the one before");
    assert_eq!((damaged.0, damaged.1), (Some(6), (6..=9).collect()));
    let fault = chosen(world.choose_unless(&[8, 6])).expect_err("nothing is left");
    assert!(fault.contains(&passed), "{fault}");
}

#[test]
fn what_is_replayed_is_what_was_recorded() {
    let world = World::after(&[Do::Commit(13, "a", &[2, 3, 6, 8])]);
    for from in [None, Some(8), Some(6), Some(3), Some(2)] {
        let damaged: Vec<Epoch> =
            [2, 3, 6, 8].into_iter().filter(|epoch| from.is_none_or(|from| *epoch > from)).collect();
        let decision = world.choose_unless(&damaged).expect("a start");
        assert_eq!(decision.checkpoint, from);
        let first = from.unwrap_or(0);
        let expected: Vec<Recorded> = (first..=13).map(|epoch| progress(epoch, "a").into()).collect();
        assert_eq!(decision.replay, expected, "from {from:?}");
    }
}

#[test]
fn what_is_undone_keeps_only_its_requests() {
    let happened = [Do::Commit(9, "a", &[3, 6]), Do::Rollback(7, Some((82, 85))), Do::Commit(11, "b", &[11])];
    let world = World::after(&happened);
    let skip = Skip { source: "orders".to_owned(), partition: 0, lo: 82, hi: 85 };
    for damaged in [vec![11], vec![11, 6], vec![11, 6, 3]] {
        let decision = world.choose_unless(&damaged).expect("a start");
        assert_eq!(decision.skips, BTreeSet::from([skip.clone()]));
        let replayed = |epoch: Epoch| {
            let found = decision.replay.iter().find(|recorded| recorded.binding.epoch == epoch).expect("replayed");
            let sources: Vec<u32> = found.binding.ranges.iter().map(|range| range.source).collect();
            (sources, found.binding.idle.len(), found.revisions.len(), found.answers.is_some())
        };
        assert_eq!(replayed(7), (vec![0, 1], 1, 1, true), "before");
        assert_eq!(replayed(8), (vec![1], 0, 0, false), "undone");
        assert_eq!(replayed(9), (vec![1], 0, 0, false), "undone");
        assert_eq!(replayed(11), (vec![0, 1], 0, 1, true), "after");
    }
    // The rollback lies before what is read from the newest checkpoint on: its note tells.
    let decision = world.choose().expect("a start");
    assert_eq!((decision.checkpoint, decision.skips), (Some(11), BTreeSet::from([skip])));
}

#[test]
fn a_journal_of_an_older_version_is_refused() {
    let cases = [
        (r#"{"definition":"d","binding":{"epoch":0},"revisions":{},"answers":0}"#, "was written by an older version"),
        (r#"{"kind":"what?"}"#, "holds something else than a journal's records at offset 0: "),
        ("not json", "holds something else than a journal's records at offset 0: "),
    ];
    for (value, expected) in cases {
        let broker = Simulated::new();
        broker.create(TOPIC, 1).expect("a new topic");
        let message = Message { value: Some(value.as_bytes().to_vec()), ..Message::default() };
        let append = Append { topic: TOPIC.to_owned(), messages: vec![message] };
        broker.producer("p").and_then(|mut producer| producer.append(&[append])).expect("no faults");
        let world = World { broker, ..World::after(&[]) };
        let fault = world.choose().expect_err("it is no journal").message;
        assert!(fault.starts_with(&format!("shop.progress {expected}")), "{fault}");
    }
}

#[test]
fn epochs_follow_one_another() {
    let world = World::after(&[Do::Commit(3, "a", &[])]);
    let mut tenure = world.tenure();
    let messages = Writer::new(world.definition.clone())
        .messages(tenure.incarnation(), [&progress(3, "a")].into_iter())
        .expect("json");
    assert!(matches!(tenure.append(&[Append { topic: TOPIC.to_owned(), messages }]), Ok(Appended::Done)));
    let fault = world.choose().expect_err("an epoch twice").message;
    assert!(
        fault.starts_with("shop.progress holds epoch 3 (at offset ") && fault.contains(" after epoch 3 "),
        "{fault}"
    );
}

#[test]
fn a_note_that_comes_too_late_is_refused() {
    let decision = World::after(&[]).choose().expect("a start");
    let ledger = Ledger::new(definition("first"), &decision);
    (0..4).for_each(|epoch| ledger.add(epoch, epoch.to_string(), 7, &[(1, 2)]));
    let note = ledger.note(3).expect("it is known");
    assert_eq!((note.progress.as_str(), note.journal_from), ("2", 7));
    assert_eq!(note.idle, [("questions".to_owned(), 2)]);
    assert!(ledger.note(2).expect_err("it is forgotten").message.starts_with("checkpoint 2 comes too late"));
    assert_eq!(ledger.note(4).expect("it is known").progress, "3");
    assert!(ledger.note(5).is_err(), "it is not committed");
}

#[test]
fn what_a_changed_definition_does_not_keep_is_rebuilt_or_given_up() {
    use Do::{Commit, Redefine, Trim};
    // Nothing that has state has changed: the checkpoint serves.
    let world = World::after(&[Commit(5, "a", &[3]), Redefine("third")]);
    let decision = world.choose().expect("a start");
    assert_eq!((decision.checkpoint, decision.change.keeps_all(), decision.change.is_none), (Some(3), true, false));
    let expected = |epoch: Epoch, models: bool| Recorded {
        answers: None,
        revisions: if models { progress(epoch, "a").revisions } else { [].into() },
        ..progress(epoch, "a").into()
    };
    assert_eq!(decision.replay, (3..=5).map(|epoch| expected(epoch, true)).collect::<Vec<_>>(), "answers may differ");

    // A model has changed: all is replayed, and it is not compared.
    let world = World::after(&[Commit(5, "a", &[3]), Redefine("second")]);
    let decision = world.choose().expect("a start");
    assert_eq!((decision.checkpoint, decision.change.keeps("m"), decision.change.keeps("n")), (None, false, true));
    assert_eq!(decision.replay, (0..=5).map(|epoch| expected(epoch, false)).collect::<Vec<_>>());
    // What the new definition learns is compared again, also from a checkpoint of its own.
    let world = World::after(&[Commit(5, "a", &[3]), Redefine("second"), Commit(8, "b", &[7])]);
    let decision = world.choose().expect("a start");
    assert_eq!(decision.checkpoint, Some(7));
    assert_eq!(decision.replay, [7, 8].map(|epoch| progress(epoch, "b").into()));

    // The log is not whole: only if the loss is accepted.
    for happened in
        [vec![Commit(5, "a", &[3]), Redefine("second")], vec![Commit(5, "a", &[3]), Trim(2), Redefine("second")]]
    {
        let mut world = World::after(&happened);
        world.log_is_whole = false;
        assert!(chosen(world.choose()).is_err_and(|fault| fault.contains("--accept-loss")));
        world.accept_loss = true;
        let decision = world.choose().expect("a start");
        assert_eq!((decision.checkpoint, decision.change.keeps("m")), (Some(3), false));
        assert_eq!(decision.replay, (3..=5).map(|epoch| expected(epoch, false)).collect::<Vec<_>>());
    }
}
