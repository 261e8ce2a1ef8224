//! Workers under backlog against a provider that counts strictly, in simulated time.

use std::collections::VecDeque;

use tidemill_pipeline::limit::Ledger;

use super::*;

struct Random(u64);

impl Random {
    /// From `low` to below `high`.
    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low)
    }
}

struct Case {
    config: Config,
    workers: usize,
    /// Requests that a worker has at a time.
    concurrency: usize,
    /// Estimated tokens of a request.
    tokens: (u64, u64),
    /// Percent of the estimate that it takes.
    takes: (u64, u64),
    /// Milliseconds until it is answered.
    answer: (u64, u64),
    /// Milliseconds of an ask, each way.
    engine: (u64, u64),
    /// When the first worker dies.
    dies: Option<u64>,
    windows: u64,
}

#[derive(Default)]
struct Sim {
    ledger: Ledger,
    seq: u64,
    /// Estimated and expected tokens of requests that wait.
    waiting: VecDeque<(u64, u64)>,
    under_way: Vec<UnderWay>,
    asking: Option<Asking>,
    ask_at: u64,
    dead: bool,
}

struct UnderWay {
    number: u64,
    arrives: Option<u64>,
    answered: u64,
    tokens: u64,
}

struct Asking {
    ask: Ask,
    sent: u64,
    processed: u64,
    granted: Option<(Granted, u64)>,
}

/// What came of it, as shares of the cap.
#[derive(Debug)]
struct Outcome {
    /// The most tokens of any window.
    most: f64,
    /// Between the first request and the last.
    used: f64,
}

/// What arrives at the provider, and how it counts.
struct Provider {
    window: u64,
    arrivals: VecDeque<(u64, u64)>,
    counted: u64,
    most: u64,
    total: u64,
    first: Option<u64>,
    last: u64,
}

impl Provider {
    fn arrive(&mut self, now: u64, tokens: u64) {
        while let Some((at, tokens)) = self.arrivals.front().copied()
            && at + self.window <= now
        {
            self.arrivals.pop_front();
            self.counted -= tokens;
        }
        self.arrivals.push_back((now, tokens));
        self.counted += tokens;
        self.most = self.most.max(self.counted);
        self.total += tokens;
        self.first.get_or_insert(now);
        self.last = now;
    }
}

fn run(case: &Case, seed: u64) -> Outcome {
    let mut random = Random(seed * 7_919 + 1);
    let mut limit = limit(case.config.clone());
    let window = case.config.window_ms;
    let mut provider = Provider {
        window,
        arrivals: VecDeque::new(),
        counted: 0,
        most: 0,
        total: 0,
        first: None,
        last: 0,
    };
    let mut workers: Vec<Sim> = (0..case.workers).map(|_| Sim::default()).collect();
    let end = window * case.windows;
    for now in (0..end).step_by(5) {
        for (index, worker) in workers.iter_mut().enumerate() {
            for request in &mut worker.under_way {
                if request.arrives.is_some_and(|at| at <= now) {
                    request.arrives = None;
                    provider.arrive(now, request.tokens);
                }
            }
            worker.dead |= index == 0 && case.dies.is_some_and(|at| at <= now);
            if !worker.dead {
                send(worker, now, case, &mut random);
                ask(worker, index, &mut limit, now, case, &mut random);
            }
        }
    }
    let cap = case.config.cap().1.expect("a cap") as f64;
    let span = provider.last - provider.first.expect("something was sent");
    Outcome {
        most: provider.most as f64 / cap,
        used: provider.total as f64 / cap / (span as f64 / window as f64),
    }
}

fn send(worker: &mut Sim, now: u64, case: &Case, random: &mut Random) {
    let ledger = &mut worker.ledger;
    worker.under_way.retain(|request| {
        let over = request.arrives.is_none() && request.answered <= now;
        if over {
            ledger.ended(request.number, Some(request.tokens), now);
        }
        !over
    });
    while worker.waiting.len() + worker.under_way.len() < case.concurrency {
        let estimate = random.between(case.tokens);
        let expected = ledger.expected(estimate);
        worker.waiting.push_back((estimate, expected));
    }
    while let Some((estimate, expected)) = worker.waiting.front().copied()
        && let Some(number) = ledger.take(estimate, expected, now)
    {
        worker.waiting.pop_front();
        worker.under_way.push(UnderWay {
            number,
            arrives: Some(now + random.between((1, 40))),
            answered: now + 40 + random.between(case.answer),
            tokens: estimate * random.between(case.takes) / 100,
        });
    }
}

/// Asks as the worker's client does.
fn ask(
    worker: &mut Sim,
    index: usize,
    limit: &mut Limit,
    now: u64,
    case: &Case,
    random: &mut Random,
) {
    let pace = (case.config.window_ms / ASKS).max(50);
    if let Some(asking) = &mut worker.asking {
        if asking.granted.is_none() && asking.processed <= now {
            let granted = limit.ask(&asking.ask, NOW + now as i64);
            asking.granted = Some((granted, now + random.between(case.engine)));
        }
        if let Some((granted, at)) = &asking.granted
            && *at <= now
        {
            worker.ledger.granted(granted, asking.sent);
            worker.ask_at = now + granted.wait_ms.max(pace / 4);
            worker.asking = None;
        }
        return;
    }
    if worker.waiting.is_empty() || now < worker.ask_at {
        return;
    }
    worker.seq += 1;
    let mut ask = Ask {
        worker: index.to_string(),
        seq: worker.seq,
        ..Ask::default()
    };
    let mut wait = Amount::default();
    for (_, expected) in &worker.waiting {
        wait += Amount::new(1, *expected);
    }
    worker.ledger.ask(&mut ask, wait, pace, now);
    let first = worker.waiting.front().map(|(_, expected)| *expected);
    let unspent = worker.ledger.unspent().tokens;
    ask.least = first.unwrap_or(0).saturating_sub(unspent);
    worker.asking = Some(Asking {
        ask,
        sent: now,
        processed: now + random.between(case.engine),
        granted: None,
    });
}

fn usual() -> Case {
    Case {
        config: tokens(600_000),
        workers: 8,
        concurrency: 4,
        tokens: (20, 2_000),
        takes: (100, 101),
        answer: (5, 50),
        engine: (2, 50),
        dies: None,
        windows: 6,
    }
}

/// Runs a case with several seeds: the cap holds in each window, and so much of it is used.
fn check(name: &str, at_least: f64, case: &Case) {
    for seed in 1..4 {
        let outcome = run(case, seed);
        println!("{name}, seed {seed}: {outcome:?}");
        assert!(outcome.most <= 1.0, "{name}, seed {seed}: {outcome:?}");
        assert!(outcome.used >= at_least, "{name}, seed {seed}: {outcome:?}");
    }
}

#[test]
fn workers_use_the_cap_and_never_exceed_it() {
    check("fast answers", 0.93, &usual());
    let slow = Case {
        answer: (1_000, 20_000),
        concurrency: 60,
        ..usual()
    };
    check("slow answers", 0.93, &slow);
    let slow = Case {
        engine: (100, 700),
        ..usual()
    };
    check("a slow engine", 0.90, &slow);
    let large = Case {
        tokens: (20_000, 60_000),
        ..usual()
    };
    check("large requests", 0.90, &large);
    let one = Case {
        workers: 1,
        concurrency: 32,
        ..usual()
    };
    check("one worker", 0.93, &one);
    let many = Case {
        concurrency: 64,
        ..usual()
    };
    check("many hands", 0.93, &many);
}

#[test]
fn estimates_that_are_off_are_made_up_for() {
    let high = Case {
        takes: (30, 70),
        ..usual()
    };
    check("too high", 0.90, &high);
    let low = Case {
        takes: (120, 130),
        ..usual()
    };
    check("too low", 0.90, &low);
}

#[test]
fn a_worker_that_dies_costs_no_more_than_what_it_held() {
    let dies = Case {
        dies: Some(70_000),
        ..usual()
    };
    check("one dies", 0.90, &dies);
}

#[test]
fn shorter_windows_hold_too() {
    let short = Case {
        config: Config {
            window_ms: 10_000,
            ..tokens(600_000)
        },
        windows: 12,
        ..usual()
    };
    check("ten seconds", 0.90, &short);
}
