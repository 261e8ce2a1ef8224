//! Thousands of random steps from one seed: every item gets exactly one answer, and that of its own;
//! no batch is above its limits; nothing is left.

use std::collections::BTreeMap;

use super::*;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Debug)]
struct Work {
    key: usize,
    number: u64,
    cost: u64,
    poison: bool,
}

/// Slow, failing now and then, with a memory that changes; it checks what it gets.
struct Wild {
    key: usize,
    limits: Limits,
    random: Mutex<Random>,
    permits: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    /// What it should never have been given. (A panic here would be an answer.)
    wrong: Mutex<Vec<String>>,
}

impl Wild {
    fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.lock().push(what());
        }
    }

    fn within(&self, items: usize, cost: u64) -> bool {
        let cost_fits = self.limits.cost.is_none_or(|most| cost <= most);
        items == 1 || (items > 1 && items <= self.limits.items && cost_fits)
    }
}

fn load(items: &[Work], padded: bool) -> u64 {
    let costs = items.iter().map(|item| item.cost);
    match padded {
        true => costs.max().unwrap_or(0) * items.len() as u64,
        false => costs.sum(),
    }
}

#[async_trait]
impl Execute<Work, (usize, u64)> for Wild {
    type Permit = Counted;

    fn scope(&self) -> String {
        self.key.to_string()
    }

    async fn admit(&self, items: usize, cost: u64) -> Result<Counted, Error> {
        let draw = self.random.lock().below(100);
        self.expect(self.within(items, cost), || {
            format!("admit {items}, {cost}")
        });
        sleep(ms(draw % 7)).await;
        match draw {
            0 => Err(Error::new(Kind::Unavailable, "not now")),
            1 => panic!("in admission"),
            _ => Ok(Counted::new(&self.permits)),
        }
    }

    async fn execute(
        &self,
        _: &mut Counted,
        items: Vec<Work>,
    ) -> Result<Vec<Result<(usize, u64), Error>>, Error> {
        let _running = Counted::new(&self.running);
        let (size, cost) = (items.len(), load(&items, self.limits.padded));
        let running = self.running.load(SeqCst);
        self.expect(running <= self.limits.lanes, || format!("{running} run"));
        self.expect(self.within(size, cost), || format!("execute {items:?}"));
        let own = items.iter().all(|item| item.key == self.key);
        self.expect(own, || format!("{} with {items:?}", self.key));
        let (draw, latency, fits) = {
            let mut random = self.random.lock();
            (random.below(200), random.below(30), 2 + random.below(60))
        };
        sleep(ms(latency)).await;
        if size as u64 > fits {
            return Err(Error::new(Kind::BatchTooLarge, "too large"));
        }
        if items.iter().any(|item| item.poison) {
            return Err(Error::new(Kind::Failed, "poison"));
        }
        match draw {
            0 => return Err(Error::new(Kind::OutOfMemory, "for a while")),
            1 => return Err(Error::new(Kind::RateLimited, "too often")),
            2 => panic!("in the call"),
            3 => return Ok(Vec::new()),
            _ => {}
        }
        let results = items.iter().map(|item| match item.number % 97 {
            0 => Err(Error::new(Kind::Invalid, "wrong")),
            _ => Ok((item.key, item.number)),
        });
        Ok(results.collect())
    }
}

struct Submission {
    task: JoinHandle<Vec<Result<(usize, u64), Error>>>,
    items: Vec<Work>,
    aborted: bool,
}

async fn check(seed: u64) {
    let mut random = Random(seed);
    let permits = Arc::new(AtomicUsize::new(0));
    let batchers = Arc::new(Batchers::new(3, ms(200)));
    let mut wild = BTreeMap::new();
    for key in 0..4 {
        let limits = Limits {
            items: 1 + random.below(40) as usize,
            delay: ms(random.below(20)),
            cost: (random.below(2) == 0).then(|| 50 + random.below(500)),
            padded: random.below(2) == 0,
            queue: 1 + random.below(100) as usize,
            lanes: 1 + random.below(3) as usize,
        };
        let fake = Wild {
            key,
            limits,
            random: Mutex::new(Random(random.next())),
            permits: permits.clone(),
            running: Arc::default(),
            wrong: Mutex::default(),
        };
        wild.insert(key, Arc::new(fake));
    }
    let safe = Arc::new(SafeSizes::new());
    let mut submissions: Vec<Submission> = Vec::new();
    let mut number = 0;
    for _ in 0..1500 {
        match random.below(10) {
            0..=5 => {
                let key = random.below(4) as usize;
                let count = match random.below(20) {
                    0 => random.below(300),
                    _ => 1 + random.below(3),
                };
                let items: Vec<Item<Work>> = (0..count)
                    .map(|_| {
                        number += 1;
                        let cost = random.below(60);
                        Item {
                            value: Work {
                                key,
                                number,
                                cost,
                                poison: random.below(200) == 0,
                            },
                            cost,
                            priority: 1 + random.below(5) as u8,
                            deadline: (random.below(5) == 0)
                                .then(|| Instant::now() + ms(random.below(300))),
                        }
                    })
                    .collect();
                let fake = &wild[&key];
                let batcher = batchers
                    .get_or_make(&key.to_string(), || {
                        Batcher::new(fake.limits.clone(), fake.clone(), safe.clone())
                    })
                    .unwrap();
                submissions.push(Submission {
                    items: items.iter().map(|item| item.value.clone()).collect(),
                    task: tokio::spawn(async move { batcher.submit_all(items).await }),
                    aborted: false,
                });
            }
            6 if !submissions.is_empty() => {
                let index = random.below(submissions.len() as u64) as usize;
                submissions[index].task.abort();
                submissions[index].aborted = true;
            }
            7 => tokio::task::yield_now().await,
            _ => sleep(ms(random.below(25))).await,
        }
        for (key, batcher) in batchers.all() {
            let queue = wild[&key.parse().unwrap()].limits.queue;
            assert!(batcher.stats().queued <= 5 * queue, "seed {seed}");
        }
    }
    // Nothing waits for ever: a day is more than all of it can take.
    for submission in submissions {
        let ended = tokio::time::timeout(ms(86_400_000), submission.task);
        let results = match ended.await.unwrap_or_else(|_| panic!("seed {seed}: stuck")) {
            Ok(results) => results,
            Err(error) => {
                assert!(
                    error.is_cancelled() && submission.aborted,
                    "seed {seed}: {error}"
                );
                continue;
            }
        };
        assert_eq!(results.len(), submission.items.len(), "seed {seed}");
        for (item, result) in submission.items.iter().zip(results) {
            match result {
                Ok(result) => {
                    assert_eq!(result, (item.key, item.number), "seed {seed}");
                    assert!(!item.poison && item.number % 97 != 0, "seed {seed}");
                }
                Err(error) => assert_ne!(error.kind, Kind::Cancelled, "seed {seed}: {error}"),
            }
        }
    }
    for (key, batcher) in batchers.all() {
        while !batcher.is_idle() {
            sleep(ms(1)).await;
        }
        let stats = batcher.stats();
        let answered = stats.succeeded + stats.failed + stats.expired + stats.cancelled;
        assert_eq!(
            stats.submitted, answered,
            "seed {seed}, key {key}: {stats:?}"
        );
        assert_eq!((stats.queued, stats.running), (0, 0), "seed {seed}");
    }
    for fake in wild.values() {
        let wrong = fake.wrong.lock();
        assert!(
            wrong.is_empty(),
            "seed {seed}, {:?}: {wrong:?}",
            fake.limits
        );
    }
    assert_eq!(permits.load(SeqCst), 0, "seed {seed}: a permit is left");
}

#[tokio::test(start_paused = true)]
async fn every_item_gets_one_answer_whatever_happens() {
    for seed in 0..20 {
        check(seed).await;
    }
}
