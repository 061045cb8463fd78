//! Numbered places for compiled things, shared between snapshots.
//!
//! Compiled routes point at services and policies by the number of their slot, so that replacing a
//! service that 100,000 routes use replaces one slot. A lookup on the request path is an index, never a
//! name; cloning the whole costs nothing, changing one slot costs one path through a tree.

use std::sync::Arc;

use imbl::Vector;

use crate::index::{Index, hash_of};
use crate::resource::Name;

/// The number of a place in [`Slots`].
pub type Slot = u32;

/// What is kept in [`Slots`] knows its name, which therefore is kept only once.
pub trait Named {
    fn name(&self) -> &Name;
}

impl<T: Named> Named for Arc<T> {
    fn name(&self) -> &Name {
        T::name(self)
    }
}

/// Compiled things of one kind, by slot and by name. A slot that became free is given again.
///
/// A change copies its neighbours too: what is large, or must stay the same thing while it is in use, is kept in an [`Arc`].
pub struct Slots<T> {
    values: Vector<Option<T>>,
    free: Vector<Slot>,
    by_name: Index<Slot>,
}

impl<T: Clone> Slots<T> {
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.values.get(slot as usize)?.as_ref()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their slots, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..).zip(self.values.iter()).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}

impl<T: Named + Clone> Slots<T> {
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<Slot> {
        let is_it = |slot: &Slot| self.get(*slot).is_some_and(|value| value.name().as_bytes() == name.as_bytes());
        self.by_name.find(hash_of(name), is_it).copied()
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&T> {
        self.get(self.slot(name)?)
    }

    /// Puts a value under its name; a name keeps its slot as long as it exists.
    pub fn put(&mut self, value: T) -> Slot {
        if let Some(slot) = self.slot(value.name()) {
            self.values.set(slot as usize, Some(value));
            return slot;
        }
        let hash = hash_of(value.name());
        let slot = match self.free.pop_back() {
            Some(slot) => {
                self.values.set(slot as usize, Some(value));
                slot
            }
            None => {
                self.values.push_back(Some(value));
                Slot::try_from(self.values.len() - 1).expect("fewer than 2^32 resources")
            }
        };
        self.by_name.insert(hash, slot);
        slot
    }

    /// Empties the slot of a name; the next new name may get it.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let slot = self.slot(name)?;
        self.by_name.remove(hash_of(name), |other| *other == slot);
        self.free.push_back(slot);
        self.values.set(slot as usize, None)
    }
}

impl<T: Clone> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), free: self.free.clone(), by_name: self.by_name.clone() }
    }
}

impl<T: Clone> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vector::new(), free: Vector::new(), by_name: Index::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Thing(Name, u8);

    impl Named for Thing {
        fn name(&self) -> &Name {
            &self.0
        }
    }

    #[test]
    fn a_name_keeps_its_slot_and_older_copies_keep_their_values() {
        let thing = |name: &str, value| Thing(name.parse().expect("a name"), value);
        let mut slots = Slots::default();
        let a = slots.put(thing("a", 1));
        let b = slots.put(thing("b", 2));
        let older = slots.clone();
        assert_eq!(slots.put(thing("a", 3)), a);
        assert_eq!(slots.remove("b").map(|thing| thing.1), Some(2));
        assert_eq!(slots.put(thing("c", 4)), b);
        let values = |slots: &Slots<Thing>| ["a", "b", "c"].map(|name| slots.find(name).map(|thing| thing.1));
        assert_eq!(values(&slots), [Some(3), None, Some(4)]);
        assert_eq!(values(&older), [Some(1), Some(2), None]);
        assert_eq!((slots.get(a).map(|thing| thing.1), slots.len(), older.len()), (Some(3), 2, 2));
    }
}
