//! The power goes at any moment, on a disk that fails now and then.

use super::*;

/// Cuts the power of one log, several times, and checks each time that what was acknowledged is there,
/// and of the rest at most one frame: one that failed after the last that was acknowledged.
fn cut(seed: u64) {
    let random = &mut Random(seed);
    let mut disk = SimDisk::default();
    let mut first = 1;
    for _ in 0..1 + random.below(3) {
        remove_all(&disk).unwrap();
        let log = Log::create(Arc::new(disk.clone()), ID, first).unwrap();
        let power = random.below(120) as u64;
        disk.set_faults(Faults {
            power: Some(power),
            ..Faults::default()
        });
        let (mut acknowledged, mut failed): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
        let mut released = first - 1;
        let until = disk.operations() + power;
        while disk.operations() < until {
            let left = until - disk.operations();
            disk.set_faults(Faults {
                failing_syncs: u32::from(random.one_in(15)),
                full: random.one_in(15),
                read_only: random.one_in(30),
                power: Some(left),
            });
            let payload = payload(random);
            match log.append_bytes(&payload) {
                Ok(lsn) => {
                    assert_eq!(lsn, first + acknowledged.len() as u64, "seed {seed}");
                    acknowledged.push(payload);
                    failed.clear();
                }
                Err(_) => failed.push(payload),
            }
            if random.one_in(6) {
                log.prepare();
            }
            if random.one_in(8) && !acknowledged.is_empty() {
                released = released.max(first - 1 + random.below(acknowledged.len()) as u64);
                log.release(released);
            }
        }
        disk = disk.after_power_cut(random);
        let mut found =
            recovered(&disk, released).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let wanted = &acknowledged[(released + 1 - first) as usize..];
        if found.len() > wanted.len() {
            let last = found.pop().unwrap();
            assert!(
                failed.contains(&last),
                "seed {seed}: a frame that nobody appended"
            );
        }
        assert!(found == wanted, "seed {seed}: acknowledged frames are lost");
        first += acknowledged.len() as u64;
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    for seed in 0..4_000 {
        cut(seed);
    }
}

/// Every operation of a short log is once the last one.
#[test]
fn the_power_may_go_at_every_operation() {
    for power in 0..60 {
        for seed in 0..20 {
            let disk = SimDisk::default();
            let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
            disk.set_faults(Faults {
                power: Some(power),
                ..Faults::default()
            });
            let appended = (0..30u8)
                .take_while(|n| log.append_bytes(&[*n; 300]).is_ok())
                .count();
            let found = recovered(&disk.after_power_cut(&mut Random(seed)), 0).unwrap();
            assert!(
                (appended..=appended + 1).contains(&found.len()),
                "cut after {power}: {appended} acknowledged, {} found",
                found.len()
            );
            for (n, payload) in found.iter().enumerate() {
                assert_eq!(payload, &[n as u8; 300]);
            }
        }
    }
}
