//! Which node of a cluster owns a key.
//!
//! The hash tag of a key determines its slot, and each slot belongs to one primary at a time (see Redis Cluster's
//! specification). A single server is treated as a cluster with one node that owns all slots.

use super::address::Address;
use super::reply::text;
use redis::Value;
use std::collections::HashSet;

/// The number of slots of any cluster.
const SLOTS: u16 = 16_384;

/// The slot of a key.
pub(super) fn slot(key: &str) -> u16 {
    crc16(hash_tag(key).as_bytes()) % SLOTS
}

/// The text between the first `{` and the next `}`. If there is none, or it is empty, it is the whole key.
fn hash_tag(key: &str) -> &str {
    key.split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag })
}

/// CRC-16/XMODEM.
pub(in crate::redis) fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

/// The owners of all slots at one time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// First slot, last slot, owner. They are sorted and don't overlap.
    ranges: Vec<(u16, u16, Address)>,
}

impl Slots {
    /// All slots, owned by one node.
    pub(super) fn of_one(node: Address) -> Self {
        Self {
            ranges: vec![(0, SLOTS - 1, node)],
        }
    }

    /// Reads the answer of `CLUSTER SLOTS`. `asked` is the node that gave it: where the answer leaves the host open, it is
    /// that node's.
    pub(super) fn parse(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(answer) = answer else {
            return None;
        };
        let range = |value: &Value| {
            let Value::Array(fields) = value else {
                return None;
            };
            let [Value::Int(first), Value::Int(last), Value::Array(owner), ..] = &fields[..] else {
                return None;
            };
            let [host, Value::Int(port), ..] = &owner[..] else {
                return None;
            };
            let host = match (text(host), asked) {
                (Some(host), _) if !host.is_empty() => host,
                (_, Address::Tcp(host, _)) => host,
                (_, Address::Unix(_)) => return None,
            };
            let owner = Address::Tcp(host.to_owned(), u16::try_from(*port).ok()?);
            Some((
                u16::try_from(*first).ok()?,
                u16::try_from(*last).ok()?,
                owner,
            ))
        };
        let mut ranges: Vec<_> = answer.iter().map(range).collect::<Option<_>>()?;
        ranges.sort_by_key(|(first, ..)| *first);
        let in_order = ranges
            .iter()
            .all(|(first, last, _)| first <= last && *last < SLOTS)
            && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        in_order.then_some(Self { ranges })
    }

    /// The owner of a slot, if it has one.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let after = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, owner) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(owner)
    }

    /// The owner of all slots, if that is a single node.
    pub(super) fn only_owner(&self) -> Option<&Address> {
        match &self.ranges[..] {
            [(0, last, owner)] if *last == SLOTS - 1 => Some(owner),
            _ => None,
        }
    }

    /// How many slots have an owner for which the condition holds.
    pub(super) fn count(&self, is_meant: impl Fn(&Address) -> bool) -> u32 {
        let meant = self.ranges.iter().filter(|(.., owner)| is_meant(owner));
        meant
            .map(|(first, last, _)| u32::from(last - first) + 1)
            .sum()
    }

    /// All nodes that own a slot.
    pub(super) fn nodes(&self) -> HashSet<&Address> {
        self.ranges.iter().map(|(.., owner)| owner).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Address {
        Address::Tcp("h".into(), port)
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let owner = vec![Value::BulkString(host.into()), Value::Int(port)];
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(owner),
        ])
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // The answers of a real server to CLUSTER KEYSLOT.
        for (key, expected) in [
            ("", 0),
            ("foo", 12_182),
            ("somekey", 11_058),
            ("foo{hash_tag}", 2_515),
            ("bar{hash_tag}", 2_515),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
        assert_eq!(slot("gc:{4}:t"), slot("4"));
    }

    #[test]
    fn a_slot_has_the_owner_in_the_answer_or_none() {
        let answer = Value::Array(vec![range(8_192, 16_383, "h", 2), range(0, 5_000, "", 1)]);
        let slots = Slots::parse(&answer, &node(9)).unwrap();
        assert_eq!(
            slots.owner(0),
            Some(&node(1)),
            "if the answer names no host, it is the host that was asked"
        );
        assert_eq!(slots.owner(5_000), Some(&node(1)));
        assert_eq!(slots.owner(5_001), None);
        assert_eq!(slots.owner(8_191), None);
        assert_eq!(slots.owner(8_192), Some(&node(2)));
        assert_eq!(slots.owner(16_383), Some(&node(2)));
        assert_eq!(slots.count(|_| true), 5_001 + 8_192);
        assert_eq!(slots.count(|owner| *owner == node(2)), 8_192);
        assert_eq!(slots.nodes(), HashSet::from([&node(1), &node(2)]));
        assert_eq!(Slots::of_one(node(1)).count(|_| true), u32::from(SLOTS));
    }

    #[test]
    fn an_answer_with_an_unexpected_form_is_refused() {
        for answer in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(5, 4, "h", 1)]),
            Value::Array(vec![range(0, 16_384, "h", 1)]),
            Value::Array(vec![range(0, 5, "h", 70_000)]),
            Value::Array(vec![range(0, 5, "h", 1), range(5, 9, "h", 1)]),
        ] {
            assert_eq!(Slots::parse(&answer, &node(9)), None, "{answer:?}");
        }
    }
}
