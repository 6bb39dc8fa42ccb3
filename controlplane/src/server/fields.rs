//! What the fields of requests may hold.

use std::str::FromStr;
use std::time::Duration;

use levee_api::grpc::v1;
use levee_api::prefix::Prefix;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::link::Handle;
use super::link::{Operation, Outcome};
use super::refusal::Fields;
use super::roles::Caller;

/// Entries of a page unless the client says otherwise, and at most.
const PAGE: usize = 100;
const MOST_ENTRIES: usize = 1000;
/// Characters of a request id, and of a reason.
const MOST_ID: usize = 128;
const MOST_REASON: usize = 1024;

/// Which entries of a list are asked for: those with ids below `before`, so many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) size: usize,
    pub(super) before: u64,
}

/// Some entries, the token of the next page, and how many there are in all.
pub(super) struct Paged<T> {
    pub(super) entries: Vec<T>,
    pub(super) next: String,
    pub(super) total: u64,
}

impl Page {
    /// Takes a page out of what was selected, the newest first.
    pub(super) fn of<T>(self, selected: impl Iterator<Item = (u64, T)>) -> Paged<T> {
        let (mut entries, mut next, mut total, mut last) = (Vec::new(), String::new(), 0, 0);
        for (id, entry) in selected {
            total += 1;
            if id >= self.before {
                continue;
            }
            if entries.len() < self.size {
                entries.push(entry);
                last = id;
            } else if next.is_empty() {
                next = last.to_string();
            }
        }
        Paged { entries, next, total }
    }
}

impl Fields {
    pub(super) fn page(&mut self, size: u32, token: &str) -> Option<Page> {
        let size = usize::try_from(size).ok().filter(|size| *size <= MOST_ENTRIES);
        let size = self.take("page_size", size.ok_or(format!("a page has at most {MOST_ENTRIES} entries")));
        let wrong = || format!("{token:?} is no token of a page before");
        let before = if token.is_empty() { Ok(u64::MAX) } else { token.parse().map_err(|_| wrong()) };
        let before = self.take("page_token", before)?;
        Some(Page { size: size.map(|size| if size == 0 { PAGE } else { size })?, before })
    }

    pub(super) fn id<T: FromStr>(&mut self, field: &str, text: &str) -> Option<T> {
        let wrong =
            || if text.is_empty() { "it is empty".to_owned() } else { format!("{text:?} is no id: ids are numbers") };
        self.take(field, text.parse().map_err(|_| wrong()))
    }

    /// An id that may be missing.
    pub(super) fn optional_id<T: FromStr>(&mut self, field: &str, text: &str) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { self.id(field, text).map(Some) }
    }

    pub(super) fn prefix(&mut self, field: &str, prefix: Option<&v1::Prefix>) -> Option<Option<Prefix>> {
        match prefix {
            None => Some(None),
            Some(prefix) => self.take(field, Prefix::try_from(prefix)).map(Some),
        }
    }

    pub(super) fn ttl(&mut self, field: &str, nanoseconds: u64) -> Option<Duration> {
        let ttl = Some(Duration::from_nanos(nanoseconds)).filter(|ttl| !ttl.is_zero());
        self.take(field, ttl.ok_or("every measure has an end: give the nanoseconds until then"))
    }

    pub(super) fn reason(&mut self, text: &str) -> Option<String> {
        let fits = text.chars().count() <= MOST_REASON && !text.contains(char::is_control);
        let wrong = || format!("at most {MOST_REASON} characters, without line breaks");
        self.take("reason", fits.then(|| text.trim().to_owned()).ok_or_else(wrong))
    }

    fn request_id(&mut self, id: &str) -> Option<String> {
        let fits = (1..=MOST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        let wrong = || format!("choose an id of 1 to {MOST_ID} visible ASCII characters, a new one for each request");
        self.take("request_id", fits.then(|| id.to_owned()).ok_or_else(wrong))
    }
}

/// A request that changes something.
pub(super) trait Changing: Message + Clone + Default {
    /// Method, as it is called.
    const METHOD: &'static str;
    /// Its id, and whether it is only to be validated; both are emptied.
    fn take_id(&mut self) -> (String, bool);
}

macro_rules! changing {
    ($($message:ident = $method:literal;)*) => {$(
        impl Changing for v1::$message {
            const METHOD: &'static str = $method;
            fn take_id(&mut self) -> (String, bool) {
                (std::mem::take(&mut self.request_id), std::mem::take(&mut self.validate_only))
            }
        }
    )*};
}

changing! {
    AddMitigationRequest = "Mitigations/Add";
    RenewMitigationRequest = "Mitigations/Renew";
    WithdrawMitigationRequest = "Mitigations/Withdraw";
    ApproveRequest = "Runbooks/Approve";
    DenyRequest = "Runbooks/Deny";
    ReloadConfigRequest = "System/ReloadConfig";
    ConfirmConfigRequest = "System/ConfirmConfig";
    SetKillSwitchRequest = "System/SetKillSwitch";
}

/// Has a request done, once `operation` is read from its fields. It goes on when the client hangs up: what has begun is
/// not left half done.
pub(super) async fn change<R: Changing>(
    handle: &Handle,
    request: tonic::Request<R>,
    operation: impl FnOnce(&R, &mut Fields) -> Option<Operation>,
) -> Result<Outcome, Status> {
    let caller = caller(&request)?;
    let mut message = request.into_inner();
    let (id, validate_only) = message.take_id();
    let digest = Sha256::digest(message.encode_to_vec());
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut fields = Fields::default();
    let id = fields.request_id(&id);
    let operation = operation(&message, &mut fields);
    let (id, operation) = fields.conclude(id.zip(operation))?;
    let id = format!("{} {id}", R::METHOD);
    let handle = handle.clone();
    let work = tokio::spawn(async move { handle.change(caller.actor(), id, digest, validate_only, operation).await });
    let done = work.await.map_err(|error| Status::internal(error.to_string()))?;
    Ok(done?)
}

/// Who calls: admission has put it there.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("the call was not admitted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_list() {
        let all: Vec<(u64, u64)> = [9, 7, 6, 3, 1].map(|id| (id, id)).to_vec();
        let (mut seen, mut before) = (Vec::new(), u64::MAX);
        loop {
            let page = Page { size: 2, before }.of(all.iter().copied());
            assert_eq!(page.total, 5);
            seen.extend(page.entries);
            match page.next.parse() {
                Ok(next) => before = next,
                Err(_) => break,
            }
        }
        assert_eq!(seen, [9, 7, 6, 3, 1]);
    }
}
