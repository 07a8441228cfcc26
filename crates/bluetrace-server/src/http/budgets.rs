//! Owns how much of what is taken: rates by account and by address, and how many requests of a kind are under way at once.
//!
//! Issuing `TempIDs`, uploading and logging in have budgets of their own, so that none of them starves another.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::available_parallelism;
use std::time::Duration;

use bluetrace_authority::store::AccountId;
use bluetrace_protocol::Username;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::problem::{Problem, ProblemCode};
use crate::limits::{
    CODES_AT_A_TIME, HTTP_BATCHES_AT_A_TIME, HTTP_ISSUES_AT_A_TIME, HTTP_KEYS_OF_A_RATE, HTTP_LOGINS_AT_A_TIME,
    HTTP_NAMELESS_UPLOADS_AT_A_TIME, HTTP_QUEUE_WAIT, HTTP_SIFTED_AT_A_TIME, HTTP_UPLOADS_AT_A_TIME,
    HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME,
};
use crate::listener::network;

/// How often something may be asked for: a number of times at once, and then once in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many times at once, at least 1.
    pub burst: u32,
    /// The pause after which there is one time more, at least a nanosecond.
    pub every: Duration,
}

/// The rates of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Logins and renewals from one IPv4 address or one IPv6 network of 64 bits.
    pub logins_of_address: Rate,
    /// Logins with one username, right or wrong; three wrong ones in a row block it besides.
    pub logins_of_username: Rate,
    /// Requests for one-time codes from one address: each costs a message. What a number is sent is the authority's rule.
    pub codes_of_address: Rate,
    /// One-time codes presented from one address.
    pub confirmations_of_address: Rate,
    /// Fetches of `TempIDs` by one account.
    pub temp_ids_of_account: Rate,
    /// Requests that carry records, by one account: an upload that is cut again and again needs many.
    pub uploads_of_account: Rate,
    /// Requests that carry records, from one address.
    pub uploads_of_address: Rate,
}

/// What is left of every budget.
#[derive(Debug)]
pub(crate) struct Budgets {
    rates: Option<Limiters>,
    /// Logins: each waits for a password to be hashed.
    pub(crate) logins: Budget,
    /// One-time codes that are being sent.
    pub(crate) codes: Budget,
    /// Fetches of `TempIDs`.
    pub(crate) issues: Budget,
    /// Uploads whose records are arriving.
    uploads: Budget,
    /// Those of each account, so that none takes all places.
    uploads_of_account: Mutex<HashMap<AccountId, Weak<Semaphore>>>,
    /// Batches of records on their way to the disk.
    pub(crate) batches: Budget,
    /// Uploads of OpenTrace apps whose records are arriving from nobody knows whom: their token comes last.
    nameless_uploads: Budget,
    /// Uploads of OpenTrace apps whose records are judged at this moment: as many as there are cores.
    judging: Arc<Semaphore>,
    /// Uploads of OpenTrace apps that are sifted for what is in them twice.
    pub(crate) sifting: Budget,
}

/// How many of a kind may be under way at once.
#[derive(Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

/// The place of an upload whose records are arriving: free again when this is dropped.
#[derive(Debug)]
pub(crate) struct UploadPlace {
    _of_account: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Limiters {
    logins_of_address: Limiter<IpAddr>,
    logins_of_username: Limiter<Username>,
    codes_of_address: Limiter<IpAddr>,
    confirmations_of_address: Limiter<IpAddr>,
    temp_ids_of_account: Limiter<AccountId>,
    uploads_of_account: Limiter<AccountId>,
    uploads_of_address: Limiter<IpAddr>,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |burst, every_ms| Rate { burst, every: Duration::from_millis(every_ms) };
        Self {
            // a whole hospital sits behind one address, and comes back at once after a restart
            logins_of_address: rate(500, 200),
            logins_of_username: rate(100, 2_000),
            // a ward that registers together, and then nobody who makes the authority pay for messages by the thousand
            codes_of_address: rate(50, 20_000),
            confirmations_of_address: rate(200, 2_000),
            // a device that forgets at once what it was given asks with each scan, every 45 seconds
            temp_ids_of_account: rate(100, 5_000),
            uploads_of_account: rate(200, 1_000),
            uploads_of_address: rate(1_000, 100),
        }
    }
}

impl Budgets {
    /// Full ones. Without rates only what is under way at once is limited.
    pub(crate) fn new(rates: Option<Rates>) -> Self {
        let limiters = |rates: Rates| Limiters {
            logins_of_address: Limiter::new(rates.logins_of_address),
            logins_of_username: Limiter::new(rates.logins_of_username),
            codes_of_address: Limiter::new(rates.codes_of_address),
            confirmations_of_address: Limiter::new(rates.confirmations_of_address),
            temp_ids_of_account: Limiter::new(rates.temp_ids_of_account),
            uploads_of_account: Limiter::new(rates.uploads_of_account),
            uploads_of_address: Limiter::new(rates.uploads_of_address),
        };
        Self {
            rates: rates.map(limiters),
            logins: Budget::new(HTTP_LOGINS_AT_A_TIME),
            codes: Budget::new(CODES_AT_A_TIME),
            issues: Budget::new(HTTP_ISSUES_AT_A_TIME),
            uploads: Budget::new(HTTP_UPLOADS_AT_A_TIME),
            uploads_of_account: Mutex::default(),
            batches: Budget::new(HTTP_BATCHES_AT_A_TIME),
            nameless_uploads: Budget::new(HTTP_NAMELESS_UPLOADS_AT_A_TIME),
            judging: Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))),
            sifting: Budget::new(HTTP_SIFTED_AT_A_TIME),
        }
    }

    /// Takes a login of this username from this address.
    pub(crate) fn login(&self, username: &Username, address: IpAddr) -> Result<(), Problem> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.logins_of_address.take(&network(address))?;
        rates.logins_of_username.take(username)
    }

    /// Takes a renewal of a session from this address.
    pub(crate) fn renewal(&self, address: IpAddr) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.logins_of_address.take(&network(address)))
    }

    /// Takes a request for a one-time code from this address.
    pub(crate) fn one_time_code(&self, address: IpAddr) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.codes_of_address.take(&network(address)))
    }

    /// Takes a one-time code that is presented from this address.
    pub(crate) fn confirmation(&self, address: IpAddr) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.confirmations_of_address.take(&network(address)))
    }

    /// Takes a fetch of `TempIDs` by this account.
    pub(crate) fn temp_ids(&self, account: AccountId) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.temp_ids_of_account.take(&account))
    }

    /// Takes a request that carries records, of this account from this address.
    pub(crate) fn upload(&self, account: AccountId, address: IpAddr) -> Result<(), Problem> {
        self.upload_from(address)?;
        self.upload_of(account)
    }

    /// Takes a request that carries records from this address, of an account that is not known yet.
    pub(crate) fn upload_from(&self, address: IpAddr) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.uploads_of_address.take(&network(address)))
    }

    /// Takes a request that carries records, or asks for a token for that, of this account.
    pub(crate) fn upload_of(&self, account: AccountId) -> Result<(), Problem> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.uploads_of_account.take(&account))
    }

    /// A turn at judging records, as soon as there is one: each turn is short. It is over when what is returned is dropped.
    pub(crate) async fn judging(&self) -> Option<OwnedSemaphorePermit> {
        // it is never closed
        Arc::clone(&self.judging).acquire_owned().await.ok()
    }

    /// A place for an upload of this account, or of nobody knows whom, as soon as there is one.
    ///
    /// # Errors
    /// [`ProblemCode::Busy`] if there is none in [`HTTP_QUEUE_WAIT`], of all places or of the account's.
    pub(crate) async fn enter_upload(&self, account: Option<AccountId>) -> Result<UploadPlace, Problem> {
        let Some(account) = account else {
            return Ok(UploadPlace { _of_account: None, _of_all: self.nameless_uploads.enter().await? });
        };
        let share = {
            let mut shares = self.uploads_of_account.lock().unwrap_or_else(PoisonError::into_inner);
            shares.retain(|_, share| share.strong_count() > 0);
            let share = shares.get(&account).and_then(Weak::upgrade);
            let share = share.unwrap_or_else(|| Arc::new(Semaphore::new(HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME)));
            shares.insert(account, Arc::downgrade(&share));
            Budget(share)
        };
        // its own first: who waits for that waits in nobody's way
        let of_account = share.enter().await?;
        Ok(UploadPlace { _of_account: Some(of_account), _of_all: self.uploads.enter().await? })
    }
}

impl Budget {
    fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// A place, as soon as there is one, which is free again when what is returned is dropped.
    ///
    /// # Errors
    /// [`ProblemCode::Busy`] if there is none in [`HTTP_QUEUE_WAIT`].
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        match timeout(HTTP_QUEUE_WAIT, Arc::clone(&self.0).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => {
                Err(Problem::new(ProblemCode::Busy, "too many of these are under way").retry_after(10))
            }
        }
    }
}

/// Counts by a key, and forgets whoever has all of his rate left.
struct Limiter<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new(rate: Rate) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let every = rate.every.max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        Self { limiter: RateLimiter::hashmap(quota), clock: DefaultClock::default() }
    }

    fn take(&self, key: &K) -> Result<(), Problem> {
        let Err(refused) = self.limiter.check_key(key) else {
            if self.limiter.len() > HTTP_KEYS_OF_A_RATE {
                self.limiter.retain_recent();
            }
            return Ok(());
        };
        let wait = refused.wait_time_from(self.clock.now());
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Err(Problem::new(ProblemCode::RateLimited, "too many of these in a short time").retry_after(seconds))
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("keys", &self.limiter.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_burst_and_then_a_pause_for_each_key_alone() {
        let limiter = Limiter::new(Rate { burst: 3, every: Duration::from_hours(1) });
        for _ in 0..3 {
            limiter.take(&1).unwrap();
        }
        let problem = limiter.take(&1).unwrap_err();
        assert_eq!(problem.code(), ProblemCode::RateLimited);
        assert!((3_500..=3_601).contains(&problem.facts().retry_after.unwrap()), "{problem:?}");
        limiter.take(&2).unwrap();
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_rate() {
        let rate = Rate { burst: 1, every: Duration::from_hours(1) };
        let budgets = Budgets::new(Some(Rates { logins_of_address: rate, ..Rates::default() }));
        budgets.renewal("2001:db8::1".parse().unwrap()).unwrap();
        budgets.renewal("2001:db8::2".parse().unwrap()).unwrap_err();
        budgets.renewal("2001:db8:0:1::2".parse().unwrap()).unwrap();
        budgets.renewal("192.0.2.1".parse().unwrap()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_takes_its_share_of_the_places_for_uploads_and_no_more() {
        let budgets = Budgets::new(None);
        let (one, other) = (Some(AccountId(1)), Some(AccountId(2)));
        let mut places = Vec::new();
        for _ in 0..HTTP_UPLOADS_OF_AN_ACCOUNT_AT_A_TIME {
            places.push(budgets.enter_upload(one).await.unwrap());
        }
        assert_eq!(budgets.enter_upload(one).await.unwrap_err().code(), ProblemCode::Busy);
        budgets.enter_upload(other).await.unwrap();
        budgets.enter_upload(None).await.unwrap();
        places.pop();
        budgets.enter_upload(one).await.unwrap();
    }

    #[test]
    fn without_rates_nothing_is_counted() {
        let budgets = Budgets::new(None);
        for _ in 0..10_000 {
            budgets.temp_ids(AccountId(1)).unwrap();
        }
    }
}
