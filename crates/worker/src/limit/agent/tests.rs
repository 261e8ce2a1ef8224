use super::*;

fn granted(requests: u64, tokens: u64) -> Granted {
    Granted {
        now_ms: 1_000_000,
        late: false,
        forgotten: false,
        amount: Amount::new(requests, tokens),
        wait_ms: 0,
        pace_ms: 1_000,
        closed: None,
        too_large: None,
        concurrent: None,
        lease_ms: 60_000,
        running: Vec::new(),
        too_heavy: Vec::new(),
        contended: false,
    }
}

fn wait(inner: &mut Inner, tokens: u64) -> oneshot::Receiver<Result<u64, CallError>> {
    let (give, given) = oneshot::channel();
    inner.waiting.push_back(Waiter {
        tokens,
        expected: tokens,
        give,
    });
    given
}

fn line_up(inner: &mut Inner, task: &str) -> watch::Receiver<Standing> {
    let (standing, watched) = watch::channel(Standing::Waits);
    inner.slots_made += 1;
    inner.slots.push(Held {
        id: inner.slots_made,
        slot: Slot {
            task: task.to_owned(),
            attempt: 1,
            weight: 1,
            runs: false,
        },
        standing,
    });
    watched
}

/// Asks and takes in the answer; what was asked.
fn ask(inner: &mut Inner, answer: Granted) -> Ask {
    let asked = Instant::now();
    let (ask, ids) = inner.compose("w", 0);
    inner.take_in(&ask, &ids, answer, asked, 0);
    inner.serve(0);
    ask
}

#[tokio::test(start_paused = true)]
async fn requests_are_let_through_in_their_order_and_those_given_up_are_passed() {
    let mut inner = Inner::default();
    let mut first = wait(&mut inner, 100);
    let gone = wait(&mut inner, 50);
    let mut third = wait(&mut inner, 10);
    drop(gone);
    let asked = ask(&mut inner, granted(1, 60));
    assert_eq!((asked.want, asked.least), (Amount::new(2, 110), 100));
    // There would be enough for the third, but it came later.
    assert!(first.try_recv().is_err() && third.try_recv().is_err());
    let asked = ask(&mut inner, granted(1, 50));
    assert_eq!(asked.least, 40);
    assert!(first.try_recv().expect("decided").is_ok());
    assert!(third.try_recv().expect("decided").is_ok());
}

#[tokio::test(start_paused = true)]
async fn it_asks_when_there_is_a_reason_and_not_before_it_may() {
    let mut inner = Inner::default();
    assert_eq!(inner.due(), None);
    let _one = wait(&mut inner, 10);
    assert_eq!(inner.due(), Some(Instant::now()), "the first at once");
    let mut answer = granted(0, 0);
    answer.wait_ms = 700;
    ask(&mut inner, answer);
    let now = Instant::now();
    assert_eq!(inner.due(), Some(now + Duration::from_millis(700)));
    inner.urgent = true;
    assert_eq!(inner.due(), Some(now + SOON));
    ask(&mut inner, granted(1, 10));
    // One is on the way: the limit hears of it with the usual pace.
    assert_eq!(inner.due(), Some(now + Duration::from_millis(1_000)));
    let _slot = line_up(&mut inner, "t");
    let mut answer = granted(0, 0);
    answer.running = vec!["t".to_owned()];
    answer.lease_ms = 1_500;
    ask(&mut inner, answer);
    assert_eq!(
        inner.due(),
        Some(now + Duration::from_millis(500)),
        "leases are renewed"
    );
}

#[tokio::test(start_paused = true)]
async fn tasks_hear_how_it_stands_with_their_slots() {
    let mut inner = Inner::default();
    let runs = line_up(&mut inner, "runs");
    let waits = line_up(&mut inner, "waits");
    let heavy = line_up(&mut inner, "heavy");
    let mut answer = granted(0, 0);
    answer.concurrent = Some(1);
    answer.running = vec!["runs".to_owned()];
    answer.too_heavy = vec!["heavy".to_owned()];
    ask(&mut inner, answer.clone());
    assert!(matches!(*runs.borrow(), Standing::Runs { .. }));
    assert!(matches!(*waits.borrow(), Standing::Waits));
    let Standing::Refused(error) = heavy.borrow().clone() else {
        panic!("it can never run");
    };
    assert!(
        error
            .message
            .contains("its weight is 1 and its limit lets 1"),
        "{error}"
    );
    // Somebody else has it now.
    answer.running.clear();
    let asked = ask(&mut inner, answer);
    let claims: Vec<bool> = asked.slots.iter().map(|slot| slot.runs).collect();
    assert_eq!(claims, [true, false, false]);
    assert!(matches!(*runs.borrow(), Standing::Lost));
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_sent_is_told() {
    let mut inner = Inner::default();
    let mut large = wait(&mut inner, 10_000);
    let mut small = wait(&mut inner, 1);
    let mut answer = granted(0, 0);
    answer.too_large = Some(900);
    ask(&mut inner, answer);
    let error = large.try_recv().expect("decided").expect_err("too large");
    assert!(error.message.contains("about 10000 tokens"), "{error}");
    assert!(small.try_recv().is_err(), "it waits on");
    let waits = line_up(&mut inner, "waits");
    inner.fail("there is none");
    let error = small.try_recv().expect("decided").expect_err("no limit");
    assert_eq!(error.message, "there is none");
    assert!(
        matches!(&*waits.borrow(), Standing::Refused(error) if error.message == "there is none")
    );
}
