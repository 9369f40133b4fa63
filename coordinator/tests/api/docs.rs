//! What is documented is what is there.

use std::path::Path;

use unanimity_types::ErrorCode;

use crate::support::Fixture;

#[test]
fn every_error_has_its_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    let index = std::fs::read_to_string(root.join("README.md")).expect("the index");
    for code in ErrorCode::ALL {
        let page = std::fs::read_to_string(root.join(format!("{code}.md")))
            .unwrap_or_else(|_| panic!("no page for {code}"));
        assert!(page.starts_with(&format!("# {code}\n\nHTTP {} ", code.http_status())), "{code}");
        assert!(page.contains("## What it means") && page.contains("## What to do"), "{code}");
        assert!(index.contains(&format!("[{code}]({code}.md)")), "{code}");
    }
    let pages = std::fs::read_dir(root).expect("the directory").count();
    assert_eq!(pages, ErrorCode::ALL.len() + 1, "a page for a code that is none");
}

#[tokio::test]
async fn every_route_of_the_openapi_document_answers() {
    let fixture = Fixture::start().await;
    let document = fixture.get("/openapi.json").await.body;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let paths = document["paths"].as_object().expect("paths");
    let mut count = 0;
    for (path, methods) in paths {
        let real = path
            .replace("{xid}", "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f")
            .replace("{branch_id}", "1")
            .replace("{partition}", "0");
        for method in methods.as_object().expect("methods").keys() {
            count += 1;
            let method = method.to_uppercase().parse().expect("a method");
            let answer = fixture.http.request(method, fixture.url(&real)).send().await.expect("an answer");
            let body: serde_json::Value = answer.json().await.expect("JSON");
            let code = body["code"].as_str().unwrap_or_default();
            assert!(!["route_not_found", "method_not_allowed"].contains(&code), "{path}: {body}");
        }
    }
    assert_eq!(count, 14);
}
