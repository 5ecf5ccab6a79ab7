//! What each delivery is checked for: each sender's messages once, all of them, in order; and the same order for all.

use crate::message::Stamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// Everything that was wrong. All zero, or the run's figures are worth nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Messages, and joins, that a member should have got and did not.
    pub(crate) lost: u64,
    /// What came again, or after a later one of the same sender.
    pub(crate) repeated: u64,
    /// Members that saw another order than others of their room, or a message of another room.
    pub(crate) disordered: u64,
    /// Requests that were answered with an error.
    pub(crate) refused: u64,
    /// Connections that ended without being asked to.
    pub(crate) ended: u64,
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
    }
}

/// One member's view of its room.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The room's senders: the first, and the number that is expected next of each; none before the first one of a
    /// member who came later.
    first: u32,
    next: Box<[Option<u32>]>,
    messages: u64,
    /// Of everything in its order.
    digest: u64,
    /// Who joined, in the order in which that came: itself first.
    joined: Vec<u32>,
}

impl Order {
    /// The view of a member of a room with so many senders, which has them from their first message on, or, if it is
    /// late, from wherever they are.
    pub(crate) fn new(room: u32, senders: u32, late: bool) -> Self {
        let start = if late { None } else { Some(0) };
        Self {
            first: room * senders,
            next: vec![start; senders as usize].into(),
            ..Self::default()
        }
    }

    /// A message came.
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
        // Odd and large, so that the order counts.
        self.digest = (self.digest ^ this).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Somebody joined.
    pub(crate) fn joined(&mut self, user: u32) {
        self.joined.push(user);
    }

    /// How many messages are still to come of what the senders have sent, by sender of all rooms.
    pub(crate) fn missing(&self, sent: &[u32]) -> u64 {
        let sent = &sent[self.first as usize..][..self.next.len()];
        let both = sent.iter().zip(&self.next);
        both.map(|(sent, next)| u64::from(sent.saturating_sub(next.unwrap_or(*sent))))
            .sum()
    }
}

/// A member's view, with its room and its own name.
pub(crate) type View<'a> = (u32, u32, &'a Order);

/// Compares the views of everybody when all has come to rest.
pub(crate) fn compare(views: &[View<'_>], sent: &[u32]) -> Faults {
    let mut faults = Faults::default();
    let mut rooms: BTreeMap<u32, Vec<&View<'_>>> = BTreeMap::new();
    for view in views {
        faults.lost += view.2.missing(sent);
        rooms.entry(view.0).or_default().push(view);
    }
    for views in rooms.values() {
        let orders = || views.iter().map(|view| view.2);
        // Who came later saw the end of it: of messages, which the senders' numbers tell, and of joins.
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

    /// What is found when two members of a room with two senders get these, of `sent` messages each.
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
    fn everybody_hears_of_the_same_joins_from_its_own_on() {
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
