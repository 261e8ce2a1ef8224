//! Bytes that change while nobody looks.

use super::*;

/// A disk with a log of some segments, and the payloads in it.
fn written(random: &mut Random) -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    let payloads: Vec<_> = (0..20 + random.below(40))
        .map(|_| payload(random))
        .collect();
    for payload in &payloads {
        log.append_bytes(payload).unwrap();
    }
    (disk, payloads)
}

/// A change is found, or it hit what holds nothing, or the very last frame, which cannot be told from one
/// that was never finished.
#[test]
fn a_changed_byte_is_never_read_as_another() {
    let (mut named, mut harmless, mut cut) = (0, 0, 0);
    for seed in 0..1_500 {
        let random = &mut Random(seed);
        let (disk, payloads) = written(random);
        let files = disk.list().unwrap();
        let file = files[random.below(files.len())];
        disk.with_bytes(file, |bytes| {
            // Half of the time in a head, where few bytes lie.
            let range = if random.one_in(2) { 600 } else { bytes.len() };
            let at = random.below(range.min(bytes.len()));
            bytes[at] ^= 1 << random.below(8);
        });
        match recovered(&disk, 0) {
            Err(Error::Corrupt(text)) => {
                assert!(text.contains("log-"), "seed {seed}: {text}");
                named += 1;
            }
            Err(other) => panic!("seed {seed}: {other}"),
            Ok(found) if found == payloads => harmless += 1,
            Ok(found) => {
                assert!(
                    found == payloads[..payloads.len() - 1],
                    "seed {seed}: {} of {} frames",
                    found.len(),
                    payloads.len()
                );
                cut += 1;
            }
        }
    }
    assert!(
        named > 300 && harmless > 100 && cut > 5,
        "{named} named, {harmless} harmless, {cut} cut"
    );
}

#[test]
fn a_lost_segment_is_noticed() {
    for seed in 0..100 {
        let random = &mut Random(seed);
        let (disk, payloads) = written(random);
        let files = disk.list().unwrap();
        let lost = files[random.below(files.len())];
        disk.remove(lost).unwrap();
        match recovered(&disk, 0) {
            Err(Error::Corrupt(_)) => {}
            Err(other) => panic!("seed {seed}: {other}"),
            // The newest: nothing in the log itself says that it was there.
            Ok(found) => assert!(
                lost == files[files.len() - 1] && payloads.starts_with(&found),
                "seed {seed}"
            ),
        }
    }
}

/// What a user stores must not be taken for the log's own.
#[test]
fn a_payload_that_looks_like_a_frame_is_none() {
    let mut draft = Draft::default();
    draft.put(|out| out.extend_from_slice(b"forged"));
    // Another log's id: ours is random, and nobody outside knows it.
    let (_, forged) = draft.frame(&[8; 16], 50, 0).unwrap();
    let disk = SimDisk::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).unwrap();
    log.append_bytes(b"first").unwrap();
    // As it stands here it lies at a block's beginning, in a frame that is too large to be compressed.
    let prefix = vec![0; BLOCK - frame::HEADER];
    log.append_bytes(&[prefix, forged.repeat(300)].concat())
        .unwrap();
    let file = disk.list().unwrap()[1];
    assert!(
        frame::find(
            &[8; 16],
            &disk.with_bytes(file, |b| b.clone()).into(),
            0,
            50
        )
        .is_some()
    );
    // The second frame's head is torn.
    disk.with_bytes(file, |bytes| bytes[FIRST as usize + 9] ^= 1);
    assert_eq!(recovered(&disk, 0).unwrap(), [b"first".to_vec()]);
}
