#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| csmoe_fuzz::geo_bench(data));
