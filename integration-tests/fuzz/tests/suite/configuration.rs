//! Configuration files and variables.

use proptest::prelude::*;
use unanimity_coordinator::config::{Overrides, load};

use crate::cases;

/// Lines that look like settings.
fn lines() -> impl Strategy<Value = String> {
    let key = "(listen|node|data_dir|database_url|grpc_max_bytes|log|timeouts|retry|engine|[a-z_]{1,12})(\\.[a-z_]{1,12})?";
    let value =
        "[0-9]{1,20}|-[0-9]{1,3}|true|\"[ -!#-\\[\\]-~]{0,30}\"|\\[\\]|\\{[a-z]{1,6} = 1\\}|[0-9.:]{1,21}";
    let line = (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"));
    let table = "\\[[a-z_]{1,10}\\]\n";
    proptest::collection::vec(prop_oneof![4 => line, 1 => table, 1 => "\\PC{0,60}\n"], 0..8)
        .prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn files_and_variables(
        text in lines(),
        variables in proptest::collection::vec(("UNANIMITY_[A-Z_]{1,16}", "\\PC{0,30}"), 0..3),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("unanimity.toml");
        std::fs::write(&path, &text).expect("written");
        match load(Some(&path), variables, Overrides::default()) {
            Ok(config) => prop_assert_eq!(config.validate(), Ok(())),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
