//! What `make demo` shows is so.

#[test]
fn privileged_the_demo_shows_the_chapter() {
    let mut told = Vec::new();
    let report = shunt_tests::demo::run(&mut told).expect("a vector takes everything");
    println!("{}", String::from_utf8_lossy(&told));
    assert_eq!(report.disappointments(), Vec::<String>::new());
}
