//! What a rule can ask of a packet, and which samples answer yes. Membership is always computed from the condition that
//! ends up in the rule, never from how it was found, so that a rule selects exactly what was counted.

use levee_api::filter::{Constraint, HeaderBox, Pattern, Rule};
use levee_api::lane::{LANES, Lane};

use super::members::Members;
use crate::sample::{SAMPLE_PAYLOAD, Sample};

/// How many payload bytes one [`Pattern`] can span.
const PATTERN_SPAN: u16 = 16;

/// A box and perhaps payload bytes: a rule without holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) matches: HeaderBox,
    pub(super) pattern: Option<Pattern>,
}

impl Condition {
    /// Everything.
    pub(super) const fn any() -> Self {
        Self::header(HeaderBox::any())
    }

    /// Headers alone.
    pub(super) const fn header(matches: HeaderBox) -> Self {
        Self { matches, pattern: None }
    }

    /// Both; none when the payload bytes lie too far apart for one pattern, or contradict each other.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        let pattern = match (self.pattern, other.pattern) {
            (Some(one), Some(two)) => Some(merge(&one, &two)?),
            (one, two) => one.or(two),
        };
        let matches = self.matches.and(&other.matches);
        (!matches.is_empty()).then_some(Self { matches, pattern })
    }

    /// The rule that asks for this and nothing else.
    pub(super) fn rule(&self, except: Vec<HeaderBox>) -> Rule {
        Rule { matches: self.matches, pattern: self.pattern, except }
    }
}

/// One pattern that asks for both.
fn merge(one: &Pattern, two: &Pattern) -> Option<Pattern> {
    let offset = one.offset.min(two.offset);
    let end = (one.offset + u16::from(one.length)).max(two.offset + u16::from(two.length));
    let length = u8::try_from(end - offset).ok().filter(|length| u16::from(*length) <= PATTERN_SPAN)?;
    let mut merged = Pattern { offset, length, bytes: [0; 16], mask: [0; 16] };
    for part in [one, two] {
        let at = usize::from(part.offset - offset);
        let wanted = part.bytes.iter().zip(&part.mask).take(usize::from(part.length));
        for ((byte, mask), (want, care)) in
            merged.bytes.iter_mut().skip(at).zip(merged.mask.iter_mut().skip(at)).zip(wanted)
        {
            if (*byte ^ want) & *mask & care != 0 {
                return None;
            }
            *byte |= want & care;
            *mask |= care;
        }
    }
    Some(merged)
}

/// The payload bytes of a sample that are present.
pub(super) fn payload(sample: &Sample) -> &[u8] {
    sample.payload.get(..usize::from(sample.present).min(SAMPLE_PAYLOAD)).unwrap_or(&sample.payload)
}

/// Samples, turned so that one condition is asked of all of them at once.
pub(super) struct Population<'a> {
    pub(super) samples: Vec<&'a Sample>,
    columns: Vec<Vec<u16>>,
}

impl<'a> Population<'a> {
    pub(super) fn of(samples: Vec<&'a Sample>) -> Self {
        let columns = Lane::ALL.iter().map(|of| samples.iter().map(|sample| sample.lanes.get(*of)).collect()).collect();
        Self { samples, columns }
    }

    pub(super) fn size(&self) -> usize {
        self.samples.len()
    }

    /// The samples that satisfy a condition.
    pub(super) fn members(&self, condition: &Condition) -> Members {
        let mut members: Option<Members> = None;
        for constraint in condition.matches.constraints() {
            let (lane, found) = match constraint {
                Constraint::Range { lane, lo, hi } => {
                    (lane, Members::where_each(self.column(lane), |value| (lo..=hi).contains(value)))
                }
                Constraint::Mask { lane, masked } => {
                    (lane, Members::where_each(self.column(lane), |value| masked.matches(*value)))
                }
            };
            debug_assert!(lane.index() < LANES);
            members = Some(members.map_or_else(|| found.clone(), |members| members.and(&found)));
        }
        let members = members.unwrap_or_else(|| Members::all(self.size()));
        let Some(pattern) = condition.pattern else { return members };
        members.and(&Members::where_each(&self.samples, |sample| pattern.matches(payload(sample))))
    }

    fn column(&self, lane: Lane) -> &[u16] {
        self.columns.get(lane.index()).map_or(&[], Vec::as_slice)
    }

    /// Smallest and largest value of a lane, but for the `ignored` most extreme samples on either side.
    pub(super) fn span(&self, lane: Lane, ignored: usize) -> Option<(u16, u16)> {
        let mut values = self.column(lane).to_vec();
        values.sort_unstable();
        Some((*values.get(ignored)?, *values.get(values.len().checked_sub(ignored + 1)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(offset: u16, bytes: &[u8]) -> Pattern {
        let mut pattern = Pattern { offset, length: u8::try_from(bytes.len()).unwrap(), bytes: [0; 16], mask: [0; 16] };
        for (index, byte) in bytes.iter().enumerate() {
            (pattern.bytes[index], pattern.mask[index]) = (*byte, 0xff);
        }
        pattern
    }

    #[test]
    fn two_patterns_become_one_that_asks_for_both() {
        let merged = merge(&bytes(8, &[3, 4]), &bytes(2, &[1, 2])).unwrap();
        assert!(merged.matches(&[9, 9, 1, 2, 9, 9, 9, 9, 3, 4]));
        assert!(!merged.matches(&[9, 9, 1, 2, 9, 9, 9, 9, 3, 5]));
        assert!(!merged.matches(&[9, 9, 1, 2, 9, 9, 9, 9, 3]), "absent bytes are no match");
        assert_eq!(merge(&bytes(0, &[1]), &bytes(16, &[1])), None, "too far apart");
        assert_eq!(merge(&bytes(0, &[1, 2]), &bytes(1, &[3])), None, "they contradict each other");
    }
}
