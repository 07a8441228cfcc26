//! Every limit of the server's shell, with its unit and its reason. The limits of the formats are
//! [`bluetrace_protocol::limits`].

use std::time::Duration;

/// The limits that an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Within this time of connecting a login must have succeeded (PROTOCOL section 4.5). The TLS handshake counts.
    pub login_deadline: Duration,
    /// A session that sends nothing for this long ends (PROTOCOL section 4.5).
    pub idle: Duration,
    /// A peer that takes nothing for this long, while there is something for it, is cut off.
    pub write_stall: Duration,
    /// A peer that does not take what there is for it is given so long, once the server is asked to stop.
    pub shutdown_stall: Duration,
    /// How long a server that is asked to stop waits for its connections before it drops them.
    pub shutdown_grace: Duration,
    /// Most connections at once; further ones are told to come back later.
    pub max_connections: usize,
    /// Most connections at once from one IPv4 address or one IPv6 network of 64 bits.
    pub max_connections_per_address: usize,
}

impl Limits {
    /// The defaults, with as many connections as a process that may open `open_files` files has room for.
    pub fn for_open_files(open_files: u64) -> Self {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let max_connections = open_files.saturating_sub(RESERVED_FILES).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        Self { max_connections, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_deadline: LOGIN_DEADLINE,
            idle: IDLE,
            write_stall: WRITE_STALL,
            shutdown_stall: SHUTDOWN_STALL,
            shutdown_grace: SHUTDOWN_GRACE,
            max_connections: DEFAULT_CONNECTIONS,
            max_connections_per_address: CONNECTIONS_PER_ADDRESS,
        }
    }
}

/// Time from connecting to a successful login (PROTOCOL section 4.5): a person types a password in it three times.
pub const LOGIN_DEADLINE: Duration = Duration::from_secs(30);

/// Time without a line after which a session ends (PROTOCOL section 4.5).
pub const IDLE: Duration = Duration::from_mins(30);

/// Time in which a peer must take at least a byte of what waits for it: longer than a radio's dead spot, shorter than a
/// connection that holds its buffers for nothing.
pub const WRITE_STALL: Duration = Duration::from_secs(30);

/// Time in which a peer must take what waits for it when the server shuts down: an answer on its way over a slow network
/// arrives, and peers that have stopped to read hold nobody up, however many they are.
pub const SHUTDOWN_STALL: Duration = Duration::from_secs(1);

/// Time for the appends in progress at a shutdown to be finished and acknowledged; service managers kill after more.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Connections at once when nothing is known about the process's limit of open files, which is often 1,024.
pub const DEFAULT_CONNECTIONS: usize = 1_024 - RESERVED_FILES;

/// Fewest connections that a server is content with, whatever the limit of open files.
pub const MIN_CONNECTIONS: usize = 16;

/// Most connections whatever the limit of open files: 4 GiB at 4 KiB each.
pub const MAX_CONNECTIONS: usize = 1_000_000;

/// Connections at once from one address: a whole hospital sits behind one.
pub const CONNECTIONS_PER_ADDRESS: usize = 4_096;

/// Files kept free of connections: the store's and its readers', listener, runtime, standard streams, and
/// [`REFUSALS_AT_A_TIME`].
pub const RESERVED_FILES: usize = 64 + REFUSALS_AT_A_TIME;

/// Connections beyond the limit that are being told so at once. Any further ones are dropped without a word.
pub const REFUSALS_AT_A_TIME: usize = 64;

/// How long a connection beyond the limit may take to send its first byte, and then again for each further step of its
/// refusal: it holds one of [`REFUSALS_AT_A_TIME`].
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// Bytes read and thrown away after a last line was sent, so that closing does not reset the connection before the peer
/// has read that line.
pub const MAX_LINGER: usize = 256 * 1024;

/// How long a connection is held open after its last line, for the peer to read it.
pub const LINGER: Duration = Duration::from_secs(1);

/// Connections that the system holds ready before they are accepted: a burst after a restart, when every device comes back.
pub const BACKLOG: i32 = 1_024;

/// Pause after a failed `accept`, so that a lack of open files does not spin.
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Least time between two log lines that say the same of what peers can bring about as often as they like.
pub const COMPLAINT_INTERVAL: Duration = Duration::from_mins(1);

/// Such texts that are remembered: a few more than there are.
pub const DIFFERENT_COMPLAINTS: usize = 16;

/// Bytes of a connection's read buffer while nothing is waiting in it: a command's line, so that an idle session is small.
pub const READ_BUFFER_SMALL: usize = 256;

/// Bytes to which the read buffer of a connection that streams may grow: four lines of the greatest length.
pub const READ_BUFFER_LARGE: usize = 4 * bluetrace_protocol::limits::MAX_LINE;

/// Bytes of answers waiting for a peer beyond which no more of its requests are read (PROTOCOL section 4.5): a download of
/// 100 `TempIDs` fits.
pub const OUTPUT_HIGH_WATER: usize = 32 * 1024;

/// Capacity, in bytes, above which an output buffer that has drained is given back.
pub const OUTPUT_KEPT: usize = 256;

/// Password work waiting for a thread. At 55 hashes a second and core this is the work of ten seconds on two cores; who
/// comes later is better told so.
pub const PASSWORD_QUEUE: usize = 1_024;

/// Console events waiting for a slow standard output.
pub const CONSOLE_QUEUE: usize = 1_024;

/// Time for which events gather once the standard output has all that there were.
pub const CONSOLE_PAUSE: Duration = Duration::from_millis(10);

/// How long the end of the process waits for a slow standard output.
pub const CONSOLE_FLUSH: Duration = Duration::from_secs(1);

/// Time between two runs of the retention job. What is forgotten is unreachable at once all the same.
pub const RETENTION_INTERVAL: Duration = Duration::from_mins(1);

/// Longest pause of the retention job while the store fails.
pub const RETENTION_BACK_OFF: Duration = Duration::from_mins(15);

/// Time between two looks after the sealing keys: within it a server takes up a key that an operator or another server began,
/// and lets go of one that was destroyed.
pub const KEYS_INTERVAL: Duration = Duration::from_secs(2);

// ---- HTTP

/// Longest head of a request, in bytes.
pub const MAX_HTTP_HEAD: usize = 32 * 1024;

/// Most header fields of a request.
pub const MAX_HTTP_HEADERS: usize = 64;

/// Longest body of a request other than an upload, in bytes: a login's is 400.
pub const MAX_HTTP_BODY: usize = 16 * 1024;

/// Longest body of one request of an upload, in bytes: a million records of 150, and room for spaces.
pub const MAX_HTTP_UPLOAD: u64 = 512 * 1024 * 1024;

/// Time for a request's head to arrive, and also for which a connection is kept open between two requests.
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Time for a short body to arrive.
pub const HTTP_BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Time in which at least a byte of an upload must arrive: longer than a radio's dead spot.
pub const HTTP_BODY_STALL: Duration = Duration::from_secs(30);

/// Time for one request of an upload. What had arrived is durable, and the next request goes on.
pub const HTTP_UPLOAD_DEADLINE: Duration = Duration::from_mins(10);

/// How long a record of a slow upload waits for others before it is stored.
pub const HTTP_BATCH_PAUSE: Duration = Duration::from_secs(1);

/// Time after which a connection is asked to end with its next answer, so that none is held for ever.
pub const HTTP_CONNECTION_AGE: Duration = Duration::from_mins(30);

/// How long a request waits for a place before it is told that there is too much to do.
pub const HTTP_QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Logins at once: four seconds of hashing on one core. Those of TCP come on top.
pub const HTTP_LOGINS_AT_A_TIME: usize = 256;

/// Fetches of `TempIDs` at once.
pub const HTTP_ISSUES_AT_A_TIME: usize = 256;

/// Uploads at once whose records are arriving. Each holds a buffer of its own, and up to two batches of records; an OpenTrace app's
/// twice [`HTTP_UPLOAD_PIECES`] besides.
pub const HTTP_UPLOADS_AT_A_TIME: usize = 256;

/// Of these, those of one account: a device has one, and a few that were cut and are not given up yet.
pub const HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME: usize = 16;

/// Batches of uploads at once on their way to the disk: who fetches `TempIDs` meanwhile waits behind no more than these.
pub const HTTP_BATCHES_AT_A_TIME: usize = 4;

/// Uploads of OpenTrace apps at once of which nobody knows yet whose they are: each may fill a file of 125 MB.
pub const HTTP_NAMELESS_UPLOADS_AT_A_TIME: usize = 32;

/// Uploads of OpenTrace apps at once that are sifted for records that are in them twice: a million take 20 MB for it.
pub const HTTP_SIFTED_AT_A_TIME: usize = 4;

/// Pieces of an `OpenTrace` upload's body, as they come from the connection, that wait to be judged while the next ones are read. Each is of 32 KiB at the most.
pub const HTTP_UPLOAD_PIECES: usize = 8;

/// Bytes of verdicts on an upload's records that are held in memory before they go to a file: those of 8,600 records.
pub const SPOOL_BUFFER: usize = 1024 * 1024;

/// Accounts or addresses whose rate is remembered before those with all of it left are forgotten.
pub const HTTP_KEYS_OF_A_RATE: usize = 100_000;

/// How long the member behind an access token is remembered, so that not every request asks the store.
pub const HTTP_CALLER_MEMORY: Duration = Duration::from_secs(5);

/// Members remembered so.
pub const HTTP_CALLERS: usize = 10_000;

/// Time in which the store must answer for the server to be ready.
pub const HTTP_READY_WAIT: Duration = Duration::from_secs(2);

/// Time in which a one-time code must be sent: longer than a provider takes, shorter than a person waits before asking again.
pub const CODE_DEADLINE: Duration = Duration::from_secs(10);

/// One-time codes at once that are being sent: so many processes at the most, where a program sends them.
pub const CODES_AT_A_TIME: usize = 16;

/// Of the connections that a process has room for, one in so many is for HTTP.
pub const HTTP_SHARE_OF_CONNECTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_other_files() {
        assert_eq!(Limits::for_open_files(1_024).max_connections, 1_024 - RESERVED_FILES);
        assert_eq!(Limits::for_open_files(20).max_connections, MIN_CONNECTIONS);
        assert_eq!(Limits::for_open_files(u64::MAX).max_connections, MAX_CONNECTIONS);
    }
}
