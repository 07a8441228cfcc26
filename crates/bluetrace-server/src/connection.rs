//! Owns one connection: bytes to lines, lines to the session, the session's questions to the authority, answers to bytes.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bluetrace_authority::accounts::LoggedIn;
use bluetrace_authority::store::{NoticeId, UploadBegun, UploadKey};
use bluetrace_authority::trace::UploadTrace;
use bluetrace_authority::uploads::{RecordsAppended, UploadFinished};
use bluetrace_authority::{Authority, AuthorityError, Member};
use bluetrace_protocol::frame::LineDecoder;
use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::message::{ErrorCode, Reply};
use bluetrace_protocol::session::server::{
    ACCOUNT_REMOVED, Failure, NoticeHandle, Question, ServerSession, Step, UPLOAD_FORGOTTEN, UploadHandle,
};
use bluetrace_protocol::{Clock, Moment, Uploaded};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, warn};

use crate::complaints::Complaints;
use crate::console::{Console, ConsoleEvent};
use crate::limits::{Limits, OUTPUT_HIGH_WATER, OUTPUT_KEPT, READ_BUFFER_LARGE, READ_BUFFER_SMALL};
use crate::listener::{LOGIN_TOO_SLOW, Peer, Server};
use crate::shutdown::Shutdown;
use crate::stream::send_and_close;

/// What every connection of a server shares.
#[derive(Debug)]
pub struct Shared {
    /// Who decides.
    pub authority: Arc<Authority>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What the operator sees.
    pub console: Console,
    /// What is too long.
    pub limits: Limits,
    /// What the log has said of late.
    pub complaints: Complaints,
}

impl Shared {
    /// Tells the log what the authority could not do, unless it has just been told.
    pub(crate) fn complain(&self, error: &AuthorityError) {
        let due = || self.complaints.due(&error.to_string(), Instant::now());
        match error {
            AuthorityError::Unavailable(_) => {
                if let Some(unsaid) = due() {
                    warn!(%error, unsaid, "a request cannot be answered now");
                }
            }
            // the peer is told; there is nothing for an operator to mend
            AuthorityError::Busy => {}
            AuthorityError::Internal(_) => {
                if let Some(unsaid) = due() {
                    error!(%error, unsaid, "a request failed");
                }
            }
        }
    }
}

/// Serves sessions at a port, in a task of their own, until `shutdown`: see [`Server::run`].
///
/// Compiled here, with what runs for every record, and not in each program that has a server.
pub fn serve_port(server: Server, listener: TcpListener, shared: Arc<Shared>, shutdown: Shutdown) -> JoinHandle<()> {
    let heard = shutdown.clone();
    let each = move |stream, peer| serve(stream, peer, Arc::clone(&shared), heard.clone());
    tokio::spawn(server.run(listener, shutdown, each))
}

/// Runs one connection to its end.
pub async fn serve<S>(stream: S, peer: Peer, shared: Arc<Shared>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = Connection {
        stream,
        decoder: LineDecoder::new(),
        out: Vec::new(),
        wanted: READ_BUFFER_SMALL,
        storing: None,
        shared,
        shutdown,
    };
    // a peer that goes away, stalls or is cut off ends its own connection and nothing else
    _ = connection.run(peer).await;
    // the records that it had sent by then need not be sent again
    connection.is_stored().await;
}

struct Connection<S> {
    stream: S,
    decoder: LineDecoder,
    /// What waits to be sent.
    out: Vec<u8>,
    /// How many bytes to make room for at the next read: grows while a peer streams, and shrinks when it rests.
    wanted: usize,
    /// A whole batch of records on its way to the disk while the lines behind it are read. The session believes it stored
    /// already, so until it is, nothing of `out` is sent.
    storing: Option<Storing>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

type Storing = Pin<Box<dyn Future<Output = Result<RecordsAppended, AuthorityError>> + Send>>;

type Session = ServerSession<Arc<Member>>;

/// What waiting for a peer came to.
enum Arrival {
    Bytes,
    /// The peer has closed its side in good order.
    End,
    TooLong,
    Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    async fn run(&mut self, peer: Peer) -> io::Result<()> {
        let mut session = Session::default();
        let login_deadline = peer.connected + self.shared.limits.login_deadline;
        loop {
            let Some(next) = self.lines(session).await? else { break };
            session = next;
            // who streams without a pause hears of the end of the server all the same
            if !self.shutdown.has_begun() {
                match self.read_at_hand().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        // the peer is gone; what it had sent by then is not
                        self.settle(session.pause()).await?;
                        return Err(error);
                    }
                }
            }
            let Some(next) = self.settle(session.pause()).await? else { break };
            session = next;
            if !self.is_stored().await {
                break;
            }
            self.send().await?;
            self.rest();
            let deadline = Instant::now() + self.shared.limits.idle;
            let deadline = if session.is_member() { deadline } else { deadline.min(login_deadline) };
            match self.wait(deadline).await? {
                Arrival::Bytes => {}
                Arrival::End => {
                    self.ended(session).await;
                    return Ok(());
                }
                Arrival::TooLong if session.is_member() => break self.say(IDLE),
                Arrival::TooLong => break self.say(LOGIN_TOO_SLOW),
                Arrival::Shutdown => break self.say(SHUTTING_DOWN),
            }
        }
        self.is_stored().await;
        let Self { stream, out, shared, shutdown, .. } = self;
        tokio::select! {
            biased;
            // boxed, as is what is asked: an idle connection should not hold the room
            () = Box::pin(send_and_close(stream, out)) => Ok(()),
            () = shutdown.begun_for(shared.limits.shutdown_stall) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Gives the session every whole line at hand. `None` when the connection is to be closed.
    async fn lines(&mut self, mut session: Session) -> io::Result<Option<Session>> {
        loop {
            let step = match self.decoder.next_line() {
                Ok(Some(line)) => session.line(line, &mut self.out),
                Ok(None) => return Ok(Some(session)),
                Err(error) => {
                    // what came before the break is still stored and answered
                    if let Some(session) = self.settle(session.pause()).await? {
                        session.broken(error, &mut self.out);
                    }
                    return Ok(None);
                }
            };
            match self.settle(step).await? {
                Some(next) => session = next,
                None => return Ok(None),
            }
            if self.out.len() >= OUTPUT_HIGH_WATER {
                if !self.is_stored().await {
                    return Ok(None);
                }
                self.send().await?;
                if self.shutdown.has_begun() {
                    // what is at hand still was not acknowledged, and its answers could be without number
                    return Ok(Some(session));
                }
            }
        }
    }

    /// Puts a step's questions to the authority until the session waits for lines again. `None` when it is over.
    async fn settle(&mut self, mut step: Step<Arc<Member>>) -> io::Result<Option<Session>> {
        loop {
            step = match step {
                Step::Wait(session) => return Ok(Some(session)),
                Step::Close => return Ok(None),
                Step::Ask(_) if !self.is_stored().await => return Ok(None),
                Step::Ask(Question::Append { upload, first, records, then }) if records.len() >= MAX_RECORD_BATCH => {
                    // who streams hears how far it has come; who has gone need not send these again
                    let sent = self.send().await;
                    let durable = first.saturating_add(u32::try_from(records.len()).unwrap_or(u32::MAX));
                    self.store(Arc::clone(then.who()), UploadKey(upload.0), first, records).await;
                    sent?;
                    then.stored(durable, &mut self.out)
                }
                // boxed: an idle connection should not hold the room that its longest question needs
                Step::Ask(question) => Box::pin(ask(&self.shared, question, &mut self.out)).await,
            }
        }
    }

    /// Begins to store a whole batch, without waiting for the disk.
    async fn store(&mut self, who: Arc<Member>, upload: UploadKey, first: u32, records: Vec<Uploaded>) {
        let authority = Arc::clone(&self.shared.authority);
        let mut storing: Storing =
            Box::pin(async move { authority.append_records(&who, upload, first, records).await });
        // the first step puts it into the store's queue, or finds that full
        self.storing = Some(match poll_fn(|context| Poll::Ready(storing.as_mut().poll(context))).await {
            Poll::Pending => storing,
            Poll::Ready(stored) => Box::pin(ready(stored)),
        });
    }

    /// Waits until the batch on its way is durable. If it cannot be, the session believes what is not so: the peer is told,
    /// and the connection is to be closed. It loses nothing that was acknowledged.
    async fn is_stored(&mut self) -> bool {
        let Some(storing) = self.storing.take() else { return true };
        let (code, message) = match storing.await {
            Ok(RecordsAppended::Durable(_)) => return true,
            Ok(RecordsAppended::NoUpload) => (ErrorCode::NoUpload, UPLOAD_FORGOTTEN),
            Ok(RecordsAppended::NoAccount) => (ErrorCode::NoAccount, ACCOUNT_REMOVED),
            Err(error) => match failure(&self.shared, &error) {
                Failure::Unavailable | Failure::RateLimited => (
                    ErrorCode::Unavailable,
                    "the records cannot be stored now; connect again later, and the upload goes on where it was",
                ),
                Failure::Internal => (ErrorCode::Internal, "the records cannot be stored; it has been noted there"),
            },
        };
        self.out.clear();
        Reply::error(code, message).write_to(None, &mut self.out);
        false
    }

    /// Reads what has arrived already, without waiting. `false` if there is nothing.
    async fn read_at_hand(&mut self) -> io::Result<bool> {
        let Self { stream, decoder, wanted, .. } = self;
        let buffer = decoder.unread();
        buffer.reserve(*wanted);
        let room = buffer.capacity() - buffer.len();
        let mut reading = pin!(stream.read_buf(buffer));
        match poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
            // an end is met again when it is waited for
            Poll::Pending | Poll::Ready(Ok(0)) => Ok(false),
            Poll::Ready(Ok(read)) => {
                if read == room {
                    *wanted = (2 * room).min(READ_BUFFER_LARGE);
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Waits for bytes.
    async fn wait(&mut self, deadline: Instant) -> io::Result<Arrival> {
        let Self { stream, decoder, wanted, shutdown, .. } = self;
        let buffer = decoder.unread();
        buffer.reserve(*wanted);
        tokio::select! {
            biased;
            () = shutdown.begun() => Ok(Arrival::Shutdown),
            read = timeout_at(deadline, stream.read_buf(buffer)) => match read {
                Ok(Ok(0)) => Ok(Arrival::End),
                Ok(Ok(_)) => Ok(Arrival::Bytes),
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(Arrival::TooLong),
            },
        }
    }

    /// Sends what waits. A peer that takes none of it for too long is an error, and so is one that has not taken all of it soon
    /// after the server was asked to stop.
    async fn send(&mut self) -> io::Result<()> {
        let Self { stream, out, shared, shutdown, .. } = self;
        if out.is_empty() {
            return Ok(());
        }
        let Limits { write_stall, shutdown_stall, .. } = shared.limits;
        let sending = async {
            let mut sent = 0;
            while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
                match timeout(write_stall, stream.write(rest)).await?? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => sent += written,
                }
            }
            timeout(write_stall, stream.flush()).await?
        };
        tokio::select! {
            biased;
            sent = sending => sent?,
            () = shutdown.begun_for(shutdown_stall) => return Err(io::ErrorKind::TimedOut.into()),
        }
        out.clear();
        Ok(())
    }

    /// Puts a last line behind what waits.
    fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.push(b'\n');
    }

    /// Gives memory back before a wait that may be long.
    fn rest(&mut self) {
        self.out.shrink_to(OUTPUT_KEPT);
        self.wanted = READ_BUFFER_SMALL;
        self.decoder.release(READ_BUFFER_SMALL);
    }

    async fn ended(&mut self, session: Session) {
        if let Some((member, NoticeHandle(last))) = session.ended() {
            let noted = self.shared.authority.notices_read(&member, NoticeId(last)).await;
            // they are unread still, and will be shown again
            noted.unwrap_or_else(|error| _ = failure(&self.shared, &error));
        }
    }
}

/// Puts one question to the authority, shows the operator what there is to see, and hands the answer to the session.
#[expect(clippy::too_many_lines, reason = "one arm for each question, so that a reader sees them all answered")]
async fn ask(shared: &Shared, question: Question<Arc<Member>>, out: &mut Vec<u8>) -> Step<Arc<Member>> {
    let Shared { authority, clock, console, .. } = shared;
    let now = clock.now();
    match question {
        Question::Login { username, password, then } => {
            let left = |until: Moment| until.seconds_to_wait(clock.moment());
            match authority.login(username, password, &**clock).await {
                Ok(LoggedIn::Welcome(member)) => {
                    console.show(ConsoleEvent::Login { username: member.username.clone() });
                    then.welcome(Arc::new(member), out)
                }
                Ok(LoggedIn::Wrong { left }) => then.wrong(left, out),
                Ok(LoggedIn::BlockedNow { until }) => then.blocked_now(left(until), out),
                Ok(LoggedIn::Blocked { until }) => then.blocked(left(until), out),
                Err(error) => then.failed(failure(shared, &error), out),
            }
        }
        Question::Resume { token, then } => match authority.resume(&token, now).await {
            Ok(Some(member)) => {
                console.show(ConsoleEvent::Login { username: member.username.clone() });
                then.welcome(Arc::new(member), out)
            }
            Ok(None) => then.refused(out),
            Err(error) => then.failed(failure(shared, &error), out),
        },
        Question::TempIds { count, then } => match authority.issue_temp_ids(then.who(), count, now).await {
            Ok(Some(records)) => {
                if let Some(first) = records.first() {
                    let (username, first) = (then.who().username.clone(), first.temp_id.clone());
                    console.show(ConsoleEvent::TempIdsIssued { username, first, count });
                }
                then.issued(records, out)
            }
            Ok(None) => then.no_account(out),
            Err(error) => then.failed(failure(shared, &error), out),
        },
        Question::BeginUpload { begin, then } => match authority.begin_upload(then.who(), begin, now).await {
            Ok(UploadBegun::Open { summary: Some(summary), .. }) => then.complete(summary, out),
            Ok(UploadBegun::Open { key, durable, summary: None }) => then.begun(UploadHandle(key.0), durable, out),
            Ok(UploadBegun::Conflict { records }) => then.conflict(records, out),
            Ok(UploadBegun::NoAccount) => then.no_account(out),
            Ok(UploadBegun::CodeRequired) => then.not_authorised(out),
            Ok(UploadBegun::CodeRefused { left }) => then.code_refused(left, out),
            Ok(UploadBegun::TooManyCodes { until }) => then.too_many_codes(until.seconds_since(now).max(1), out),
            Err(error) => then.failed(failure(shared, &error), out),
        },
        Question::Append { upload, first, records, then } => {
            match authority.append_records(then.who(), UploadKey(upload.0), first, records).await {
                Ok(RecordsAppended::Durable(appended)) => then.stored(appended.durable, out),
                Ok(RecordsAppended::NoUpload) => then.no_upload(out),
                Ok(RecordsAppended::NoAccount) => then.no_account(out),
                Err(error) => then.failed(failure(shared, &error), out),
            }
        }
        Question::Finish { upload, then } => {
            match authority.finish_upload(then.who(), UploadKey(upload.0), UploadTrace::default(), now).await {
                Ok(UploadFinished::Complete { summary, report }) => {
                    if let Some(report) = report {
                        console.show(ConsoleEvent::ContactLog { username: then.who().username.clone(), report });
                    }
                    then.finished(summary, out)
                }
                Ok(UploadFinished::NoUpload) => then.no_upload(out),
                Ok(UploadFinished::NoAccount) => then.no_account(out),
                Err(error) => then.failed(failure(shared, &error), out),
            }
        }
        Question::Notices { seen, then } => {
            match authority.unread_notices(then.who(), seen.map(|seen| NoticeId(seen.0)), now).await {
                Ok(Some(notices)) => {
                    let notices = notices.into_iter().map(|(id, notice)| (NoticeHandle(id.0), notice));
                    then.unread(notices.collect(), out)
                }
                Ok(None) => then.no_account(out),
                Err(error) => then.failed(failure(shared, &error), out),
            }
        }
        Question::Token { then } => {
            let (token, expires) = authority.resume_token(then.who(), now);
            then.made(token, expires, now, out)
        }
        Question::HandshakePin { then } => match authority.handshake_pin(then.who(), now).await {
            Ok(Some((pin, expires))) => then.shown(pin, expires, out),
            Ok(None) => then.no_account(out),
            Err(error) => then.failed(failure(shared, &error), out),
        },
        Question::Logout { seen, then } => {
            match authority.logout(then.who(), seen.map(|seen| NoticeId(seen.0)), now).await {
                Ok(()) => {
                    console.show(ConsoleEvent::Logout { username: then.who().username.clone() });
                    then.done(out)
                }
                Err(error) => then.failed(failure(shared, &error), out),
            }
        }
    }
}

/// Tells the log what the authority could not do, unless it has just been told, and the session what kind of failure it is.
fn failure(shared: &Shared, error: &AuthorityError) -> Failure {
    shared.complain(error);
    match error {
        AuthorityError::Unavailable(_) => Failure::Unavailable,
        AuthorityError::Busy => Failure::RateLimited,
        AuthorityError::Internal(_) => Failure::Internal,
    }
}

const IDLE: &str = "421 The session was idle for too long. Please log in again";
const SHUTTING_DOWN: &str = "421 The server is shutting down. Please try again later";
