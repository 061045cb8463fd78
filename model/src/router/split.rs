//! Many routes at one place, told apart by the values that they ask for.
//!
//! Routes that ask the same fields and parameters for exact values lie in one table, by the hash of these values: a request
//! looks its own values up, once for each set of names that is asked for, and no more often than that however many
//! values there are. A client that sends a name several times makes the gateway look several times; never more often
//! than there are routes.

use std::cmp::Ordering;
use std::hash::Hasher;
use std::sync::Arc;

use foldhash::quality::FoldHasher;
use http::HeaderName;
use smallvec::SmallVec;

use super::Age;
use super::asked::Asked;
use super::conditions::Asks;
use super::group::Match;
use super::joined::Joined;
use crate::index::{self, Index};
use crate::slots::Slot;

/// See the head of this file.
#[derive(Clone, Default)]
pub(super) struct Split {
    tables: Vec<Table>,
    len: usize,
}

/// The routes that ask the same names for exact values.
#[derive(Clone)]
struct Table {
    asks: Arc<[Name]>,
    lists: Index<List>,
    len: usize,
    /// Hashes of lists that have changed.
    unsettled: Vec<u64>,
}

enum Name {
    Header(HeaderName),
    Query(Box<str>),
}

/// The routes that ask for the same values, in order of precedence. Should two sets of values have one hash, theirs lie
/// together: conditions are looked at in any case.
#[derive(Clone)]
struct List {
    hash: u64,
    matches: Arc<Vec<Match>>,
    joined: Option<Arc<Joined>>,
}

/// The names under which exact values are asked for, in their one order, and the hash of the values.
struct Values<'a> {
    asks: SmallVec<[Asks<'a>; 4]>,
    hash: u64,
}

impl<'a> Values<'a> {
    /// Of several values for one name the first counts.
    fn of(exact: impl Iterator<Item = (Asks<'a>, &'a [u8])>) -> Self {
        let mut exact: SmallVec<[_; 4]> = exact.collect();
        exact.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
        exact.dedup_by(|(later, _), (earlier, _)| later == earlier);
        let mut hasher = index::hasher();
        exact.iter().for_each(|(_, value)| write(&mut hasher, value));
        Self { hash: hasher.finish(), asks: exact.into_iter().map(|(asks, _)| asks).collect() }
    }
}

fn write(hasher: &mut FoldHasher<'static>, value: &[u8]) {
    hasher.write_usize(value.len());
    hasher.write(value);
}

impl Split {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, added: Match, age: &dyn Fn(Slot) -> Age) {
        let values = Values::of(added.exact_values());
        let at = self.tables.iter().position(|table| table.is_for(&values.asks)).unwrap_or_else(|| {
            self.tables.push(Table::new(&values.asks));
            self.tables.len() - 1
        });
        let hash = values.hash;
        drop(values);
        let table = &mut self.tables[at];
        let before = table.lists.find(hash, is_under(hash)).map_or(0, |list| list.matches.len());
        if before == 0 {
            table.lists.insert(hash, List { hash, matches: Arc::new(vec![added]), joined: None });
            (table.len, self.len) = (table.len + 1, self.len + 1);
        } else if let Some(list) = table.lists.find_mut(hash, is_under(hash)) {
            let matches = Arc::make_mut(&mut list.matches);
            added.put_into(matches, age);
            matches.shrink_to_fit();
            let grown = matches.len() - before;
            list.has_changed(&mut table.unsettled);
            (table.len, self.len) = (table.len + grown, self.len + grown);
        }
    }

    /// Takes out a route that asks for these values.
    pub(super) fn remove<'a>(&mut self, exact: impl Iterator<Item = (Asks<'a>, &'a [u8])>, route: Slot) {
        let values = Values::of(exact);
        let Some(at) = self.tables.iter().position(|table| table.is_for(&values.asks)) else { return };
        let table = &mut self.tables[at];
        let Some(list) = table.lists.find_mut(values.hash, is_under(values.hash)) else { return };
        let before = list.matches.len();
        let matches = Arc::make_mut(&mut list.matches);
        matches.retain(|one| one.route != route);
        let (gone, is_empty) = (before - matches.len(), matches.is_empty());
        list.has_changed(&mut table.unsettled);
        if is_empty {
            table.lists.remove(values.hash, is_under(values.hash));
        }
        (table.len, self.len) = (table.len - gone, self.len - gone);
        if table.len == 0 {
            self.tables.remove(at);
        }
    }

    /// Whether nothing is left to be made for it.
    pub(super) fn is_settled(&self) -> bool {
        self.tables.iter().all(|table| table.unsettled.is_empty())
    }

    pub(super) fn settle(&mut self) {
        for table in &mut self.tables {
            let mut unsettled = std::mem::take(&mut table.unsettled);
            unsettled.sort_unstable();
            unsettled.dedup();
            for hash in unsettled {
                if let Some(list) = table.lists.find_mut(hash, is_under(hash)) {
                    list.joined = Joined::of(&list.matches, list.joined.as_deref()).map(Arc::new);
                }
            }
        }
    }

    /// All of them in order of precedence.
    pub(super) fn to_list(&self) -> Vec<Match> {
        let mut all = Vec::with_capacity(self.len);
        for table in &self.tables {
            table.lists.all(&mut |list| {
                all.extend(list.matches.iter().cloned());
                true
            });
        }
        // Those without conditions lie together, and in order: a stable sort keeps it.
        all.sort_by(Match::precedence);
        all
    }

    /// The lists in which a match can be for who sends these values.
    pub(super) fn visit<'r>(&'r self, sender: &impl Sender, mut visit: impl FnMut(&'r [Match], Option<&'r Joined>)) {
        for table in &self.tables {
            table.visit(sender, &mut visit);
        }
    }

    /// The list of those that ask for these values.
    pub(super) fn list_of<'a>(&self, exact: impl Iterator<Item = (Asks<'a>, &'a [u8])>) -> &[Match] {
        let values = Values::of(exact);
        let table = self.tables.iter().find(|table| table.is_for(&values.asks));
        let list = table.and_then(|table| table.lists.find(values.hash, is_under(values.hash)));
        list.map_or(&[], |list| &list.matches)
    }

    /// Every match, until `visit` says no.
    pub(super) fn each_match<'r>(&'r self, visit: &mut impl FnMut(&'r Match) -> bool) -> bool {
        self.tables.iter().all(|table| table.lists.all(&mut |list| list.matches.iter().all(&mut *visit)))
    }
}

/// Who has values: a request, or a route that stands for all requests with the values that it asks for.
pub(super) trait Sender {
    fn values<'s>(&'s self, asks: Asks<'s>) -> SmallVec<[&'s [u8]; 2]>;
}

impl Sender for Asked<'_> {
    fn values<'s>(&'s self, asks: Asks<'s>) -> SmallVec<[&'s [u8]; 2]> {
        match asks {
            Asks::Header(name) => self.header(name).collect(),
            Asks::Query(name) => self.parameter(name).collect(),
        }
    }
}

impl Sender for Match {
    fn values<'s>(&'s self, asks: Asks<'s>) -> SmallVec<[&'s [u8]; 2]> {
        self.exact_values().filter(|(other, _)| *other == asks).map(|(_, value)| value).collect()
    }
}

fn is_under(hash: u64) -> impl Fn(&List) -> bool {
    move |list| list.hash == hash
}

impl Name {
    fn as_asks(&self) -> Asks<'_> {
        match self {
            Self::Header(name) => Asks::Header(name),
            Self::Query(name) => Asks::Query(name),
        }
    }
}

impl List {
    /// What hangs on it has to follow; that is noted where there is something, or should be.
    fn has_changed(&mut self, unsettled: &mut Vec<u64>) {
        if let Some(joined) = &mut self.joined {
            Arc::make_mut(joined).outdate();
        }
        if (self.joined.is_some() || Joined::is_for(&self.matches)) && unsettled.last() != Some(&self.hash) {
            unsettled.push(self.hash);
        }
    }
}

impl Table {
    fn new(asks: &[Asks<'_>]) -> Self {
        let owned = asks.iter().map(|asks| match asks {
            Asks::Header(name) => Name::Header((*name).clone()),
            Asks::Query(name) => Name::Query((*name).into()),
        });
        Self { asks: owned.collect(), lists: Index::default(), len: 0, unsettled: Vec::new() }
    }

    fn is_for(&self, asks: &[Asks<'_>]) -> bool {
        self.asks.iter().map(Name::as_asks).eq(asks.iter().copied())
    }

    fn visit<'r>(&'r self, sender: &impl Sender, visit: &mut impl FnMut(&'r [Match], Option<&'r Joined>)) {
        let mut sent: SmallVec<[SmallVec<[&[u8]; 2]>; 2]> = SmallVec::new();
        let mut combinations = 1_usize;
        for name in &*self.asks {
            let mut values = sender.values(name.as_asks());
            values.sort_unstable();
            values.dedup();
            combinations = combinations.saturating_mul(values.len());
            if combinations == 0 {
                return;
            }
            sent.push(values);
        }
        if combinations > self.len {
            self.lists.all(&mut |list| {
                visit(&list.matches, list.joined.as_deref());
                true
            });
        } else {
            self.probe(&sent, &index::hasher(), visit);
        }
    }

    /// Looks up every combination of the values.
    fn probe<'r>(
        &'r self,
        sent: &[SmallVec<[&[u8]; 2]>],
        hasher: &FoldHasher<'static>,
        visit: &mut impl FnMut(&'r [Match], Option<&'r Joined>),
    ) {
        let Some((values, rest)) = sent.split_first() else {
            let hash = hasher.finish();
            if let Some(list) = self.lists.find(hash, is_under(hash)) {
                visit(&list.matches, list.joined.as_deref());
            }
            return;
        };
        for value in values {
            let mut hasher = hasher.clone();
            write(&mut hasher, value);
            self.probe(rest, &hasher, visit);
        }
    }
}

/// For finding one's place in a list.
pub(super) fn is_before(one: &Match, other: &Match, age: &dyn Fn(Slot) -> Age) -> bool {
    let decided = Match::precedence(one, other).then_with(|| age(one.route).cmp(&age(other.route)));
    decided == Ordering::Less
}
