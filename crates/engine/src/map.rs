//! Sorted maps and sets for what a run has pending: cheap to clone, and nothing when empty.
//!
//! Nearly all runs wait for a few things at most. Up to [`FEW`] entries are one shared slice, which
//! a change builds anew; with more the map is a persistent tree.

use std::borrow::Borrow;
use std::ops::Index;
use std::sync::Arc;

use imbl::OrdMap;

/// Entries that a slice holds at most.
const FEW: usize = 8;

#[derive(Clone, Debug)]
enum Entries<K: Ord + Clone, V: Clone> {
    Few(Option<Arc<[(K, V)]>>),
    Many(OrdMap<K, V>),
}

/// A map in the order of its keys.
#[derive(Clone, Debug)]
pub struct Map<K: Ord + Clone, V: Clone>(Entries<K, V>);

impl<K: Ord + Clone, V: Clone> Default for Map<K, V> {
    fn default() -> Self {
        Self(Entries::Few(None))
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    fn few(&self) -> &[(K, V)] {
        match &self.0 {
            Entries::Few(Some(entries)) => entries,
            Entries::Few(None) | Entries::Many(_) => &[],
        }
    }

    fn many(&self) -> Option<&OrdMap<K, V>> {
        match &self.0 {
            Entries::Few(_) => None,
            Entries::Many(entries) => Some(entries),
        }
    }

    pub fn len(&self) -> usize {
        self.few().len() + self.many().map_or(0, OrdMap::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let few = self.few().iter().map(|(k, v)| (k, v));
        few.chain(self.many().into_iter().flat_map(OrdMap::iter))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(k, _)| k)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, v)| v)
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match &self.0 {
            Entries::Few(_) => {
                let few = self.few();
                place(few, key).ok().map(|at| &few[at].1)
            }
            Entries::Many(entries) => entries.get(key),
        }
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Entries::Few(entries) => {
                let few = entries.as_mut()?;
                let at = place(few, key).ok()?;
                Some(&mut Arc::make_mut(few)[at].1)
            }
            Entries::Many(entries) => entries.get_mut(key),
        }
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub fn insert(&mut self, key: K, value: V) {
        let Entries::Few(entries) = &mut self.0 else {
            if let Entries::Many(entries) = &mut self.0 {
                entries.insert(key, value);
            }
            return;
        };
        let few = entries.as_deref().unwrap_or_default();
        let (before, after) = match place(few, &key) {
            Ok(at) => (&few[..at], &few[at + 1..]),
            Err(at) => few.split_at(at),
        };
        if before.len() + after.len() == FEW {
            let mut many: OrdMap<K, V> = few.iter().cloned().collect();
            many.insert(key, value);
            self.0 = Entries::Many(many);
            return;
        }
        let new = std::iter::once((key, value));
        let all = before.iter().cloned().chain(new);
        *entries = Some(all.chain(after.iter().cloned()).collect());
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match &mut self.0 {
            Entries::Few(entries) => {
                let few = entries.as_deref()?;
                let at = place(few, key).ok()?;
                let removed = few[at].1.clone();
                let rest = few[..at].iter().chain(&few[at + 1..]).cloned();
                *entries = (few.len() > 1).then(|| rest.collect());
                Some(removed)
            }
            Entries::Many(entries) => {
                let removed = entries.remove(key)?;
                // Well below, so that a map which breathes does not change its form each time.
                if entries.len() <= FEW / 2 {
                    let few = entries.iter().map(|(k, v)| (k.clone(), v.clone()));
                    self.0 = Entries::Few(Some(few.collect()));
                }
                Some(removed)
            }
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(few: &[(K, V)], key: &Q) -> Result<usize, usize> {
    few.binary_search_by(|(k, _)| k.borrow().cmp(key))
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the map has the key")
    }
}

/// A set in order.
#[derive(Clone, Debug)]
pub struct Set<K: Ord + Clone>(Map<K, ()>);

impl<K: Ord + Clone> Default for Set<K> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<K: Ord + Clone> Set<K> {
    pub fn first(&self) -> Option<&K> {
        self.iter().next()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.keys()
    }

    pub fn insert(&mut self, key: K) {
        self.0.insert(key, ());
    }

    pub fn remove(&mut self, key: &K) {
        self.0.remove(key);
    }
}

impl<K: Ord + Clone> PartialEq for Set<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Against the standard library's, growing and shrinking over the border several times.
    #[test]
    fn it_is_a_map_whatever_its_form() {
        let mut random = 1_u64;
        let mut next = move |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        let (mut map, mut model) = (Map::<String, u64>::default(), BTreeMap::new());
        let mut forms = 0;
        for round in 0..4_000 {
            let grows = round / 200 % 2 == 0;
            let key = next(20).to_string();
            let was_many = map.many().is_some();
            let before = (map.clone(), model.clone());
            if next(4) == 0 || (grows && next(2) == 0) {
                map.insert(key.clone(), round);
                model.insert(key, round);
            } else if !grows {
                assert_eq!(map.remove(key.as_str()), model.remove(key.as_str()));
            }
            assert!(map.iter().eq(model.iter()) && map.iter().rev().eq(model.iter().rev()));
            assert!(
                before.0.iter().eq(before.1.iter()),
                "a clone stays as it was"
            );
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            for key in 0..20 {
                let key = key.to_string();
                assert_eq!(map.get(key.as_str()), model.get(&key));
                assert_eq!(map.contains_key(&key), model.contains_key(&key));
                if let (Some(a), Some(b)) = (map.get_mut(&key), model.get_mut(&key)) {
                    (*a, *b) = (*a + 1, *b + 1);
                }
            }
            let rebuilt = model.iter().fold(Map::default(), |mut m, (k, v)| {
                m.insert(k.clone(), *v);
                m
            });
            assert_eq!(map, rebuilt, "in whichever form");
            forms += usize::from(map.many().is_some() != was_many);
        }
        assert!(forms > 4, "{forms}");
        map.clear();
        assert!(matches!(map.0, Entries::Few(None)));
    }

    #[test]
    fn an_emptied_map_holds_nothing() {
        let mut map = Map::default();
        map.insert(1, 'a');
        assert_eq!(
            (map[&1], map.remove(&1), map.remove(&1)),
            ('a', Some('a'), None)
        );
        assert!(matches!(map.0, Entries::Few(None)));
    }
}
