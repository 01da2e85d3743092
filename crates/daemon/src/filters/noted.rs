//! A filter as it is noted for the next daemon.

use flyover_proto::FilterSpec;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noted {
    /// Its number, which sockets of the stack know.
    pub id: u32,
    /// Its stack.
    pub stack: u32,
    /// What was asked for.
    pub spec: FilterSpec,
    /// It keeps a connection with the kernel.
    pub pass: bool,
    /// It takes single connections only; which, the kernel's map tells.
    pub narrowed: bool,
    /// Its port is lent, under this number.
    pub leased: Option<u64>,
}
