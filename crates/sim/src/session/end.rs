//! How far a side has come, and what it saw.

/// How far a side has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not begun.
    Idle,
    /// Connecting.
    Connecting,
    /// Connected.
    Open,
    /// Closed, or given up.
    Done,
}

/// What a side saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that the stack took.
    pub sent: u64,
    /// Bytes read, all of them right.
    pub read: u64,
    /// The peer's stream was read to its end.
    pub eof: bool,
    /// The first error; 0 is none.
    pub error: i32,
}
