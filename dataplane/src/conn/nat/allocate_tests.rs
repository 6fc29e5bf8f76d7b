use std::collections::HashSet;

use shunt_policy::connection::Endpoint;

use super::*;

/// Answers in use, with a generator that counts, and one mapping that is remembered.
#[derive(Default)]
struct Model {
    used: HashSet<Tuple>,
    random: u16,
    foreign: Option<fn(u16) -> bool>,
    mapped: Option<Tuple>,
    asked: u32,
}

impl Space for Model {
    fn is_used(&mut self, tuple: &Tuple) -> bool {
        self.used.contains(tuple)
    }

    fn is_used_harder(&mut self, tuple: &Tuple, _: u32) -> bool {
        self.asked += 1;
        self.used.contains(tuple)
    }

    fn is_ours(&self, tuple: &Tuple) -> bool {
        self.foreign.is_none_or(|foreign| !foreign(tuple.source.port))
    }

    fn mapped(&self, _: &Tuple, range: &Range) -> Option<Tuple> {
        self.mapped.filter(|mapped| is_in_range(mapped, range))
    }

    fn random(&mut self) -> u16 {
        self.random = self.random.wrapping_mul(31).wrapping_add(7919);
        self.random
    }
}

const PUBLIC: [u8; 4] = [203, 0, 113, 1];

fn tuple(protocol: u8, source: u16, destination: u16) -> Tuple {
    let end = |address: [u8; 4], port| Endpoint { address: address.into(), port };
    Tuple { source: end([192, 0, 2, 1], source), destination: end([198, 51, 100, 1], destination), protocol }
}

fn masked(protocol: u8, source: u16) -> Tuple {
    let mut tuple = tuple(protocol, source, 53);
    tuple.source.address = PUBLIC.into();
    tuple
}

fn snat() -> Range {
    Range { addresses: Some((PUBLIC.into(), PUBLIC.into())), ..Range::default() }
}

#[test]
fn a_port_is_kept_if_it_is_free() {
    for port in [0, 1, 511, 512, 599, 1023, 1024, 5060, 65535] {
        assert_eq!(unique(&tuple(17, port, 53), Manip::Source, &snat(), &mut Model::default()), masked(17, port));
    }
}

#[test]
fn else_it_stays_in_its_class() {
    for (ports, class) in [(1..=511, 1..=511), (512..=1023, 600..=1023), (1024..=65535u16, 1024..=65535u16)] {
        for port in ports.step_by(97) {
            let mut model = Model { random: port, used: [masked(17, port)].into(), ..Model::default() };
            let chosen = unique(&tuple(17, port, 53), Manip::Source, &snat(), &mut model);
            assert!(class.contains(&chosen.source.port), "{port} became {}", chosen.source.port);
            assert_ne!(chosen.source.port, port);
        }
    }
}

#[test]
fn identifiers_are_ports_without_classes() {
    let query = Tuple { destination: Endpoint { port: 8 << 8, ..tuple(1, 0, 0).destination }, ..tuple(1, 3, 0) };
    let wanted = Tuple { source: Endpoint { address: PUBLIC.into(), port: 3 }, ..query };
    let mut model = Model { used: [wanted].into(), random: 40_000, ..Model::default() };
    let chosen = unique(&query, Manip::Source, &snat(), &mut model);
    assert!(chosen.source.port > 3 && chosen.destination.port == 8 << 8);
}

#[test]
fn random_ports_never_stay_by_right() {
    let range = Range { random: true, ports: Some((2000, 2999)), ..snat() };
    let mut model = Model::default();
    let ports: HashSet<u16> =
        (0..100).map(|_| unique(&tuple(6, 2500, 80), Manip::Source, &range, &mut model).source.port).collect();
    assert!(ports.len() > 50 && ports.iter().all(|port| (2000..=2999).contains(port)));
}

#[test]
fn an_offset_maps_port_for_port() {
    let range = Range { ports: Some((8000, 8099)), base: Some(80), ..Range::default() };
    for port in 80..180 {
        let chosen = unique(&tuple(6, 40_000, port), Manip::Destination, &range, &mut Model::default());
        assert_eq!(chosen.destination.port, 8000 + port - 80);
    }
}

#[test]
fn a_destination_without_ports_keeps_its_own() {
    let range = snat();
    let mut taken = tuple(6, 40_000, 443);
    taken.destination.address = PUBLIC.into();
    let mut model = Model { used: [taken].into(), ..Model::default() };
    assert_eq!(unique(&tuple(6, 40_000, 443), Manip::Destination, &range, &mut model), taken);
    // From a range of ports the first that is free.
    let range = Range { ports: Some((500, 502)), ..snat() };
    let at = |port| Tuple { destination: Endpoint { port, ..taken.destination }, ..taken };
    let mut model = Model { used: [at(500)].into(), ..Model::default() };
    assert_eq!(unique(&tuple(6, 40_000, 443), Manip::Destination, &range, &mut model), at(501));
}

#[test]
fn a_source_keeps_its_mapping() {
    let mapped = masked(17, 7777);
    let mut model = Model { mapped: Some(mapped), ..Model::default() };
    assert_eq!(unique(&tuple(17, 5000, 53), Manip::Source, &snat(), &mut model), mapped);
    model.used.insert(mapped);
    assert_eq!(unique(&tuple(17, 5000, 53), Manip::Source, &snat(), &mut model), masked(17, 5000));
}

#[test]
fn a_search_ends() {
    let mut model = Model { used: (0..=65535).map(|port| masked(17, port)).collect(), ..Model::default() };
    unique(&tuple(17, 5000, 53), Manip::Source, &snat(), &mut model);
    // 128, 64, 32, 16 and 8.
    assert_eq!(model.asked, 248);
}

#[test]
fn only_ports_whose_answers_come_here() {
    let foreign: fn(u16) -> bool = |port| port % 4 != 1;
    let mut model = Model { foreign: Some(foreign), used: [masked(17, 5001)].into(), ..Model::default() };
    for _ in 0..100 {
        let chosen = unique(&tuple(17, 5001, 53), Manip::Source, &snat(), &mut model);
        assert!(!foreign(chosen.source.port) && model.used.insert(chosen));
    }
}

#[test]
fn what_has_no_ports_only_changes_its_address() {
    let chosen = unique(&tuple(50, 0, 0), Manip::Source, &snat(), &mut Model::default());
    assert_eq!(chosen.source, Endpoint { address: PUBLIC.into(), port: 0 });
    let mut model = Model { used: [chosen].into(), ..Model::default() };
    assert_eq!(unique(&tuple(50, 0, 0), Manip::Source, &snat(), &mut model), chosen);
}
