//! Any bytes as a capture: it ends, and every packet is within the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_dataplane::port::pcap::Reader;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = Reader::new("fuzz", bytes) else { return };
    let mut total = 0;
    loop {
        match reader.advance() {
            Ok(Some(record)) => {
                assert!(reader.bytes().len() <= record.wire_len as usize);
                // No record comes without at least its own header in the file.
                total += reader.bytes().len() + 16;
                assert!(total <= bytes.len());
            }
            Ok(None) => break,
            Err(error) => {
                assert!(error.offset.is_none_or(|at| at <= bytes.len() as u64));
                assert!(!error.to_string().contains('\n'));
                break;
            }
        }
    }
    assert!(matches!(reader.advance(), Ok(None)));
});
