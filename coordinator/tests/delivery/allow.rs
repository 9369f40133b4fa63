//! The allow list against addresses that try to look like allowed ones.

use unanimity_coordinator::delivery::AllowList;
use unanimity_core::ResultOutcome;
use unanimity_types::Target;

use crate::support::{Bench, config, participant};

fn list() -> AllowList {
    AllowList::parse([
        "http://127.0.0.1:*",
        "https://*.example.com",
        "https://api.partner.test:8443/hooks",
        "http://[::1]:9000",
        "http://10.0.0.7:9000/a/",
    ])
    .expect("patterns")
}

#[test]
fn a_table_of_addresses() {
    let list = list();
    for (address, allowed) in [
        ("http://127.0.0.1", true),
        ("http://127.0.0.1:80/x?y=1", true),
        ("http://127.0.0.1:65535/", true),
        ("HTTP://127.0.0.1:9/", true),
        // Other spellings of the same address: the client connects to the same place.
        ("http://2130706433/", true),
        ("http://0x7f.0.0.1/", true),
        ("http://0177.0.0.1/", true),
        ("http://127.1/", true),
        ("https://127.0.0.1/", false),
        ("http://127.0.0.2/", false),
        ("http://127.0.0.1.evil.test/", false),
        ("http://127.0.0.1@evil.test/", false),
        ("http://127.0.0.1:80@evil.test/", false),
        ("http://user:secret@127.0.0.1/", false),
        ("http://@127.0.0.1/", false),
        ("http://evil.test#@127.0.0.1/", false),
        ("http://evil.test?@127.0.0.1/", false),
        ("http://evil.test\\@127.0.0.1/", false),
        ("http://127.0.0.1\\@evil.test/", false),
        ("http:/127.0.0.1/", false),
        ("http:///127.0.0.1/", false),
        ("http://127.0.0.1 /", false),
        ("http://127.0.0.1\t.evil.test/", false),
        ("http://127.0.0.1\r\nHost: evil/", false),
        ("http://[::ffff:127.0.0.1]/", false),
        ("http://[::1]:9000/x", true),
        ("http://[0:0:0:0:0:0:0:1]:9000/x", true),
        ("http://[::1]/", false),
        ("http://169.254.169.254/latest/meta-data", false),
        ("http://localhost/", false),
        ("ftp://127.0.0.1/", false),
        ("file:///etc/passwd", false),
        ("javascript:alert(1)", false),
        ("//127.0.0.1/", false),
        ("", false),
        ("https://a.example.com/x", true),
        ("https://a.b.example.com", true),
        ("https://A.EXAMPLE.COM:443/", true),
        ("https://example.com/", false),
        ("https://evil-example.com/", false),
        ("https://.example.com/", false),
        ("https://a.example.com.evil.test/", false),
        ("https://a.example.com./", false),
        ("https://a.example.com:444/", false),
        ("http://a.example.com/", false),
        ("https://api.partner.test:8443/hooks", true),
        ("https://api.partner.test:8443/hooks/", true),
        ("https://api.partner.test:8443/hooks/confirm?x", true),
        ("https://api.partner.test:8443/hooks2", false),
        ("https://api.partner.test:8443/", false),
        ("https://api.partner.test:8443/hooks/../admin", false),
        ("https://api.partner.test:8443/hooks/%2e%2e/admin", false),
        ("https://api.partner.test:8443/hooks/..%2fadmin", false),
        ("https://api.partner.test:8443/hooks/%2E%2E%5Cadmin", false),
        ("https://api.partner.test/hooks", false),
        ("http://10.0.0.7:9000/a/b", true),
        ("http://10.0.0.7:9000/b", false),
    ] {
        let checked = list.check(&Target::Http(address.into()));
        assert_eq!(checked.is_ok(), allowed, "{address:?}: {checked:?}");
    }
}

#[test]
fn loopback_is_this_machine_only() {
    let list = AllowList::loopback();
    for (address, allowed) in [
        ("http://127.0.0.1:1/", true),
        ("https://127.9.9.9/", true),
        ("http://localhost:8080/x", true),
        ("http://LOCALHOST/", true),
        ("http://[::1]/", true),
        ("http://localhost.evil.test/", false),
        ("http://localhost./", false),
        ("http://0.0.0.0/", false),
        ("http://[::]/", false),
        ("http://10.0.0.1/", false),
        ("http://192.168.1.1/", false),
    ] {
        assert_eq!(list.check(&Target::Http(address.into())).is_ok(), allowed, "{address:?}");
    }
}

#[test]
fn nothing_is_allowed_by_default_but_participants_are() {
    let list = AllowList::none();
    assert!(list.check(&Target::Http("http://127.0.0.1/".into())).is_err());
    assert!(list.check(&Target::Grpc("http://127.0.0.1:1".into())).is_err());
    assert!(list.check(&participant("stock")).is_ok());
}

#[test]
fn a_grpc_address_has_no_path() {
    let list = AllowList::loopback();
    for (address, allowed) in [
        ("http://127.0.0.1:1", true),
        ("http://127.0.0.1:1/", true),
        ("http://127.0.0.1:1/x", false),
        ("http://127.0.0.1:1?x", false),
        ("http://10.0.0.1:1", false),
    ] {
        assert_eq!(list.check(&Target::Grpc(address.into())).is_ok(), allowed, "{address:?}");
    }
}

#[tokio::test]
async fn what_is_not_allowed_is_not_called() {
    let mut bench = Bench::new(config());
    for target in [
        Target::Http("http://10.255.255.1/".into()),
        Target::Http("http://127.0.0.1@10.255.255.1/".into()),
        Target::Http("not a url".into()),
        Target::Grpc("http://10.255.255.1:1".into()),
    ] {
        let outcome = bench.ask(target).await;
        assert!(matches!(outcome, ResultOutcome::Unusable { .. }), "{outcome:?}");
    }
    assert!(bench.delivery.stats().is_empty(), "no bulkhead for what is never called");
}
