//! The JSON shapes of requests and answers.

mod answer;
mod begin;
mod branch;
mod cluster;
mod request;
mod target;

pub(crate) use answer::rfc3339;
pub(super) use answer::{
    AcceptLossBody, BegunBody, InfoBody, InquiriesBody, InquiryAnswerBody, PageBody, PartitionBody,
    PositionBody, RegisteredBody, StandingBody, TransactionBody, summary, whole,
};
pub(super) use begin::{BeginBody, mode};
pub(super) use branch::BranchBody;
pub(super) use cluster::ClusterBody;
pub(super) use request::{
    AbortBody, CommitBody, GetQuery, InquiryBody, ListQuery, MoveBody, OperatorBody, ResolveBody, VoteBody,
    status,
};
pub(super) use target::key;
