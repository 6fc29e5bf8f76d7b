//! The page: one file, without scripts and without anything from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

use super::svg::{Bar, Curve, bars, curves, escape};
use super::{array, machine, number, short, word};

const STYLE: &str = include_str!("style.css");

const HOW: &str = "\
A fixed number of frames goes round through the router: what arrives at the sink is made a frame of the next flow and sent again. \
Nothing is lost, nothing is overloaded. The routers are measured by turns, round by round. A bar is the median, the line on it goes \
from the least to the most, each dot is a round. The CPU time is that of everything the router does: NAPI threads, workers, and the \
rest of the daemon.";

/// The results as an HTML page.
pub fn page(results: &Value) -> String {
    let settings = &results["settings"];
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>shunt bench</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<h1>shunt bench</h1>\n<p>{}.</p>\n<p>{HOW} Saturated: {} frames on their way; light load: {}.</p>\n",
        escape(&machine(results)),
        settings["saturated"],
        settings["light"],
    );
    for skipped in array(&results["skipped"]) {
        let (name, why) = (escape(word(&skipped["name"])), escape(word(&skipped["why"])));
        // Writing to a String cannot fail.
        let _ = writeln!(html, "<p>Not measured: {name}, {why}.</p>");
    }
    array(&results["scenarios"]).iter().for_each(|one| html += &scenario(one));
    html + "</body>\n</html>\n"
}

fn scenario(scenario: &Value) -> String {
    let routers = array(&scenario["routers"]);
    let mut html =
        format!("<section>\n<h2 id=\"{0}\">{0}: {1}</h2>\n", word(&scenario["name"]), escape(word(&scenario["what"])));
    if scenario["cores"]["shared"] == true {
        html += "<p>Load and router share these cores: the machine has no others.</p>\n";
    }
    html += "<div class=\"plots\">\n<figure>\n<figcaption>Throughput, saturated</figcaption>\n";
    html += &bars("Mpps", &routers.iter().enumerate().map(throughput).collect::<Vec<_>>());
    html += "</figure>\n<figure>\n<figcaption>Latency: share of the packets that took no longer</figcaption>\n";
    html += &curves("µs", &routers.iter().enumerate().flat_map(latencies).collect::<Vec<_>>());
    html += "</figure>\n</div>\n";
    html += "<table>\n<tr><th>router</th><th>Mpps</th><th>of the kernel's</th><th>CPU ns/packet</th><th>busy</th><th>load busy</th>\
             <th>lost</th><th>restarts</th></tr>\n";
    for router in routers {
        let load = &router["saturated"];
        let median = |figure: &str| short(number(&load[figure]["median"]));
        let percent = |figure: &str| format!("{:.0} %", number(&load[figure]["median"]) * 100.0);
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(word(&router["name"])),
            median("mpps"),
            short(number(&router["of_kernel"]["median"])),
            median("cpu_ns"),
            percent("busy"),
            percent("load_busy"),
            load["lost"],
            load["restarts"],
        );
    }
    html += "</table>\n<details><summary>Commands</summary>\n<pre>";
    array(&scenario["commands"]).iter().for_each(|command| html += &(escape(word(command)) + "\n"));
    html + "</pre>\n</details>\n</section>\n"
}

fn throughput((colour, router): (usize, &Value)) -> Bar<'_> {
    let mpps = &router["saturated"]["mpps"];
    let [median, min, max] = ["median", "min", "max"].map(|figure| number(&mpps[figure]));
    Bar {
        name: word(&router["name"]),
        median,
        min,
        max,
        rounds: array(&mpps["rounds"]).iter().map(number).collect(),
        colour,
    }
}

fn latencies((colour, router): (usize, &Value)) -> [Curve; 2] {
    [("saturated", false), ("light", true)].map(|(load, is_dashed)| {
        let latency = &router[load]["latency_us"];
        let quantile = |share: &str| short(number(&latency[share]["median"]));
        let (p50, p99, p999) = (quantile("p50"), quantile("p99"), quantile("p999"));
        let points = array(&latency["distribution"]).iter().map(|point| [number(&point[0]), number(&point[1])]);
        Curve {
            name: format!("{}, {load}: p50 {p50}, p99 {p99}, p99.9 {p999} µs", word(&router["name"])),
            points: points.collect(),
            colour,
            is_dashed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::example;

    #[test]
    fn the_page_is_whole_and_needs_nothing() {
        let page = page(&example());
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(!page.contains("<script") && !page.contains("http"), "nothing from elsewhere");
        for text in
            ["shunt, workers, light: p50 12.0", "not installed &lt;here&gt;", "ip route add default", "0.35 Mpps"]
        {
            assert!(page.contains(text), "{text} is missing:\n{page}");
        }
    }
}
