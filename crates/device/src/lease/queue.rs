//! The queue of requests: who is granted what, and why the others wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::state::{Held, State, WHOLE, Waiter};
use super::{Answer, Holder, Lease, Leases, Never, Request};
use crate::admit::{Pinned, Wanted};
use crate::ledger::{Ledger, Promise};
use tidemill_pipeline::size;

/// How often a device is asked for its memory while somebody waits for that: other processes do not
/// tell when they free some.
const POLL: Duration = Duration::from_millis(200);

/// A place in the queue, which dropping it leaves.
pub(super) struct Ticket {
    leases: Arc<Leases>,
    id: u64,
    pub(super) answer: oneshot::Receiver<Answer>,
    pub(super) reason: watch::Receiver<String>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = {
            let queue = &mut self.leases.state.lock().queue;
            let place = queue.iter().position(|waiter| waiter.id == self.id);
            place.and_then(|place| queue.remove(place)).is_some()
        };
        if left {
            self.leases.pump();
        }
    }
}

/// The answer that a ticket got.
pub(super) fn received(answer: Result<Answer, oneshot::error::RecvError>) -> Answer {
    answer.unwrap_or_else(|_| Err(Never("the devices are no longer offered".to_owned())))
}

/// A device as a waiter finds it.
struct View {
    index: usize,
    /// Bytes, and how many of them for the model.
    needs: u64,
    model: u64,
    share: u32,
    has_share: bool,
    /// Bytes, or why the device does not tell.
    free: Result<u64, String>,
    has_memory: bool,
    /// It is kept for this waiter, who came earlier.
    kept_for: Option<usize>,
}

impl View {
    fn is_ready(&self) -> bool {
        self.has_share && self.has_memory && self.kept_for.is_none()
    }

    fn lacks_only_memory(&self) -> bool {
        self.has_share && !self.has_memory && self.kept_for.is_none()
    }

    /// Ready when the leases on it have ended, as far as one can know. What these use is theirs to
    /// know, so that it may be more than they were promised.
    fn will_be_ready(&self) -> bool {
        self.has_memory || self.share > 0
    }
}

/// What one pass through the queue came to.
#[derive(Default)]
struct Pass {
    granted: Vec<(oneshot::Sender<Answer>, Lease)>,
    /// For each device, the bytes that are missing for the first who waits for nothing else.
    missing: BTreeMap<usize, u64>,
}

/// What was promised to one who is granted.
struct Promised {
    memory: Vec<Promise>,
    model: Option<Pinned>,
}

/// Free memory and the limit of each device, which is asked once in a pass.
struct Memories(Vec<Option<(Result<u64, String>, u64)>>);

impl Memories {
    fn of(&mut self, ledgers: &[Arc<Ledger>], index: usize) -> (Result<u64, String>, u64) {
        let ask = || {
            let ledger = &ledgers[index];
            let free = ledger.free().map_err(|error| error.to_string());
            (free, ledger.limit().unwrap_or(u64::MAX))
        };
        self.0[index].get_or_insert_with(ask).clone()
    }

    fn forget(&mut self, devices: &[usize]) {
        for index in devices {
            self.0[*index] = None;
        }
    }
}

impl Leases {
    /// Devices that a request may get, memory aside.
    pub(super) fn candidates(&self, request: &Request) -> impl Iterator<Item = usize> {
        let names = self.ledgers.iter().map(|ledger| ledger.device().name());
        names
            .enumerate()
            .filter(|(_, name)| request.on.as_deref().is_none_or(|on| on == *name))
            .map(|(index, _)| index)
    }

    pub(super) fn enqueue(
        self: &Arc<Self>,
        request: Request,
        holder: Holder,
        wanted: Option<Wanted>,
    ) -> Result<Ticket, Never> {
        let (answer, answered) = oneshot::channel();
        let (reason, reasons) = watch::channel(String::new());
        let older = |other: &Holder| other.name == holder.name && other.attempt < holder.attempt;
        let mut outdated = Vec::new();
        let id = {
            let mut state = self.state.lock();
            let held = state.live.values().map(|held| &held.holder);
            let others = held.chain(state.queue.iter().map(|waiter| &waiter.holder));
            let newer = others
                .filter(|other| other.name == holder.name && other.attempt > holder.attempt)
                .max_by_key(|other| other.attempt);
            if let Some(newer) = newer {
                return Err(gave_way(&holder, newer));
            }
            state.end_all(older);
            for waiter in std::mem::take(&mut state.queue) {
                match older(&waiter.holder) {
                    true => outdated.push(waiter),
                    false => state.queue.push_back(waiter),
                }
            }
            let id = state.id();
            state.queue.push_back(Waiter {
                id,
                share: millionths(request.share),
                request,
                wanted,
                holder: holder.clone(),
                answer,
                reason,
                kept: Vec::new(),
                runtime: Handle::current(),
            });
            id
        };
        for waiter in outdated {
            let refusal = gave_way(&waiter.holder, &holder);
            // Who is no longer there need not be told.
            let _ = waiter.answer.send(Err(refusal));
        }
        Ok(Ticket {
            leases: Arc::clone(self),
            id,
            answer: answered,
            reason: reasons,
        })
    }

    /// Grants what can be granted, and tells the others why they wait. To be called whenever
    /// something was freed or somebody came or left.
    pub(super) fn pump(self: &Arc<Self>) {
        let shortage = self.shortage.lock().clone();
        let mut may_free = shortage.is_some();
        loop {
            let Pass { granted, missing } = self.grant(may_free);
            for (answer, lease) in granted {
                // Who left in the meantime gives it back, by dropping it.
                let _ = answer.send(Ok(lease));
            }
            let Some(shortage) = shortage.as_ref().filter(|_| may_free) else {
                break;
            };
            if missing.is_empty() {
                break;
            }
            // All of them, so not `any`.
            let freed = missing
                .into_iter()
                .filter(|(index, bytes)| shortage(self.ledgers[*index].device().name(), *bytes))
                .count();
            may_free = freed > 0;
        }
        self.poll();
    }

    /// Goes through the queue once. When memory may be freed, who waits for it has devices kept for
    /// it until that was tried, and nobody is told why he waits, as there is another pass.
    fn grant(self: &Arc<Self>, may_free: bool) -> Pass {
        let mut pass = Pass::default();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.short = false;
        let mut memory = Memories(vec![None; self.ledgers.len()]);
        let mut kept_for: Vec<Option<usize>> = vec![None; self.ledgers.len()];
        let mut waiters: VecDeque<Waiter> = VecDeque::with_capacity(state.queue.len());
        let mut reasons = Vec::with_capacity(state.queue.len());
        for mut waiter in std::mem::take(&mut state.queue) {
            let mut views = self.views(state, &waiter, &kept_for, &mut memory);
            if let Some(chosen) = choose(&waiter.request, &views) {
                let promised = self.promise(&waiter, &chosen);
                let devices: Vec<usize> = chosen.iter().map(|view| view.index).collect();
                memory.forget(&devices);
                if let Some(promised) = promised {
                    let granted = self.hold(state, waiter, devices, promised);
                    pass.granted.push(granted);
                    continue;
                }
                // A model took the memory since it was looked at.
                views = self.views(state, &waiter, &kept_for, &mut memory);
                state.short = true;
            }
            waiter.keep(&views, may_free);
            let reason = self.reason(state, &waiter, &views, &waiters);
            for view in views.iter().filter(|view| view.lacks_only_memory()) {
                state.short = true;
                let free = view.free.as_ref().map_or(0, |free| *free);
                let bytes = view.needs.saturating_sub(free).max(1);
                pass.missing.entry(view.index).or_insert(bytes);
            }
            for index in &waiter.kept {
                kept_for[*index].get_or_insert(waiters.len());
            }
            reasons.push(reason);
            waiters.push_back(waiter);
        }
        if !may_free || pass.missing.is_empty() {
            for (waiter, reason) in waiters.iter().zip(reasons) {
                waiter.reason.send_if_modified(|told| {
                    let changed = *told != reason;
                    *told = reason;
                    changed
                });
            }
        }
        state.queue = waiters;
        pass
    }

    fn views(
        &self,
        state: &State,
        waiter: &Waiter,
        kept_for: &[Option<usize>],
        memory: &mut Memories,
    ) -> Vec<View> {
        let mut views = Vec::new();
        for index in self.candidates(&waiter.request) {
            let name = self.ledgers[index].device().name();
            let model = waiter
                .wanted
                .as_ref()
                .map_or(0, |wanted| wanted.needs(name, waiter.request.memory));
            let needs = model.saturating_add(waiter.request.memory);
            // Who needs no memory does not ask for it: that is a call into the driver.
            let (free, limit) = match needs {
                0 => (Ok(0), 0),
                _ => memory.of(&self.ledgers, index),
            };
            if limit < needs {
                // Too small, ever.
                continue;
            }
            let share = state.devices[index].share;
            views.push(View {
                index,
                needs,
                model,
                share,
                has_share: share + waiter.share <= WHOLE,
                has_memory: free.as_ref().is_ok_and(|free| *free >= needs),
                free,
                kept_for: kept_for[index],
            });
        }
        views
    }

    /// Memory on all of these devices and the model, or nothing.
    fn promise(&self, waiter: &Waiter, chosen: &[&View]) -> Option<Promised> {
        let memory = waiter.request.memory;
        let promises = chosen
            .iter()
            .map(|view| self.ledgers[view.index].promise(memory));
        let memory = promises.collect::<Option<Vec<_>>>()?;
        let model = match (&waiter.wanted, chosen) {
            (Some(wanted), [view, ..]) => {
                let name = self.ledgers[view.index].device().name();
                Some(wanted.pin(name, view.model)?)
            }
            _ => None,
        };
        Some(Promised { memory, model })
    }

    fn hold(
        self: &Arc<Self>,
        state: &mut State,
        waiter: Waiter,
        devices: Vec<usize>,
        promised: Promised,
    ) -> (oneshot::Sender<Answer>, Lease) {
        let now = Instant::now();
        for index in &devices {
            let slot = &mut state.devices[*index];
            slot.share += waiter.share;
            slot.since.get_or_insert(now);
        }
        let id = state.id();
        let lease = Lease {
            leases: Arc::clone(self),
            id,
            holder: waiter.holder.clone(),
            devices: devices
                .iter()
                .map(|index| Arc::clone(self.ledgers[*index].device()))
                .collect(),
            ended: CancellationToken::new(),
            pinned: promised.model,
        };
        let held = Held {
            holder: waiter.holder,
            devices,
            share: waiter.share,
            memory: waiter.request.memory,
            promises: promised.memory,
            ended: lease.ended.clone(),
            since: now,
        };
        state.live.insert(id, held);
        (waiter.answer, lease)
    }

    fn reason(
        &self,
        state: &State,
        waiter: &Waiter,
        views: &[View],
        ahead: &VecDeque<Waiter>,
    ) -> String {
        let name = |view: &View| self.ledgers[view.index].device().name();
        let lacking = || views.iter().filter(|view| !view.is_ready());
        let memory = lacking()
            .filter(|view| view.lacks_only_memory())
            .max_by_key(|view| (view.free.as_ref().ok(), std::cmp::Reverse(view.index)));
        let held = lacking()
            .filter(|view| !view.has_share)
            .min_by_key(|view| view.share);
        let kept = lacking().find_map(|view| Some((view, view.kept_for?)));
        let text = match (memory, held, kept) {
            (Some(view), _, _) => match &view.free {
                Ok(free) => format!(
                    "needs {}, {} free on {}",
                    size::up(view.needs),
                    size::down(*free),
                    name(view)
                ),
                Err(error) => error.clone(),
            },
            (None, Some(view), _) => {
                let live = state.live.values();
                let holders: Vec<&str> = live
                    .filter(|held| held.devices.contains(&view.index))
                    .map(|held| held.holder.name.as_str())
                    .collect();
                format!("{} is held by {}", name(view), names(&holders))
            }
            (None, None, Some((view, place))) => {
                let first = &ahead[place].holder.name;
                format!("{} is kept for {first}, which came earlier", name(view))
            }
            // A model came first; it is tried again when that has its memory.
            (None, None, None) => "waits for its turn".to_owned(),
        };
        match waiter.request.devices {
            1 => text,
            devices => {
                let ready = views.iter().filter(|view| view.is_ready()).count();
                format!("needs {devices} devices, {ready} free: {text}")
            }
        }
    }

    /// Sees to it that somebody asks the devices again while a request waits for memory.
    fn poll(self: &Arc<Self>) {
        let runtime = {
            let mut state = self.state.lock();
            let Some(first) = state
                .queue
                .front()
                .filter(|_| state.short && !state.polling)
            else {
                return;
            };
            let runtime = first.runtime.clone();
            state.polling = true;
            runtime
        };
        let mut polling = Polling(Arc::downgrade(self));
        // Made before the devices are asked, so that what changes meanwhile is not missed.
        let mut changed = Arc::clone(&self.changed).notified_owned();
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(POLL) => {}
                    () = changed => {}
                }
                let Some(leases) = polling.0.upgrade() else {
                    return;
                };
                changed = Arc::clone(&leases.changed).notified_owned();
                leases.pump();
                let mut state = leases.state.lock();
                if !state.short {
                    state.polling = false;
                    polling.leave();
                    return;
                }
            }
        });
    }
}

/// Says that nobody polls when its task ends, be it with its runtime.
struct Polling(Weak<Leases>);

impl Polling {
    /// Somebody else may poll from here on.
    fn leave(&mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some(leases) = self.0.upgrade() {
            leases.state.lock().polling = false;
        }
    }
}

/// The devices for a request, if as many as it needs are ready: those that hold the model, and the
/// least shared, first.
fn choose<'a>(request: &Request, views: &'a [View]) -> Option<Vec<&'a View>> {
    let wanted = request.devices as usize;
    let mut ready: Vec<&View> = views.iter().filter(|view| view.is_ready()).collect();
    ready.sort_by_key(|view| {
        let free = std::cmp::Reverse(view.free.as_ref().ok());
        (view.model > 0, view.share, free)
    });
    ready.truncate(wanted);
    (ready.len() == wanted).then_some(ready)
}

impl Waiter {
    /// Chooses the devices to be kept for it: as many as it needs, if so many will be ready.
    fn keep(&mut self, views: &[View], may_free: bool) {
        let will_be = |view: &View| view.will_be_ready() || (may_free && view.lacks_only_memory());
        let stays = |index: &usize| {
            let mut views = views.iter();
            views.any(|view| view.index == *index && will_be(view))
        };
        if !self.kept.is_empty() && self.kept.iter().all(stays) {
            return;
        }
        let mut views: Vec<&View> = views.iter().filter(|view| will_be(view)).collect();
        views.sort_by_key(|view| {
            let order = (view.kept_for.is_some(), !view.is_ready());
            (order, !view.will_be_ready(), view.share)
        });
        let wanted = self.request.devices as usize;
        self.kept = match views.len() >= wanted {
            true => views.iter().take(wanted).map(|view| view.index).collect(),
            false => Vec::new(),
        };
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is above 0 and at most 1 when it comes here"
)]
fn millionths(share: f64) -> u32 {
    ((share * f64::from(WHOLE)).round() as u32).clamp(1, WHOLE)
}

fn gave_way(older: &Holder, newer: &Holder) -> Never {
    Never(format!(
        "attempt {} of {} gave way to attempt {}",
        older.attempt, older.name, newer.attempt
    ))
}

/// The first two, and how many more.
fn names(all: &[&str]) -> String {
    match all {
        [first, second] => format!("{first} and {second}"),
        [first, second, rest @ ..] => format!("{first}, {second} and {} more", rest.len()),
        few => few.join(""),
    }
}
