//! The words of a record: events, outcomes, members, and the counts of records. Reads the time of day and
//! nothing else; knows no file and no queue.

pub(super) mod checkpoint;
pub(super) mod event;
pub(super) mod fields;
pub(super) mod members;
pub(super) mod served;
pub(super) mod tally;
