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

/// Compiled things of one kind, by slot and by name.
pub struct Slots<T> {
    places: Places<T>,
    by_name: Index,
}

/// Numbered places without names; a number that became free is given again.
pub(crate) struct Places<T> {
    values: Vector<Option<Arc<T>>>,
    free: Vector<Slot>,
}

impl<T> Slots<T> {
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Arc<T>> {
        self.places.get(slot)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their slots, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Arc<T>)> {
        (0..).zip(self.places.values.iter()).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}

impl<T: Named> Slots<T> {
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<Slot> {
        let is_it = |slot: &Slot| self.get(*slot).is_some_and(|value| value.name().as_bytes() == name.as_bytes());
        self.by_name.find(hash_of(name)).find(is_it)
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<T>> {
        self.get(self.slot(name)?)
    }

    /// Puts a value under its name; a name keeps its slot as long as it exists.
    pub fn put(&mut self, value: Arc<T>) -> Slot {
        if let Some(slot) = self.slot(value.name()) {
            self.places.set(slot, value);
            return slot;
        }
        let hash = hash_of(value.name());
        let slot = self.places.add(value);
        self.by_name.insert(hash, slot);
        slot
    }

    /// Empties the slot of a name; the next new name may get it.
    pub fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        let slot = self.slot(name)?;
        self.by_name.remove(hash_of(name), slot);
        self.places.take(slot)
    }
}

impl<T> Places<T> {
    /// How many are taken.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Arc<T>> {
        self.values.get(slot as usize)?.as_ref()
    }

    pub(crate) fn add(&mut self, value: Arc<T>) -> Slot {
        if let Some(slot) = self.free.pop_back() {
            self.set(slot, value);
            return slot;
        }
        self.values.push_back(Some(value));
        Slot::try_from(self.values.len() - 1).expect("fewer than 2^32 places")
    }

    pub(crate) fn set(&mut self, slot: Slot, value: Arc<T>) {
        self.values.set(slot as usize, Some(value));
    }

    /// Empties the place.
    pub(crate) fn take(&mut self, slot: Slot) -> Option<Arc<T>> {
        let taken = self.values.set(slot as usize, None);
        if taken.is_some() {
            self.free.push_back(slot);
        }
        taken
    }
}

impl<T: Clone> Places<T> {
    /// The value, to be changed in place if no other version shares it.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        Some(Arc::make_mut(self.values.get_mut(slot as usize)?.as_mut()?))
    }
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { places: self.places.clone(), by_name: self.by_name.clone() }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Places::default(), by_name: Index::default() }
    }
}

impl<T> Clone for Places<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), free: self.free.clone() }
    }
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { values: Vector::new(), free: Vector::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Name, u8);

    impl Named for Thing {
        fn name(&self) -> &Name {
            &self.0
        }
    }

    #[test]
    fn a_name_keeps_its_slot_and_older_copies_keep_their_values() {
        let thing = |name: &str, value| Arc::new(Thing(name.parse().expect("a name"), value));
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
