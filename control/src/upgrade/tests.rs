use super::*;

#[test]
fn an_upgrade_is_told_in_words() {
    let restored = Restored { sessions: 1000, bindings: 900, ..Restored::default() };
    let taken = Taken::new("0.1.0", 12_345_678, &restored);
    let words = taken.words();
    assert!(words.starts_with("upgraded from 0.1.0 to "), "{words}");
    assert!(words.ends_with("stood still for 12.3 ms; 1000 sessions and 900 NAT bindings go on"), "{words}");
    let words = Taken::new("0.1.0", 1, &Restored { ended: 2, lost: 1, ..restored }).words();
    assert!(words.ends_with("2 sessions ended by the configuration, 1 could not be taken over"), "{words}");
}

#[test]
fn an_offer_is_read_as_it_was_written() {
    let mut offer = Offer::new();
    (offer.generation, offer.devices) = (7, vec![(9, vec![1, 2, 3])]);
    let text = serde_json::to_string(&offer).unwrap();
    let read: Offer = serde_json::from_str(&text).unwrap();
    assert_eq!((read.version, read.generation, read.devices), (VERSION, 7, vec![(9, vec![1, 2, 3])]));
}

#[test]
fn machine_time_goes_on() {
    let first = machine_time();
    assert!(first > 0 && machine_time() >= first);
}
