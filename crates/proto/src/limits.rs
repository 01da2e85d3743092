//! Sizes and quotas of the protocol, in one place. Nothing here depends on the machine.

use std::time::Duration;

/// Version of the messages. Both ends must have the same one.
pub const VERSION: u32 = 8;
/// Where `flyoverd` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/flyover/flyoverd.sock";
/// Environment variable that names another socket.
pub const SOCKET_ENV: &str = "FLYOVER_SOCKET";

/// Largest message in bytes, any direction. A longer packet is a protocol error.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Bytes of message header: sequence number and tag.
pub const HEADER: usize = 5;
/// Largest text piece in one [`Reply::Text`](crate::Reply::Text), bytes; longer texts are sent in pieces.
pub const MAX_TEXT: usize = 12 * 1024;
/// Largest text that a client puts together from pieces, bytes.
pub const MAX_WHOLE_TEXT: usize = 16 * 1024 * 1024;
/// Longest explanation in a refusal, bytes.
pub const MAX_REASON: usize = 400;
/// Longest name of a stack, bytes.
pub const MAX_STACK_NAME: usize = 64;
/// Longest interface name, bytes (`IFNAMSIZ` - 1, netdevice(7)).
pub const MAX_IFNAME: usize = 15;
/// Most interfaces that one `Attach` can name.
pub const MAX_INTERFACES: usize = 32;
/// Most V-NICs of one stack (queues of all its interfaces together).
pub const MAX_NICS: usize = 32;
/// Most words of options or dimensions in one message.
pub const MAX_WORDS: usize = 96;
/// Most words of one V-NIC's geometry.
pub const MAX_GEOMETRY: usize = 16;
/// Most file descriptors in one message: four of the stack, at most two per V-NIC, and the kernel itself stops at
/// 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 4 + 2 * MAX_NICS + 12;

/// How long a client waits for a sign of life from the daemon. After that the daemon counts as absent.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client waits for one answer in all while the daemon says that it is still working.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Descriptors that belong to Flyover are moved to this number or above, out of the program's way.
pub const FD_FLOOR: i32 = 700;
/// Most processes of one stack, whatever its options say.
pub const MAX_OWNERS: usize = 4096;
/// Most bytes that one connection can take along to the kernel, each direction.
pub const MAX_HANDOVER: u32 = 64 << 20;
/// Most connections that a filter can be narrowed to; one with more stays as wide as it is until they end.
pub const MAX_NARROW: usize = 256;
/// Filter numbers in one message.
pub const MAX_FILTER_IDS: usize = 512;
/// Most local ports that a stack is lent, of all its addresses together.
pub const MAX_LEASE: usize = 256;
