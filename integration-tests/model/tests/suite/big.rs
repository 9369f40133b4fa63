//! Larger worlds: minutes, and some gigabytes of memory. What a run came to stands in docs/testing.md.

use unanimity_model::append;
use unanimity_model::exchange::Config;

/// The least number of states that the larger worlds have together.
const AT_LEAST: usize = 5_000_000;

#[test]
fn all_states_of_larger_worlds() {
    if std::env::var_os("UNANIMITY_MODEL_BIG").is_none() {
        println!("not asked for: cargo xtask model --big");
        return;
    }
    let worlds = [
        ("2PC, 2 branches, repeats", Config { commits: 2, aborts: 1, held: 1, ..Config::two_phase(2) }),
        ("TCC, 2 branches, failures", Config { attempts: 2, aborts: 1, held: 1, ..Config::tcc(2) }),
        ("TCC, 2 branches, ticketed, two takeovers", Config { takeovers: 2, held: 1, ..Config::ticketed(2) }),
        ("saga, 3 steps, failures", Config::saga(3)),
        ("saga, unfenced, failures", Config { held: 1, ..Config::unfenced_saga(2) }),
    ];
    let mut states = 0;
    for (name, config) in worlds {
        states += crate::exchange::holds(name, config).states;
    }
    states += crate::append::holds("log, cleaning, three claims", append::Config::cleaning()).states;
    println!("{states} states");
    assert!(states >= AT_LEAST, "{states} states, {AT_LEAST} are asked for");
}
