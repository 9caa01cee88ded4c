//! Quantities with a unit, as people write them: `50 Mbit/s`, `128 kB`, `2h4min`.

use std::time::Duration;

use super::report::quote;

/// Why a value was refused, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A quantity, however it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Magnitude {
    Rate(Tokens),
    Burst(Tokens),
    Time(Duration),
}

/// The quantity that a text stands for, if it is one.
pub(crate) fn magnitude(text: &str) -> Option<Magnitude> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) || !text.ends_with(char::is_alphabetic) {
        return None;
    }
    let rate = rate(text).map(Magnitude::Rate);
    rate.or_else(|_| burst(text).map(Magnitude::Burst)).or_else(|_| duration(text).map(Magnitude::Time)).ok()
}

/// Tokens of a rate or a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Bits a second; bytes.
    Bytes(u64),
    /// Packets a second; packets.
    Packets(u64),
}

/// Rate: in bits a second, decimal units, `50 Mbit/s`, `50mbit`, `1.5 Gbit/s`, from 1 kbit/s to 1000 Gbit/s; or in packets a
/// second, `10000 pps`, `10 kpps`, `1.5 Mpps`, from 1 to 1000 Mpps.
pub(crate) fn rate(text: &str) -> Result<Tokens, Wrong> {
    const HELP: &str = "a rate is a number with bit/s, kbit/s, Mbit/s or Gbit/s, or with pps, kpps or Mpps, such as \"50 Mbit/s\" or \"10 kpps\"";
    let wrong = || Wrong::new(format!("{} is not a rate", quote(text))).help(HELP);
    let out_of_range =
        |help: &str| Wrong::new(format!("the rate {} is out of range", quote(text))).help(help);
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let unit = unit.to_lowercase();
    let packets = match unit.as_str() {
        "pps" => Some(1),
        "kpps" => Some(1_000),
        "mpps" => Some(1_000_000),
        _ => None,
    };
    if let Some(factor) = packets {
        return match scale(number, factor).ok_or_else(wrong)? {
            packets @ 1..=1_000_000_000 => Ok(Tokens::Packets(packets)),
            _ => Err(out_of_range("a rate lies between 1 pps and 1000 Mpps")),
        };
    }
    let unit = unit.strip_suffix("/s").or(unit.strip_suffix("ps")).unwrap_or(&unit);
    let factor = match unit {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    match scale(number, factor).ok_or_else(wrong)? {
        bits @ 1_000..=1_000_000_000_000 => Ok(Tokens::Bytes(bits)),
        _ => Err(out_of_range("a rate lies between 1 kbit/s and 1000 Gbit/s")),
    }
}

/// As [`rate`], of bits alone.
pub(crate) fn bit_rate(text: &str) -> Result<u64, Wrong> {
    match rate(text)? {
        Tokens::Bytes(bits) => Ok(bits),
        Tokens::Packets(_) => Err(Wrong::new(format!("{} counts packets", quote(text)))
            .help("a shaper goes by bits, such as \"50 Mbit/s\"; `[[limits]]` can count packets")),
    }
}

/// Burst: a [`size`], or a number of packets, `100 packets`, up to 100 millions.
pub(crate) fn burst(text: &str) -> Result<Tokens, Wrong> {
    let Some((number, "packets" | "packet")) = split_number(text) else {
        return size(text).map(Tokens::Bytes);
    };
    match scale(number, 1) {
        Some(packets @ 1..=100_000_000) => Ok(Tokens::Packets(packets)),
        _ => Err(Wrong::new(format!("{} is out of range", quote(text))).help("from 1 to 100000000 packets")),
    }
}

/// Size in bytes: `1500 B`, decimal `128 kB`, `1 MB`, binary `64 KiB`, `1 MiB`. From 1 byte to 4 GiB.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    const HELP: &str = "a size is a number with B, kB, MB, KiB or MiB, such as \"128 kB\"";
    let wrong = || Wrong::new(format!("{} is not a size", quote(text))).help(HELP);
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let factor = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(wrong()),
    };
    match scale(number, factor).ok_or_else(wrong)? {
        bytes @ 1..=0x1_0000_0000 => Ok(bytes),
        _ => {
            Err(Wrong::new(format!("the size {} is out of range", quote(text))).help("from 1 B to 4096 MiB"))
        }
    }
}

/// Octets of a quota: `500 GB`, `1.5 TB`.
pub(crate) fn quota(text: &str) -> Result<u64, Wrong> {
    const HELP: &str = "a quota is a number with B, kB, MB, GB or TB, such as \"500 GB\"";
    let wrong = || Wrong::new(format!("{} is not a quota", quote(text))).help(HELP);
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let factor = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let octets = scale(number, factor).filter(|octets| (1..=1_000_000_000_000_000_000).contains(octets));
    octets.ok_or_else(|| {
        Wrong::new(format!("the quota {} is out of range", quote(text))).help("from 1 B to 1000000 TB")
    })
}

/// Time, as whole numbers with units, larger ones first: `30s`, `5min`, `2h4min`, `1d`, `500ms`. From 1 ms to 30 days.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    const HELP: &str = "a time is made of numbers with d, h, min, s or ms, such as \"30s\" or \"2h4min\"";
    let wrong = || Wrong::new(format!("{} is not a time", quote(text))).help(HELP);
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let milliseconds = match unit {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "min" | "m" => 60_000,
            "s" | "sec" => 1_000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        if milliseconds >= last {
            return Err(wrong());
        }
        last = milliseconds;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total =
            number.checked_mul(milliseconds).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = tail.trim_start();
    }
    match total {
        0 if last == u64::MAX => Err(wrong()),
        1..=2_592_000_000 => Ok(Duration::from_millis(total)),
        _ => Err(Wrong::new(format!("the time {} is out of range", quote(text))).help("from 1ms to 30d")),
    }
}

/// Splits `1.5 Mbit` into (`1.5`, `Mbit`).
fn split_number(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then(|| (number, unit.trim()))
}

/// `number`, which may have a decimal point and up to nine digits behind it, times `factor`; `None` unless it comes out whole.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let unit = 10u128.checked_pow(u32::try_from(fraction.len()).ok().filter(|&digits| digits <= 9)?)?;
    let whole: u128 = u128::from(whole.parse::<u64>().ok()?);
    let parts = whole * unit + u128::from(fraction.parse::<u64>().ok()?);
    let product = parts * u128::from(factor);
    (product % unit == 0).then(|| u64::try_from(product / unit).ok())?
}

/// A rate in the largest unit in which it is whole: `50 Mbit/s`, `1500 kbit/s`.
pub(crate) fn show_rate(bits: u64) -> String {
    let units = [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1000), ("bit/s", 1)];
    let whole = units.into_iter().find(|&(_, factor)| bits >= factor && bits % factor == 0);
    whole.map_or_else(|| "0 bit/s".to_owned(), |(unit, factor)| format!("{} {unit}", bits / factor))
}

/// `2h 4min` for [`Duration`]s in messages.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut shown = String::new();
    for (unit, milliseconds) in
        [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if rest >= milliseconds {
            shown += &format!("{}{unit}", rest / milliseconds);
            rest %= milliseconds;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates() {
        for (text, bits) in [
            ("50 Mbit/s", 50_000_000),
            ("50mbit", 50_000_000),
            ("1.5 Gbit/s", 1_500_000_000),
            ("64kbit", 64_000),
            ("9600 bit/s", 9_600),
            ("10 Mbps", 0),
            ("0.001 Mbit/s", 1_000),
            ("1000 Gbit/s", 1_000_000_000_000),
        ] {
            let expected = if bits == 0 { None } else { Some(Tokens::Bytes(bits)) };
            assert_eq!(rate(text).ok(), expected, "{text}");
        }
        for (text, packets) in
            [("1 pps", 1), ("10 kpps", 10_000), ("1.5Mpps", 1_500_000), ("1000 Mpps", 1_000_000_000)]
        {
            assert_eq!(rate(text), Ok(Tokens::Packets(packets)), "{text}");
        }
        for text in ["0 pps", "0.5 pps", "1001 Mpps", "1 Gpps", "pps"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in
            ["", "50", "Mbit", "-1 Mbit", "1e3 Mbit", "1 bit", "1001 Gbit", "0.0001 kbit", "1..2 Mbit", "."]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1500 B", 1500), ("128kB", 128_000), ("1.5 MiB", 1_572_864), ("64 KiB", 65_536)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0 B", "1.5 B", "5 GB", "128 kb", "99999999999999999999 MB", "4097 MiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bursts() {
        assert_eq!(burst("64 KiB"), Ok(Tokens::Bytes(65_536)));
        assert_eq!(burst("100 packets"), Ok(Tokens::Packets(100)));
        for text in ["0 packets", "1.5 packets", "100000001 packets", "100", "packets"] {
            assert!(burst(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30), ("5min", 300), ("2h4min", 7440), ("2h 4min", 7440), ("1d", 86_400)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            " ",
            "30",
            "s",
            "0s",
            "4min2h",
            "1h1h",
            "5 minutes",
            "-1s",
            "1.5s",
            "31d",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_shown_reads_back(milliseconds in 1u64..=2_592_000_000) {
            let time = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
        }

        #[test]
        fn rates_that_are_shown_read_back(bits in 1000u64..=1_000_000_000_000) {
            prop_assert_eq!(bit_rate(&show_rate(bits)), Ok(bits));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}", number in "[0-9.]{0,40}", unit in "[a-zA-Z/]{0,6}") {
            for text in [text, format!("{number}{unit}")] {
                let _ = (rate(&text), size(&text), duration(&text));
            }
        }
    }
}
