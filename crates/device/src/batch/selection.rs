//! Which of the waiting items make the next batch. The policy is described at the
//! [head of the module](super).

use std::cmp::Reverse;

use super::queue::{PRIORITIES, Place, Queue};
use super::safe_sizes::Size;

/// Of so many batches' worth of a priority's oldest items those of like cost are chosen.
const WINDOW_BATCHES: usize = 4;

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) items: usize,
    pub(super) cost: Option<u64>,
    pub(super) padded: bool,
}

impl Bounds {
    /// A single item may cost whatever it does.
    pub(super) fn admit(&self, load: Load) -> bool {
        load.items <= 1
            || (load.items <= self.items && self.cost.is_none_or(|most| self.cost(load) <= most))
    }

    pub(super) fn cost(&self, load: Load) -> u64 {
        match self.padded {
            true => load.dearest.saturating_mul(load.items as u64),
            false => load.sum,
        }
    }

    pub(super) fn size(&self, load: Load) -> Size {
        Size {
            items: load.items,
            cost: self.cost(load),
        }
    }

    /// These and no larger than `size`.
    pub(super) fn within(mut self, size: Option<Size>) -> Self {
        if let Some(size) = size {
            self.items = self.items.min(size.items);
            // Items that cost nothing never reach a bound of 1.
            let most = size.cost.max(1);
            self.cost = Some(self.cost.map_or(most, |cost| cost.min(most)));
        }
        self
    }
}

/// What makes up the cost of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) items: usize,
    sum: u64,
    dearest: u64,
}

impl Load {
    pub(super) fn of(costs: impl Iterator<Item = u64>) -> Self {
        costs.fold(Self::default(), Self::and)
    }

    pub(super) fn and(self, cost: u64) -> Self {
        Self {
            items: self.items + 1,
            sum: self.sum.saturating_add(cost),
            dearest: self.dearest.max(cost),
        }
    }
}

/// Whether a batch of these would gain nothing by waiting.
pub(super) fn full<T>(queue: &Queue<T>, bounds: &Bounds) -> bool {
    let items = queue.len();
    if items >= bounds.items {
        return true;
    }
    let Some(most) = bounds.cost else {
        return false;
    };
    if !bounds.padded {
        return queue.cost() >= u128::from(most);
    }
    // Full is what has no room for one more of its own kind.
    let another = |items: usize, dearest: u64| dearest.saturating_mul(items as u64 + 1) > most;
    another(items, queue.dearest()) && {
        let load = select(queue, bounds, None).load;
        load.items > 0 && another(load.items, load.dearest)
    }
}

/// Items that go together.
pub(super) struct Selection {
    pub(super) places: Vec<Place>,
    pub(super) load: Load,
    /// What the first of them costs.
    anchor: Option<u64>,
}

impl Selection {
    fn add(&mut self, bounds: &Bounds, (cost, place): (u64, Place)) -> bool {
        let load = self.load.and(cost);
        let fits = bounds.admit(load);
        if fits {
            self.load = load;
            self.places.push(place);
            self.anchor.get_or_insert(cost);
        }
        fits
    }
}

/// The next batch. `passing` goes before all others.
pub(super) fn select<T>(
    queue: &Queue<T>,
    bounds: &Bounds,
    passing: Option<(u64, Place)>,
) -> Selection {
    let mut chosen = Selection {
        places: Vec::new(),
        load: Load::default(),
        anchor: None,
    };
    if let Some(passing) = passing {
        chosen.add(bounds, passing);
    }
    let mut most_urgent = true;
    for class in 0..PRIORITIES as u8 {
        if chosen.load.items >= bounds.items {
            break;
        }
        let mut window = queue
            .class(class)
            .filter(|(_, place)| passing.is_none_or(|(_, passing)| passing != *place))
            .take(bounds.items.saturating_mul(WINDOW_BATCHES))
            .peekable();
        let Some(&oldest) = window.peek() else {
            continue;
        };
        if std::mem::take(&mut most_urgent) && chosen.add(bounds, oldest) {
            window.next();
        }
        add_nearest(&mut chosen, bounds, window.collect());
    }
    chosen
}

/// Adds of the `window` what fits, the nearest in cost first, among equals the oldest first.
fn add_nearest(chosen: &mut Selection, bounds: &Bounds, window: Vec<(u64, Place)>) {
    let all = window
        .iter()
        .fold(chosen.load, |load, &(cost, _)| load.and(cost));
    if bounds.admit(all) {
        for item in window {
            chosen.add(bounds, item);
        }
        return;
    }
    let Some(anchor) = chosen.anchor else {
        return;
    };
    let (mut below, mut above): (Vec<_>, Vec<_>) =
        window.into_iter().partition(|(cost, _)| *cost < anchor);
    below.sort_unstable_by_key(|&(cost, place)| (Reverse(cost), place));
    above.sort_unstable();
    let mut below = below.into_iter().peekable();
    let mut above = above.into_iter().peekable();
    let mut exhausted = false;
    while chosen.load.items < bounds.items {
        let downwards = match (below.peek(), above.peek()) {
            (Some((low, _)), Some((high, _))) if !exhausted => anchor - low < high - anchor,
            (Some(_), _) => true,
            (None, Some(_)) if !exhausted => false,
            (None, _) => break,
        };
        if downwards {
            let fits = below.next().is_some_and(|item| chosen.add(bounds, item));
            // With padding a cheaper one costs as much.
            if !fits && bounds.padded {
                break;
            }
        } else {
            // Those further above cost still more.
            exhausted = !above.next().is_some_and(|item| chosen.add(bounds, item));
        }
    }
}
