//! How much one peer may write into the log: a peer that flaps has much to say, and always the same.

use std::time::Duration;

/// Lines at once.
const AT_ONCE: u32 = 10;
/// After this, one more.
const ONE_MORE: Duration = Duration::from_secs(60);

/// The lines of one peer.
#[derive(Debug)]
pub(super) struct Lines {
    left: u32,
    /// When the last one was added, or none was missing.
    since: Duration,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { left: AT_ONCE, since: Duration::ZERO, left_out: 0 }
    }
}

impl Lines {
    /// What to write of a line: nothing, or the line, with how many were left out before it.
    pub(super) fn next(&mut self, line: &str, now: Duration) -> Option<String> {
        while self.left < AT_ONCE && self.since + ONE_MORE <= now {
            self.left += 1;
            self.since += ONE_MORE;
        }
        if self.left == AT_ONCE {
            self.since = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.left = left;
        Some(match std::mem::take(&mut self.left_out) {
            0 => line.to_owned(),
            more => format!("{line} ({more} lines about this peer were left out before this one)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_lines_become_a_few_and_a_number() {
        let mut lines = Lines::default();
        let mut written = Vec::new();
        // Ten a second, for ten minutes.
        for tenth in 0..6_000_u64 {
            written.extend(lines.next("it is down", Duration::from_secs(1_000) + Duration::from_millis(tenth * 100)));
        }
        assert_eq!(written.len(), 10 + 9);
        assert_eq!(written[9], "it is down");
        assert!(written[10].contains("590 lines about this peer were left out"), "{}", written[10]);
        let later = Duration::from_secs(100_000);
        let again = (0..20).filter_map(|_| lines.next("it is up", later)).count();
        assert_eq!(again, 10);
    }
}
