//! Checks each delivery: each sender's messages come once, without a gap and in order, and all members see the same
//! order.

use crate::message::Stamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// Everything that was wrong. If anything is not zero, the run's figures are worth nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Messages and joins that a member should have got and did not.
    pub(crate) lost: u64,
    /// Messages that came again, or after a later one of the same sender.
    pub(crate) repeated: u64,
    /// Members that saw another order than others of their room, and messages of another room.
    pub(crate) disordered: u64,
    /// Requests that were answered with an error.
    pub(crate) refused: u64,
    /// Connections that ended although the client did not leave.
    pub(crate) ended: u64,
    /// Joins of users who were members already that a member was told of.
    pub(crate) false_joins: u64,
    /// Leaves of users who stayed members that a member was told of.
    pub(crate) false_leaves: u64,
}

impl Faults {
    /// True if nothing was wrong.
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.disordered += other.disordered;
        self.refused += other.refused;
        self.ended += other.ended;
        self.false_joins += other.false_joins;
        self.false_leaves += other.false_leaves;
    }
}

/// What one member has seen of its room.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The number of the room's first sender, and the number that each sender's next message must have. `None`: the
    /// member came later and has seen no message of this sender yet.
    first: u32,
    next: Box<[Option<u32>]>,
    messages: u64,
    /// A hash over all messages in their order.
    digest: u64,
    /// The users that joined, in order. The member itself is the first one.
    joined: Vec<u32>,
}

impl Order {
    /// The view of a new member. With `late`, messages were sent before it came, so each sender's numbers start
    /// anywhere.
    pub(crate) fn new(room: u32, senders: u32, late: bool) -> Self {
        let start = if late { None } else { Some(0) };
        Self {
            first: room * senders,
            next: vec![start; senders as usize].into(),
            ..Self::default()
        }
    }

    /// Takes a message.
    pub(crate) fn message(&mut self, stamp: Stamp, faults: &mut Faults) {
        let sender = stamp.sender.checked_sub(self.first);
        let Some(next) = sender.and_then(|sender| self.next.get_mut(sender as usize)) else {
            faults.disordered += 1;
            return;
        };
        let expected = next.unwrap_or(stamp.number);
        if stamp.number < expected {
            faults.repeated += 1;
            return;
        }
        faults.lost += u64::from(stamp.number - expected);
        *next = Some(stamp.number + 1);
        self.messages += 1;
        let this = u64::from(stamp.sender) << 32 | u64::from(stamp.number);
        // The factor is odd and large, so that the order changes the hash.
        self.digest = (self.digest ^ this).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Takes a join.
    pub(crate) fn joined(&mut self, user: u32) {
        self.joined.push(user);
    }

    /// How many messages are still to come. `sent`: what each sender of all rooms has sent.
    pub(crate) fn missing(&self, sent: &[u32]) -> u64 {
        let sent = &sent[self.first as usize..][..self.next.len()];
        let both = sent.iter().zip(&self.next);
        both.map(|(sent, next)| u64::from(sent.saturating_sub(next.unwrap_or(*sent))))
            .sum()
    }
}

/// The room of a member, its user, and what it has seen.
pub(crate) type View<'a> = (u32, u32, &'a Order);

/// Compares what all members have seen, when everything is at rest.
pub(crate) fn compare(views: &[View<'_>], sent: &[u32]) -> Faults {
    let mut faults = Faults::default();
    let mut rooms: BTreeMap<u32, Vec<&View<'_>>> = BTreeMap::new();
    for view in views {
        faults.lost += view.2.missing(sent);
        rooms.entry(view.0).or_default().push(view);
    }
    for views in rooms.values() {
        let orders = || views.iter().map(|view| view.2);
        // A late member saw only the end. That of the messages is checked by their numbers, that of the joins here.
        let whole = orders().max_by_key(|order| order.messages);
        let longest = orders().max_by_key(|order| order.joined.len());
        let (Some(whole), Some(longest)) = (whole, longest) else {
            continue;
        };
        let places = longest.joined.iter().enumerate();
        let places: BTreeMap<u32, usize> = places.map(|(place, user)| (*user, place)).collect();
        for (_, user, order) in views {
            let differs = order.messages == whole.messages && order.digest != whole.digest;
            let expected = places.get(user).map(|place| &longest.joined[*place..]);
            match expected {
                Some(expected) if expected == order.joined => {}
                Some(expected) if expected.starts_with(&order.joined) => {
                    faults.lost += (expected.len() - order.joined.len()) as u64;
                }
                _ => faults.disordered += 1,
            }
            faults.disordered += u64::from(differs);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sender: u32, number: u32) -> Stamp {
        Stamp {
            sender,
            number,
            due: 0,
        }
    }

    fn views(orders: &[Order; 2]) -> Vec<View<'_>> {
        vec![(0, 0, &orders[0]), (0, 1, &orders[1])]
    }

    /// The faults of a run in which two members of a room with two senders get these messages, while each sender has
    /// sent `sent`.
    fn found(first: &[(u32, u32)], second: &[(u32, u32)], sent: u32) -> Faults {
        let mut faults = Faults::default();
        let mut orders = [Order::new(0, 2, false), Order::new(0, 2, false)];
        for (own, (order, got)) in orders.iter_mut().zip([first, second]).enumerate() {
            order.joined = vec![0, 1][own..].to_vec();
            for &(sender, number) in got {
                order.message(stamp(sender, number), &mut faults);
            }
        }
        faults += compare(&views(&orders), &[sent, sent]);
        faults
    }

    const ALL: [(u32, u32); 4] = [(0, 0), (1, 0), (0, 1), (1, 1)];

    #[test]
    fn the_same_order_for_all_is_no_fault() {
        assert!(found(&ALL, &ALL, 2).is_clean());
    }

    #[test]
    fn a_lost_message_is_found_in_the_middle_and_at_the_end() {
        assert_eq!(found(&ALL, &[(0, 1), (1, 0), (1, 1)], 2).lost, 1);
        assert_eq!(found(&ALL, &ALL[..3], 2).lost, 1);
    }

    #[test]
    fn a_message_that_comes_twice_is_found() {
        let twice = [ALL[0], ALL[0], ALL[1], ALL[2], ALL[3]];
        assert_eq!(found(&ALL, &twice, 2).repeated, 1);
    }

    #[test]
    fn another_order_is_found() {
        let other = [ALL[1], ALL[0], ALL[2], ALL[3]];
        assert_eq!(found(&ALL, &other, 2).disordered, 1);
    }

    #[test]
    fn a_message_of_another_room_is_found() {
        assert_eq!(found(&[(7, 0)], &[], 0).disordered, 1);
    }

    #[test]
    fn every_member_sees_the_same_joins_from_its_own_on() {
        let found = |first: &[u32], second: &[u32]| {
            let mut orders = [Order::new(0, 0, false), Order::new(0, 0, false)];
            for (order, heard) in orders.iter_mut().zip([first, second]) {
                heard.iter().for_each(|user| order.joined(*user));
            }
            compare(&views(&orders), &[])
        };
        assert!(found(&[0, 1, 2], &[1, 2]).is_clean());
        assert_eq!(found(&[0, 1, 2], &[1]).lost, 1);
        assert_eq!(found(&[0, 1, 2, 3], &[1, 3, 2]).disordered, 1);
        assert_eq!(found(&[0, 1, 2], &[0, 1, 2]).disordered, 1);
    }
}
