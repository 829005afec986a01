#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| csmoe_fuzz::major_tom(data));
