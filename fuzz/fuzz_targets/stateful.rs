#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidemill_fuzzing::stateful(data));
