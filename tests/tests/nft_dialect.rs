//! The dialect of nftables as the nft at hand speaks it: what is parsed from its JSON prints as its own listing does.

use shunt_control::mirror::netfilter::nft;
use shunt_tests::lab::Lab;

const CORPUS: &str = include_str!("../../control/src/mirror/netfilter/nft/corpus/ruleset.nft");

#[test]
fn privileged_rules_print_as_nft_prints_them() {
    let lab = Lab::new();
    let host = lab.namespace("nft");
    host.run("ip link add t1 type veth peer name t2");
    host.run(&format!("nft -f - <<'EOF'\n{CORPUS}\nEOF"));
    let listed = host.run("nft --stateless --handle list ruleset");
    let mut listed: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix("\t\t")).collect();
    listed.retain(|line| line.contains(" # handle "));
    let ruleset = nft::parse(&host.run("nft --stateless --json list ruleset")).expect("a ruleset");
    let rules = ruleset.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    let mut ours: Vec<String> = rules.map(nft::Rule::to_string).collect();
    listed.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, listed);
    assert!(ours.len() > 350, "{}", ours.len());
}
