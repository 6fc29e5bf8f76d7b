//! Plots, as SVG. Colours and fonts are the page's: by class.

use std::fmt::Write as _;

use super::short;

const WIDTH: f64 = 640.0;
/// Left of the plot stand names and numbers.
const LEFT: f64 = 130.0;
const RIGHT: f64 = 90.0;
const INNER: f64 = WIDTH - LEFT - RIGHT;

/// A bar with its spread.
pub struct Bar<'a> {
    pub name: &'a str,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: Vec<f64>,
    /// Number of its colour.
    pub colour: usize,
}

/// A distribution: of how many the share is at most so much.
pub struct Curve {
    pub name: String,
    /// From left to right.
    pub points: Vec<[f64; 2]>,
    pub colour: usize,
    pub is_dashed: bool,
}

/// Horizontal bars from 0 on, each with a line from its least to its most and a dot for each round.
pub fn bars(unit: &str, bars: &[Bar<'_>]) -> String {
    const ROW: f64 = 34.0;
    let most = bars.iter().map(|bar| bar.max).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + value / most * INNER;
    let mut svg = open(ROW * bars.len() as f64 + 8.0);
    for (row, bar) in bars.iter().enumerate() {
        let (top, middle) = (row as f64 * ROW + 6.0, row as f64 * ROW + ROW / 2.0 + 3.0);
        let (width, colour, height) = (x(bar.median) - LEFT, bar.colour, ROW - 10.0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            middle + 4.0,
            escape(bar.name)
        );
        let _ = writeln!(
            svg,
            r#"<rect class="c{colour}" x="{LEFT}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
        );
        let _ = writeln!(
            svg,
            r#"<path class="spread" d="M{0:.1} {2:.1}H{1:.1}M{0:.1} {3:.1}v8M{1:.1} {3:.1}v8"/>"#,
            x(bar.min),
            x(bar.max),
            middle,
            middle - 4.0
        );
        for round in &bar.rounds {
            let _ = writeln!(svg, r#"<circle class="round" cx="{:.1}" cy="{middle:.1}" r="2"/>"#, x(*round));
        }
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{} {unit}</text>"#,
            x(bar.max) + 8.0,
            middle + 4.0,
            short(bar.median)
        );
    }
    svg + "</svg>\n"
}

/// Distributions over a logarithmic axis.
pub fn curves(unit: &str, curves: &[Curve]) -> String {
    const TOP: f64 = 8.0;
    const HEIGHT: f64 = 200.0;
    const LEGEND: f64 = 18.0;
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point[0].max(0.1));
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    if !low.is_finite() {
        return String::new();
    }
    let x = |value: f64| LEFT + (value.max(0.1).log10() - low) / (high - low) * INNER;
    let y = |share: f64| TOP + (1.0 - share) * HEIGHT;
    let mut svg = open(TOP + HEIGHT + 30.0 + LEGEND * curves.len() as f64);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, right) = (y(share), LEFT + INNER);
        let _ = writeln!(svg, r#"<path class="grid" d="M{LEFT} {at:.1}H{right:.1}"/>"#);
        let label = format!("{:.0} %", share * 100.0);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#, LEFT - 8.0, at + 4.0);
    }
    for power in low as i32..=high as i32 {
        let (at, bottom) = (x(10f64.powi(power)), TOP + HEIGHT);
        let _ = writeln!(svg, r#"<path class="grid" d="M{at:.1} {TOP}V{bottom:.1}"/>"#);
        let label = if power < 0 { format!("0.1 {unit}") } else { format!("{} {unit}", 10f64.powi(power)) };
        let _ = writeln!(svg, r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 16.0);
    }
    for (number, curve) in curves.iter().enumerate() {
        let class = format!("line l{}{}", curve.colour, if curve.is_dashed { " dashed" } else { "" });
        // From nothing to all, in steps: between two points nothing is known.
        let mut path = String::new();
        for (place, point) in curve.points.iter().enumerate() {
            let _ = match place {
                0 => write!(path, "M{:.1} {:.1}V{:.1}", x(point[0]), y(0.0), y(point[1])),
                _ => write!(path, "H{:.1}V{:.1}", x(point[0]), y(point[1])),
            };
        }
        let _ = writeln!(svg, r#"<path class="{class}" d="{path}"/>"#);
        let at = TOP + HEIGHT + 36.0 + LEGEND * number as f64;
        let _ = writeln!(svg, r#"<path class="{class}" d="M{LEFT} {:.1}h30"/>"#, at - 4.0);
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{at:.1}">{}</text>"#, LEFT + 38.0, escape(&curve.name));
    }
    svg + "</svg>\n"
}

/// Text as it may stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\">\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_plot() {
        let bar = |name, median: f64, colour| Bar {
            name,
            median,
            min: median / 2.0,
            max: median,
            rounds: vec![median],
            colour,
        };
        let svg = bars("Mpps", &[bar("a <b>", 1.0, 0), bar("c", 0.5, 1)]);
        assert!(svg.contains(&format!(r#"width="{INNER:.1}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"width="{:.1}""#, INNER / 2.0)), "{svg}");
        assert!(svg.contains("a &lt;b&gt;") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        assert_eq!(curves("µs", &[]), "");
    }
}
