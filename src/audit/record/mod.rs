//! A record's words: events, outcomes, members, and what records add up to. Pure but for the time of
//! day; knows no file and no queue.

pub(super) mod checkpoint;
pub(super) mod event;
pub(super) mod fields;
pub(super) mod members;
pub(super) mod served;
pub(super) mod tally;
