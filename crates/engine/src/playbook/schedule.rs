//! When a schedule is due: five cron fields in UTC, which has no summer time, so no hour is missing and none comes twice.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};

/// A schedule that was read.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl Schedule {
    /// Reads five cron fields: minute, hour, day of the month, month, day of the week.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| format!("not five cron fields: {error}"))?;
        let schedule = Self { text: text.to_owned(), cron };
        // `0 0 30 2 *` is well formed, too.
        let never = || "no day fits this schedule, it would never start anything".to_owned();
        schedule.next_after(Timestamp::UNIX_EPOCH).ok_or_else(never).map(|_| schedule)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first time after `time` at which it is due.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&time.to_zoned(TimeZone::UTC), false);
        next.ok().map(|next| next.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_schedule_is_due_once_a_day_also_where_clocks_are_set() {
        let schedule = Schedule::parse("30 2 * * *").unwrap();
        // Europe's clocks go forward on 29 March 2026 and back on 25 October, both at 01:00 UTC.
        for day in ["2026-03-28", "2026-10-24"] {
            let mut now: Timestamp = format!("{day}T12:00:00Z").parse().unwrap();
            let mut due = Vec::new();
            for _ in 0..3 {
                now = schedule.next_after(now).unwrap();
                due.push(now);
            }
            let pauses: Vec<_> = due.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_hours()).collect();
            assert_eq!(pauses, [24, 24], "{due:?}");
        }
    }

    #[test]
    fn what_would_never_start_anything_is_no_schedule() {
        for text in ["", "* * * *", "*/10 * * * * *", "61 * * * *", "0 0 30 2 *", "often"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
