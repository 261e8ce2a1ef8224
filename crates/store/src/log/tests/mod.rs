mod damage;
mod power;

use std::sync::Arc;

use super::disk::{Disk, OsDisk};
use super::sim::{Faults, Random, SimDisk};
use super::*;

const ID: LogId = [7; 16];

/// What can be read back of the frames after `after`.
fn recovered(disk: &dyn Disk, after: u64) -> Result<Vec<Vec<u8>>, Error> {
    let mut payloads = Vec::new();
    let mut next = after + 1;
    replay(disk, &ID, after, u64::MAX, &mut |lsn, payload| {
        assert_eq!(lsn, next);
        next += 1;
        payloads.push(payload.to_vec());
        Ok(())
    })?;
    Ok(payloads)
}

fn payload(random: &mut Random) -> Vec<u8> {
    let len = match random.below(10) {
        0 => 0,
        1..=6 => random.below(300),
        7..=8 => random.below(6_000),
        _ => random.below(40_000),
    };
    let varied = random.one_in(2);
    (0..len)
        .map(|at| {
            if varied {
                random.draw() as u8
            } else {
                (at / 50) as u8
            }
        })
        .collect()
}

#[test]
fn frames_come_back_in_order_from_where_one_asks() {
    let folder = tempfile::TempDir::new().unwrap();
    let disk = Arc::new(OsDisk::beside(&folder.path().join("data.db")));
    let log = Log::create(disk.clone(), ID, 1).unwrap();
    let mut random = Random(1);
    let payloads: Vec<_> = (0..200).map(|_| payload(&mut random)).collect();
    for (at, payload) in payloads.iter().enumerate() {
        assert_eq!(log.append_bytes(payload).unwrap(), at as u64 + 1);
    }
    assert_eq!(log.last_lsn(), 200);
    assert!(disk.list().unwrap().len() > 3);
    for after in [0, 1, 77, 199, 200] {
        assert_eq!(
            recovered(&*disk, after).unwrap(),
            payloads[after as usize..],
            "after {after}"
        );
    }
    let mut some = 0;
    replay(&*disk, &ID, 10, 15, &mut |_, _| {
        some += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(some, 5);
    assert_eq!(last_of_any(&*disk).unwrap(), 200);

    drop(log);
    remove_all(&*disk).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(
        replay(&*disk, &ID, 0, u64::MAX, &mut |_, _| Ok(())).unwrap(),
        None
    );
}

#[test]
fn released_segments_are_used_again() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    for n in 0..2_000u64 {
        log.append_bytes(&[n as u8; 150]).unwrap();
        log.prepare();
        if n % 100 == 99 {
            log.release(n - 20);
        }
    }
    assert!(disk.list().unwrap().len() <= 4, "{:?}", disk.list());
    assert_eq!(recovered(&disk, 1_990).unwrap().len(), 10);
    // Files that were used again neither grow nor are they made anew.
    assert!(disk.list().unwrap().iter().all(|file| *file < 10));
}

#[test]
fn segments_of_large_frames_are_used_again_when_they_come_free_all_at_once() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    let round = || {
        for _ in 0..6 {
            // Random, so that it does not become small.
            let mut random = Random(log.last_lsn());
            let large: Vec<u8> = (0..SEGMENT_BYTES).map(|_| random.draw() as u8).collect();
            log.append_bytes(&large).unwrap();
            log.prepare();
        }
        log.release(log.last_lsn());
        disk.list().unwrap().into_iter().max()
    };
    round();
    let newest = round();
    for _ in 0..10 {
        assert_eq!(round(), newest, "a file was made anew");
    }
}

#[test]
fn what_is_released_is_asked_for_in_vain() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    for _ in 0..500 {
        log.append_bytes(&[1; 200]).unwrap();
    }
    log.release(400);
    let missing = recovered(&disk, 10).unwrap_err();
    assert!(
        matches!(&missing, Error::Corrupt(text) if text.contains("is missing")),
        "{missing}"
    );
}

#[test]
fn a_log_of_another_data_file_is_refused() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), [9; 16], 1).unwrap();
    log.append_bytes(b"theirs").unwrap();
    let refused = recovered(&disk, 0).unwrap_err();
    assert!(
        matches!(&refused, Error::Corrupt(text) if text.contains("another data file")),
        "{refused}"
    );
}

#[test]
fn a_log_of_a_newer_version_is_refused() {
    let disk = SimDisk::default();
    drop(Log::create(Arc::new(disk.clone()), ID, 1).unwrap());
    disk.with_bytes(1, |bytes| {
        bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..68]);
        bytes[68..72].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(matches!(
        recovered(&disk, 0),
        Err(Error::NewerFormat { found: 9, .. })
    ));
}

#[test]
fn a_full_disk_is_an_error_and_lifts() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    let full = Faults {
        full: true,
        ..Faults::default()
    };
    disk.set_faults(full);
    let mut stored = 0;
    let refused = loop {
        match log.append_bytes(&[5; 100]) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    // As much as the segment has room for.
    assert!(stored > 20, "{stored}");
    assert!(
        matches!(&refused, Error::Io(text) if text.contains("free some disk space")),
        "{refused}"
    );
    assert!(log.append_bytes(&[5; 100]).is_err());
    disk.set_faults(Faults::default());
    log.append_bytes(b"again").unwrap();
    let all = recovered(&disk, 0).unwrap();
    assert_eq!(all.len(), stored + 1);
    assert_eq!(all[stored], b"again");
}

#[test]
fn a_read_only_disk_is_an_error_and_lifts() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    log.append_bytes(b"before").unwrap();
    disk.set_faults(Faults {
        read_only: true,
        ..Faults::default()
    });
    for _ in 0..100 {
        assert!(matches!(log.append_bytes(b"lost"), Err(Error::Io(_))));
    }
    disk.set_faults(Faults::default());
    log.append_bytes(b"after").unwrap();
    assert_eq!(
        recovered(&disk, 0).unwrap(),
        [b"before".to_vec(), b"after".to_vec()]
    );
}

#[test]
fn nothing_is_written_behind_a_failed_flush() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    log.append_bytes(b"first").unwrap();
    disk.set_faults(Faults {
        failing_syncs: 1,
        ..Faults::default()
    });
    assert!(matches!(log.append_bytes(b"lost"), Err(Error::Io(_))));
    let before = disk.with_bytes(1, |bytes| bytes.clone());
    assert_eq!(log.append_bytes(b"second").unwrap(), 2);
    assert_eq!(disk.with_bytes(1, |bytes| bytes.clone()), before);
    assert_eq!(
        recovered(&disk, 0).unwrap(),
        [b"first".to_vec(), b"second".to_vec()]
    );
}

#[test]
fn a_log_that_nobody_takes_over_is_full_at_some_point() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    let big = vec![0; 200_000];
    log.keep("the disk is broken".into());
    let refused = (0..200).find_map(|_| log.append_bytes(&big).err()).unwrap();
    let refused = refused.to_string();
    assert!(
        refused.contains("full") && refused.ends_with("broken"),
        "{refused}"
    );
    log.release(log.last_lsn() - 5);
    log.append_bytes(&big).unwrap();
}

#[test]
fn a_log_is_never_released_as_a_whole() {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    log.append_bytes(b"only").unwrap();
    disk.set_faults(Faults {
        failing_syncs: 1,
        ..Faults::default()
    });
    log.append_bytes(b"lost").unwrap_err();
    log.release(1);
    assert!(
        replay(&disk, &ID, 1, u64::MAX, &mut |_, _| Ok(()))
            .unwrap()
            .is_some()
    );
}
