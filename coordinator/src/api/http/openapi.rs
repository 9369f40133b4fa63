//! The OpenAPI document, generated from the handlers and the shapes that they take and give.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Unanimity",
        description = "A distributed transaction coordinator. docs/http-api.md goes through a transaction of each mode step by step."
    ),
    paths(
        super::calls::begin,
        super::calls::list,
        super::calls::get,
        super::calls::register,
        super::calls::vote,
        super::calls::commit,
        super::calls::abort,
        super::calls::inquire,
        super::calls::info,
        super::operator::retry,
        super::operator::resolve,
        super::operator::accept_loss,
        super::operator::record_restored,
        super::operator::move_partition,
        super::cluster::cluster,
        super::cluster::drain,
        super::cluster::undrain
    )
)]
struct Document;

/// The document.
pub(in crate::api) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described_and_every_description_has_its_route() {
        let routed: BTreeSet<&str> = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next())
            .filter(|path| path.starts_with("/v1/"))
            .collect();
        let document = super::document();
        let described: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(routed, described);
        assert!(routed.len() >= 10);
    }
}
