//! Numbered places for compiled things, shared between snapshots.
//!
//! Compiled routes point at services and policies by the number of their slot, so that replacing a
//! service that 100,000 routes use replaces one slot. A lookup on the request path is an index, never a
//! name; cloning the whole costs nothing, changing one slot costs one path through a tree.

use std::sync::Arc;

use imbl::{HashMap, Vector};

use crate::resource::Name;

/// The number of a place in [`Slots`].
pub type Slot = u32;

/// Compiled things of one kind, by slot and by name.
pub struct Slots<T> {
    values: Vector<Option<Arc<T>>>,
    by_name: HashMap<Name, Slot>,
    free: Vector<Slot>,
}

impl<T> Slots<T> {
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Arc<T>> {
        self.values.get(slot as usize)?.as_ref()
    }

    #[must_use]
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.by_name.get(name).copied()
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<T>> {
        self.get(self.slot(name)?)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// All values with their slots, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Arc<T>)> {
        (0..).zip(self.values.iter()).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    /// Puts a value under a name; a name keeps its slot as long as it exists.
    pub fn put(&mut self, name: &Name, value: Arc<T>) -> Slot {
        if let Some(slot) = self.slot(name) {
            self.values.set(slot as usize, Some(value));
            return slot;
        }
        let slot = match self.free.pop_back() {
            Some(slot) => {
                self.values.set(slot as usize, Some(value));
                slot
            }
            None => {
                self.values.push_back(Some(value));
                u32::try_from(self.values.len() - 1).expect("fewer than 2^32 resources")
            }
        };
        self.by_name.insert(name.clone(), slot);
        slot
    }

    /// Empties the slot of a name; the next new name may get it.
    pub fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        let slot = self.by_name.remove(name)?;
        self.free.push_back(slot);
        self.values.set(slot as usize, None)
    }
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), by_name: self.by_name.clone(), free: self.free.clone() }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vector::new(), by_name: HashMap::new(), free: Vector::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slot_and_older_copies_keep_their_values() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let mut slots = Slots::default();
        let a = slots.put(&name("a"), Arc::new(1));
        let b = slots.put(&name("b"), Arc::new(2));
        let older = slots.clone();
        assert_eq!(slots.put(&name("a"), Arc::new(3)), a);
        assert_eq!(slots.remove("b").as_deref(), Some(&2));
        assert_eq!(slots.put(&name("c"), Arc::new(4)), b);
        let values = |slots: &Slots<i32>| ["a", "b", "c"].map(|name| slots.find(name).map(|value| **value));
        assert_eq!(values(&slots), [Some(3), None, Some(4)]);
        assert_eq!(values(&older), [Some(1), Some(2), None]);
        assert_eq!((slots.get(a).map(|value| **value), slots.len(), older.len()), (Some(3), 2, 2));
    }
}
