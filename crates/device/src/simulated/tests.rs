use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Fault, Injection, Settings, Simulated};
use crate::Device;

const GIB: u64 = 1 << 30;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// 10 GiB; a call of n items takes 10 + n ms and n GiB.
fn device() -> Simulated {
    Simulated::new(Settings {
        memory: 10 * GIB,
        latency: ms(10),
        per_item: ms(1),
        item_memory: GIB,
        load: ms(100),
        ..Settings::default()
    })
}

fn free(device: &Simulated) -> u64 {
    device.memory().unwrap().free / GIB
}

#[tokio::test(start_paused = true)]
async fn calls_wait_in_turn_and_are_counted() {
    let device = device();
    tokio::time::advance(ms(5)).await;
    let started = Instant::now();
    let calls = join_all([2, 4, 6].map(|items| {
        let device = device.clone();
        async move {
            device.execute(items).await.unwrap();
            started.elapsed()
        }
    }));
    assert_eq!(calls.await, [ms(12), ms(26), ms(42)]);
    tokio::time::advance(ms(42)).await;
    device.execute(1).await.unwrap();

    let report = device.report();
    assert_eq!((report.executions, report.items), (4, 13));
    assert_eq!(report.busy_us, 53_000);
    assert_eq!(report.first_start_us, Some(5_000));
    assert_eq!(report.last_end_us, Some(100_000));
    assert!((report.busy_share - 53.0 / 95.0).abs() < 1e-9);
    assert_eq!((report.waiting, report.waiting_max), (0, 2));
    assert_eq!(report.memory_max, 6 * GIB);
    assert_eq!(report.device, "sim:0");
}

#[tokio::test(start_paused = true)]
async fn a_call_in_progress_shows() {
    let device = device();
    let mut call = Box::pin(device.execute(10));
    assert!(timeout(ms(5), &mut call).await.is_err());
    assert_eq!(free(&device), 0);
    assert_eq!(device.report().busy_us, 5_000);
    assert_eq!(device.utilisation(), Some(1.0));
    call.await.unwrap();
    assert_eq!(free(&device), 10);
    tokio::time::advance(ms(15)).await;
    assert_eq!(device.utilisation(), Some(0.5), "15 of the last 30 ms");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_device_to_the_next() {
    let device = device();
    let mut first = Box::pin(device.execute(2));
    assert!(timeout(ms(5), &mut first).await.is_err());
    let mut second = Box::pin(device.execute(2));
    assert!(timeout(ms(2), &mut second).await.is_err());
    drop(first);
    drop(second);
    let report = device.report();
    assert_eq!((report.executions, report.cancelled), (0, 1));
    assert_eq!((report.busy_us, report.waiting), (7_000, 0));
    assert_eq!(free(&device), 10);
    device.execute(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_not_free_is_an_error_with_numbers() {
    let device = device();
    assert_eq!(
        device.execute(11).await,
        Err(Fault::BatchTooLarge(
            "needs 11 GiB, 10 GiB free on sim:0".to_owned()
        ))
    );
    let model = device.load(4 * GIB).await.unwrap();
    assert_eq!(free(&device), 6);
    assert_eq!(
        device.execute(7).await.unwrap_err().to_string(),
        "batch too large: needs 7 GiB, 6 GiB free on sim:0"
    );
    device.set_foreign(2 * GIB + GIB / 2);
    assert_eq!(
        device.execute(6).await,
        Err(Fault::OutOfMemory(
            "needs 6 GiB, 3.5 GiB free on sim:0".to_owned()
        ))
    );
    assert!(matches!(
        device.load(4 * GIB).await,
        Err(Fault::OutOfMemory(_))
    ));
    assert!(matches!(
        device.load(11 * GIB).await,
        Err(Fault::ModelTooLarge(_))
    ));
    device.set_foreign(0);
    drop(model);
    assert_eq!(free(&device), 10);
    let report = device.report();
    assert_eq!((report.loads, report.unloads, report.failed), (1, 1, 3));
    assert_eq!(report.busy_us, 0);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_dropped_gives_the_memory_back() {
    let device = device();
    assert!(timeout(ms(50), device.load(4 * GIB)).await.is_err());
    assert_eq!(free(&device), 10);
    let report = device.report();
    assert_eq!((report.loads, report.unloads), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn injected_faults_come_as_often_as_they_were_ordered() {
    let device = device();
    device.inject(Injection::OutOfMemory { calls: 2 });
    for _ in 0..2 {
        assert!(matches!(
            device.execute(1).await,
            Err(Fault::OutOfMemory(_))
        ));
    }
    device.execute(1).await.unwrap();

    device.inject(Injection::BatchTooLarge { above: 4 });
    for _ in 0..2 {
        assert!(matches!(
            device.execute(5).await,
            Err(Fault::BatchTooLarge(_))
        ));
        device.execute(4).await.unwrap();
    }

    device.inject(Injection::Slow { factor: 2.0 });
    device.inject(Injection::Stall {
        calls: 1,
        time: Duration::from_secs(60),
    });
    let started = Instant::now();
    device.execute(2).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(60) + ms(24));

    device.clear();
    let started = Instant::now();
    device.execute(5).await.unwrap();
    assert_eq!(started.elapsed(), ms(15));
    let report = device.report();
    assert_eq!((report.executions, report.failed), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_item_fails_its_call_in_the_calls_time() {
    let device = device();
    device.poison("b");
    device.execute_ids(["a", "c"]).await.unwrap();
    let fault = device.execute_ids(["a", "b", "c"]).await.unwrap_err();
    assert_eq!(fault.to_string(), "sim:0 cannot compute item b");
    let report = device.report();
    assert_eq!((report.items, report.failed), (2, 1));
    assert_eq!(report.busy_us, 25_000);
}

#[tokio::test(start_paused = true)]
async fn no_call_ends_while_the_file_is_there() {
    let file = std::env::temp_dir().join(format!("tidemill-stall-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let device = Simulated::new(Settings {
        stall: Some(file.clone()),
        ..Settings::default()
    });
    let mut call = Box::pin(device.execute(1));
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, &mut call).await.is_err());
    assert_eq!(device.report().executions, 0);
    assert_eq!(
        device.report().busy_us,
        3_600_000_000,
        "a stalled call computes"
    );
    std::fs::remove_file(&file).unwrap();
    call.await.unwrap();
    assert_eq!(device.report().executions, 1);
    let started = Instant::now();
    device.execute(1).await.unwrap();
    assert_eq!(started.elapsed(), ms(21));
}
