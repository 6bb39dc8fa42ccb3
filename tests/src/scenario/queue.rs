//! Packets whose time has not come.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::conversation::Event;

/// Events in order of time, and of what was put in first; each with something about it.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Waiting<T>>,
    made: u64,
}

/// The greatest is the earliest.
#[derive(Debug)]
struct Waiting<T> {
    event: Event,
    number: u64,
    about: T,
}

impl<T: Copy> Queue<T> {
    pub(crate) fn push(&mut self, events: Vec<Event>, about: T) {
        for event in events {
            self.heap.push(Waiting { event, number: self.made, about });
            self.made += 1;
        }
    }

    /// When the next one is due.
    pub(crate) fn first_ns(&self) -> Option<u64> {
        self.heap.peek().map(|waiting| waiting.event.at_ns)
    }

    pub(crate) fn pop(&mut self) -> Option<(Event, T)> {
        self.heap.pop().map(|waiting| (waiting.event, waiting.about))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), made: 0 }
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.event.at_ns, other.number).cmp(&(self.event.at_ns, self.number))
    }
}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Waiting<T> {}
