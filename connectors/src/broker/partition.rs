//! Which partition a message goes to: the same rule on every broker.

use std::collections::HashMap;

use millstream_engine::Result;

use super::{Message, faults};

/// Chooses partitions for one producer.
#[derive(Debug, Default)]
pub(super) struct Partitioner {
    /// For each topic, the partition of the next message without a key.
    turns: HashMap<String, u32>,
}

impl Partitioner {
    /// The partition of each message: the one it names, else by the hash of its key, else in turns.
    pub(super) fn assign(&mut self, topic: &str, partitions: u32, messages: &[Message]) -> Result<Vec<u32>> {
        if !self.turns.contains_key(topic) {
            self.turns.insert(topic.to_owned(), 0);
        }
        let turn = self.turns.get_mut(topic).expect("it was inserted just now");
        messages
            .iter()
            .map(|message| match (message.partition, &message.key) {
                (Some(partition), _) if partition < partitions => Ok(partition),
                (Some(partition), _) => Err(faults::no_partition(topic, partition, partitions as usize)),
                (None, Some(key)) => Ok((murmur2(key) & 0x7fff_ffff) % partitions),
                (None, None) => {
                    let partition = *turn % partitions;
                    *turn = (partition + 1) % partitions;
                    Ok(partition)
                }
            })
            .collect()
    }
}

/// The hash of Kafka's default partitioner, so that a key has the same partition on every broker.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four bytes")).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's own clients are tested with.
    #[test]
    fn hashes_as_kafka_does() {
        let cases: &[(&str, i32)] = &[
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()) as i32, *hash, "{key}");
        }
    }

    #[test]
    fn chooses_by_name_then_key_then_turn() {
        let message = |partition, key: Option<&str>| Message {
            partition,
            key: key.map(|key| key.as_bytes().to_vec()),
            ..Message::default()
        };
        let messages =
            [message(None, None), message(Some(2), Some("21")), message(None, Some("21")), message(None, None)];
        let mut partitioner = Partitioner::default();
        assert_eq!(partitioner.assign("t", 3, &messages).unwrap(), [0, 2, (0xc5f2_f8ec & 0x7fff_ffff) % 3, 1]);
        assert_eq!(partitioner.assign("t", 3, &messages[..1]).unwrap(), [2], "turns go on over appends");
        assert_eq!(partitioner.assign("u", 3, &messages[..1]).unwrap(), [0], "each topic has its own turns");
        let error = partitioner.assign("t", 2, &messages).unwrap_err();
        assert_eq!(error.message, "topic `t` has no partition 2: it has 2");
    }
}
