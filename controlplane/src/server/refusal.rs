//! Errors as clients get them: `google.rpc.Status` with details that programs can read.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::link::Refused;

/// Whose reasons the details name.
const DOMAIN: &str = "levee";

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        let mut details = ErrorDetails::new();
        let code = match refused {
            Refused::Invalid { field, why } => {
                details.add_bad_request_violation(field, why);
                Code::InvalidArgument
            }
            Refused::NotFound { what, name } => {
                details.set_resource_info(what, name, "", text.clone());
                Code::NotFound
            }
            Refused::Precondition(why) => {
                details.add_precondition_failure_violation("state", "", why);
                Code::FailedPrecondition
            }
            Refused::NotAllowed(_) => Code::PermissionDenied,
            Refused::Guardrail(refusal) => {
                let metadata = HashMap::from([
                    ("guardrail".to_owned(), refusal.guardrail),
                    ("value".to_owned(), refusal.value),
                    ("limit".to_owned(), refusal.limit),
                ]);
                details.set_error_info("GUARDRAIL", DOMAIN, metadata);
                Code::FailedPrecondition
            }
            Refused::IdTaken(_) => {
                details.add_bad_request_violation("request_id", text.clone());
                Code::AlreadyExists
            }
            Refused::Unavailable(_) => Code::Unavailable,
        };
        Status::with_error_details(code, text, details)
    }
}

/// Looks at the fields of one request, and tells everything that is wrong with them at once.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<FieldViolation>);

impl Fields {
    /// A field that is wrong.
    pub(super) fn wrong(&mut self, field: &str, why: impl Into<String>) {
        self.0.push(FieldViolation::new(field, why));
    }

    /// The value of a field, unless it is wrong.
    pub(super) fn take<T, E: std::fmt::Display>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|why| self.wrong(field, why.to_string())).ok()
    }

    /// What was put together, if nothing is wrong.
    pub(super) fn conclude<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                let told = self.0.iter().map(|violation| format!("{}: {}", violation.field, violation.description));
                let text = told.collect::<Vec<_>>().join("; ");
                Err(Status::with_error_details(Code::InvalidArgument, text, ErrorDetails::with_bad_request(self.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardrail::Refusal;

    #[test]
    fn a_refusal_of_a_guardrail_names_guardrail_value_and_limit() {
        let refusal = Refusal {
            guardrail: "max_ttl".to_owned(),
            value: "48h".to_owned(),
            limit: "24h".to_owned(),
            text: "the measure would last too long".to_owned(),
        };
        let status = Status::from(Refused::Guardrail(refusal));
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["guardrail"].as_str()), ("GUARDRAIL", "max_ttl"));
        assert!(status.message().contains("limit: 24h"), "{}", status.message());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let mut fields = Fields::default();
        assert_eq!(fields.take("ttl_ns", Err::<u8, _>("zero")), None);
        fields.wrong("id", "empty");
        let status = fields.conclude(Some(())).unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["ttl_ns", "id"]);
    }
}
