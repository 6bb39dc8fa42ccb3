//! How often each method was called, and what came of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tonic::Code;

use super::roles::METHODS;

/// Calls by method and status since the start. Methods that do not exist are counted together: their names come from
/// outside, and would grow without bound.
#[derive(Debug, Default)]
pub struct CallCounters(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl CallCounters {
    /// One call more.
    pub(super) fn count(&self, method: &str, code: Code) {
        let known = METHODS.iter().find(|(name, _)| *name == method).map_or("unknown", |(name, _)| *name);
        *self.lock().entry((known, code_name(code))).or_default() += 1;
    }

    /// Every method and status with its count.
    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock().iter().map(|((method, code), count)| (*method, *code, *count)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
