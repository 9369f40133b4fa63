//! The JSON shapes of requests and answers.

mod answer;
mod request;

pub(crate) use answer::rfc3339;
pub(super) use answer::{
    AcceptLossBody, BegunBody, InfoBody, InquiriesBody, InquiryAnswerBody, PageBody, PartitionBody,
    PositionBody, RegisteredBody, StandingBody, TransactionBody, summary, whole,
};
pub(super) use request::{
    AbortBody, BeginBody, BranchBody, CommitBody, GetQuery, InquiryBody, ListQuery, OperatorBody,
    ResolveBody, mode, status,
};
