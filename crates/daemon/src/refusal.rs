//! A no to a client: the reason for its program and the reason for its user.

use flyover_proto::{RefusedCode, Reply, Text};

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusedCode,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal with this code and text.
    pub fn new(code: RefusedCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The request makes no sense.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(RefusedCode::Bad, text)
    }

    /// The daemon tried `what`, and it did not work.
    pub fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(RefusedCode::Failed, format!("{what}: {error}"))
    }

    /// The message.
    pub fn reply(&self) -> Reply {
        Reply::Refused {
            code: self.code,
            text: Text::new(&self.text),
        }
    }
}
