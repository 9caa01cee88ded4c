//! Any bytes as a message of PCP or NAT-PMP.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_pkt::{natpmp, pcp};

fuzz_target!(|bytes: &[u8]| {
    let (mut read, mut wrong) = (0, 0);
    for option in pcp::Options(bytes) {
        assert_eq!(wrong, 0, "the list ends with what is wrong");
        match option {
            Ok(option) => {
                assert_eq!(option.bytes.as_ptr(), bytes[read..].as_ptr(), "one behind the other");
                assert!(option.bytes.len() % pcp::UNIT == 0 && option.data.len() + pcp::UNIT <= option.bytes.len());
                read += option.bytes.len();
                let filter = pcp::filter::Filter::at(option.data, 0);
                assert_eq!(filter.is_some(), option.data.len() >= pcp::filter::LEN);
            }
            Err(pcp::BadOption) => wrong += 1,
        }
    }
    assert!(wrong == 1 || read == bytes.len());
    assert_eq!(pcp::Header::at(bytes, 0).is_some(), bytes.len() >= pcp::LEN);
    assert_eq!(pcp::map::Map::at(bytes, pcp::LEN).is_some(), bytes.len() >= pcp::LEN + pcp::map::LEN);
    assert_eq!(natpmp::map::Request::at(bytes, 0).is_some(), bytes.len() >= natpmp::map::LEN);
});
