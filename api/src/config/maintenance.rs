//! `[[maintenance]]`: times of the week in which conditions may decide otherwise (`now.maintenance`).

use std::ops::Range;

use super::general::{name, values};
use super::problem::Fault;
use super::section::{Section, choose};

/// A time of the week, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// What it is called in timelines.
    pub name: String,
    /// Names of zones; empty: all.
    pub zones: Vec<String>,
    /// Days on which it begins, 0 is Monday; empty: every day.
    pub weekdays: Vec<u8>,
    /// Minute of the day at which it begins.
    pub from: u16,
    /// Minute of the day at which it ends; not later than `from`: on the next day.
    pub to: u16,
    /// Where its name stands, in bytes of the file.
    pub span: Range<usize>,
}

const DAY: u64 = 24 * 60;
const WEEKDAYS: &[(&str, u8)] = &[("mon", 0), ("tue", 1), ("wed", 2), ("thu", 3), ("fri", 4), ("sat", 5), ("sun", 6)];

impl Maintenance {
    /// True at this time, seconds since 1970 in UTC.
    pub fn contains(&self, zone: &str, unix_seconds: u64) -> bool {
        if !self.zones.is_empty() && !self.zones.iter().any(|known| known == zone) {
            return false;
        }
        let minutes = unix_seconds / 60;
        let (minute, day) = (minutes % DAY, minutes / DAY);
        let begins_on = |day: u64| {
            // 1970-01-01 was a Thursday.
            let weekday = (day + 3) % 7;
            self.weekdays.is_empty() || self.weekdays.iter().any(|known| u64::from(*known) == weekday)
        };
        let (from, to) = (u64::from(self.from), u64::from(self.to));
        if from < to {
            (from..to).contains(&minute) && begins_on(day)
        } else {
            (minute >= from && begins_on(day)) || (minute < to && begins_on(day + 6))
        }
    }
}

pub(super) fn read(file: &Section<'_>) -> Vec<Maintenance> {
    file.tables("maintenance").into_iter().filter_map(|table| window(table)).collect()
}

fn window(mut table: Section<'_>) -> Option<Maintenance> {
    let name = table.required("name", "\"sunday night\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("maintenance {:?}", name.value));
    }
    let zones = values(table.parsed_list("zones", super::general::name).unwrap_or_default());
    let weekdays = table.parsed_list("weekdays", |text| choose("weekdays", text, WEEKDAYS)).unwrap_or_default();
    let from = table.required("from", "\"02:00\"", |table, key| table.parsed(key, time_of_day));
    let to = table.required("to", "\"04:00\"", |table, key| table.parsed(key, time_of_day));
    table.refuse_unknown();
    let name = name?;
    Some(Maintenance {
        name: name.value,
        zones,
        weekdays: values(weekdays),
        from: from?.value,
        to: to?.value,
        span: name.span,
    })
}

fn time_of_day(text: &str) -> Result<u16, Fault> {
    let wrong =
        || Fault::new(format!("{text:?} is no time of day"), "write hours and minutes in UTC, such as \"02:00\"");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let two_digits = |part: &str| (part.len() == 2).then(|| part.parse::<u16>().ok()).flatten();
    match (two_digits(hour), two_digits(minute)) {
        (Some(hour @ 0..=23), Some(minute @ 0..=59)) => Ok(hour * 60 + minute),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29, a Sunday, at this time.
    fn sunday(hour: u64, minute: u64) -> u64 {
        20_786 * 86_400 + hour * 3_600 + minute * 60
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let window = Maintenance {
            name: "sunday night".to_owned(),
            zones: vec!["web".to_owned()],
            weekdays: vec![6],
            from: 23 * 60,
            to: 2 * 60,
            span: 0..0,
        };
        assert!(window.contains("web", sunday(23, 0)));
        assert!(window.contains("web", sunday(25, 59)), "Monday, 01:59");
        assert!(!window.contains("web", sunday(26, 0)));
        assert!(!window.contains("web", sunday(1, 0)), "Saturday's night is not meant");
        assert!(!window.contains("mail", sunday(23, 0)));
    }

    #[test]
    fn every_day_is_meant_when_none_is_named() {
        let window =
            Maintenance { name: "n".to_owned(), zones: vec![], weekdays: vec![], from: 60, to: 120, span: 0..0 };
        for day in 0..7 {
            assert!(window.contains("any", sunday(1, 30) + day * 86_400));
            assert!(!window.contains("any", sunday(2, 0) + day * 86_400));
        }
    }
}
