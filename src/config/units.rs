//! Typed quantities of the configuration: byte sizes and durations, written with their unit.
//!
//! Promise: a quantity is never read without a unit (`"30s"`, `"2GiB"`), and what [`ByteSize`]'s `Display` and
//! [`show_duration`] write is read back as the same quantity. A bare number is refused, because whether `30` means
//! seconds or milliseconds is the mistake this module exists to prevent. Called by `config::value` for every key of
//! such a type, and by the command line for flags that carry a quantity.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// The text is no quantity with a known unit, or too large to be held.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("expected {expected}, got {got:?}")]
pub struct BadQuantity {
    /// What would have been read.
    pub expected: &'static str,
    /// The text as given.
    pub got: String,
}

/// What a byte size looks like, for error texts.
pub const BYTE_SIZE_EXPECTED: &str = "a size with a unit, such as \"64MB\" or \"2GiB\"";
/// What a duration looks like, for error texts.
pub const DURATION_EXPECTED: &str = "a duration with a unit, such as \"500ms\", \"30s\" or \"10m\"";

/// A number of bytes. Written with a unit: `B`, the decimal `kB MB GB TB` (powers of 1000) or the binary
/// `KiB MiB GiB TiB` (powers of 1024); case does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Unit names in lower case with the bytes each stands for; larger units first, so that `Display` finds the largest
/// that divides.
const BYTE_UNITS: [(&str, &str, u64); 9] = [
    ("TiB", "tib", 1 << 40),
    ("TB", "tb", 1_000_000_000_000),
    ("GiB", "gib", 1 << 30),
    ("GB", "gb", 1_000_000_000),
    ("MiB", "mib", 1 << 20),
    ("MB", "mb", 1_000_000),
    ("KiB", "kib", 1 << 10),
    ("kB", "kb", 1_000),
    ("B", "b", 1),
];

const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];

impl ByteSize {
    /// `count` × 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` × 1024² bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` × 1024³ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let refused = || BadQuantity { expected: BYTE_SIZE_EXPECTED, got: text.to_owned() };
        let (number, unit) = split_quantity(text).ok_or_else(refused)?;
        let unit = unit.to_ascii_lowercase();
        let &(_, _, bytes) = BYTE_UNITS.iter().find(|(_, name, _)| *name == unit).ok_or_else(refused)?;
        scale(number, bytes).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        for (name, _, bytes) in BYTE_UNITS {
            if self.0.is_multiple_of(bytes) {
                return write!(f, "{}{name}", self.0 / bytes);
            }
        }
        unreachable!("every whole number of bytes is a multiple of one byte")
    }
}

/// Reads a duration: a decimal number with `us`, `ms`, `s`, `m`, `h` or `d`, or several in falling order as Go writes
/// them (`1h30m`). Resolution is a microsecond.
///
/// # Errors
/// [`BadQuantity`] where the unit is missing or unknown, the number is negative or the sum does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, BadQuantity> {
    let refused = || BadQuantity { expected: DURATION_EXPECTED, got: text.to_owned() };
    let mut rest = text.trim();
    let mut total_us = 0u64;
    let mut unit_before = u64::MAX;
    if rest.is_empty() {
        return Err(refused());
    }
    while !rest.is_empty() {
        let digits = number_length(rest);
        let (number, after) = rest.split_at(digits);
        let name_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (name, after) = after.split_at(name_length);
        let unit_us = duration_unit_us(name.trim()).ok_or_else(refused)?;
        if unit_us >= unit_before {
            return Err(refused());
        }
        unit_before = unit_us;
        let part_us = scale(number, unit_us).ok_or_else(refused)?;
        total_us = total_us.checked_add(part_us).ok_or_else(refused)?;
        rest = after;
    }
    Ok(Duration::from_micros(total_us))
}

/// Writes a duration in the largest unit that divides it, so that [`parse_duration`] reads the same value back.
pub fn show_duration(duration: Duration) -> String {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if us == 0 {
        return "0s".to_owned();
    }
    match DURATION_UNITS.iter().find(|(_, unit)| us.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", us / unit),
        None => format!("{us}us"),
    }
}

fn duration_unit_us(name: &str) -> Option<u64> {
    match name {
        "us" | "µs" => Some(1),
        _ => DURATION_UNITS.iter().find(|(unit, _)| *unit == name).map(|&(_, us)| us),
    }
}

fn split_quantity(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let (number, unit) = text.split_at(number_length(text));
    let unit = unit.trim();
    (!number.is_empty() && !unit.is_empty()).then_some((number, unit))
}

fn number_length(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len())
}

/// `number` (decimal, maybe with a fraction) times `unit`, exactly; `None` where it does not come out whole or fit.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    let tens = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    if parts % tens != 0 {
        return None;
    }
    whole.checked_add(u64::try_from(parts / tens).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64MB", 64_000_000),
            ("2GiB", 2 << 30),
            ("1.5 KiB", 1536),
            ("3kb", 3000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn sizes_without_a_unit_or_out_of_range_are_refused() {
        for text in ["", "64", "GiB", "-1B", "1.B", ".5MB", "1.2.3MB", "2 gigs", "99999999999TiB", "0.3B", "1e3B"] {
            let error = text.parse::<ByteSize>().expect_err(text);
            assert_eq!(error.got, text);
        }
    }

    #[test]
    fn durations_are_read_singly_and_in_falling_order() {
        for (text, us) in [
            ("500ms", 500_000),
            ("30s", 30_000_000),
            ("10m", 600_000_000),
            ("24h", 86_400_000_000),
            ("1h30m", 5_400_000_000),
            ("1.5s", 1_500_000),
            ("7us", 7),
            ("2d", 172_800_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_unit_or_out_of_order_are_refused() {
        for text in ["", "30", "s", "-1s", "30m1h", "1s1s", "1y", "0.0000001s", "99999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64, us: u64) {
            proptest::prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            let duration = Duration::from_micros(us);
            proptest::prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
