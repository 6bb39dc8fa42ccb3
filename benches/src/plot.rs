//! Curves as SVG: rate over something that grows, with a logarithmic axis.

use std::fmt::Write;

use serde::Serialize;

/// A picture.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// Name of its file, without ending.
    pub name: &'static str,
    /// Above the picture.
    pub title: String,
    /// What grows.
    pub x: &'static str,
    /// What is measured, with its unit.
    pub y: &'static str,
    /// The curves, at most as many as there are colours.
    pub curves: Vec<Curve>,
}

/// One curve.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// From left to right; what grows is at least 1.
    pub points: Vec<(f64, f64)>,
}

const SIZE: (f64, f64) = (720.0, 420.0);
/// Room for titles and numbers: left, right, above, below.
const MARGIN: (f64, f64, f64, f64) = (64.0, 24.0, 48.0, 88.0);
/// Distinguishable also by people who see fewer colours (Okabe and Ito 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

impl Plot {
    /// The picture.
    pub fn svg(&self) -> String {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let low = points().map(|(x, _)| x.log10()).fold(f64::INFINITY, f64::min).floor();
        let high = points().map(|(x, _)| x.log10()).fold(low + 1.0, f64::max).ceil();
        let step = step(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let top = (points().map(|(_, y)| *y).fold(0.0, f64::max) / step).ceil().max(1.0) * step;
        let (left, right, above, below) = MARGIN;
        let at_x = |x: f64| left + (x.log10() - low) / (high - low) * (SIZE.0 - left - right);
        let at_y = |y: f64| SIZE.1 - below - y / top * (SIZE.1 - above - below);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n\
             <text x=\"{left}\" y=\"26\" font-size=\"16\">{}</text>\n",
            escaped(&self.title),
            w = SIZE.0,
            h = SIZE.1,
        );
        let mut add = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        let mut y = 0.0;
        while y <= top + step / 2.0 {
            add(line((left, at_y(y)), (SIZE.0 - right, at_y(y)), if y == 0.0 { "#333" } else { "#ddd" }));
            add(text((left - 8.0, at_y(y) + 4.0), "end", &number(y)));
            y += step;
        }
        let mut power = low;
        while power <= high {
            let x = at_x(10_f64.powf(power));
            add(line((x, above), (x, SIZE.1 - below), "#ddd"));
            add(text((x, SIZE.1 - below + 18.0), "middle", &number(10_f64.powf(power))));
            power += 1.0;
        }
        add(text((f64::midpoint(left, SIZE.0 - right), SIZE.1 - below + 38.0), "middle", self.x));
        add(text((left - 8.0, above - 14.0), "end", self.y));
        let mut legend = left;
        for (curve, colour) in self.curves.iter().zip(COLOURS) {
            let path: Vec<String> =
                curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
            add(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            ));
            for (x, y) in &curve.points {
                add(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", at_x(*x), at_y(*y)));
            }
            let y = SIZE.1 - 18.0;
            add(format!("<circle cx=\"{legend:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/>", y - 4.0));
            add(text((legend + 10.0, y), "start", &curve.name));
            legend += 34.0 + 7.0 * curve.name.chars().count() as f64;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// 1, 2 or 5 times a power of ten, so that there are four to ten lines.
fn step(largest: f64) -> f64 {
    let rough = largest.max(f64::MIN_POSITIVE) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} M", value / 1e6),
        _ if value >= 1e4 => format!("{} 000", value / 1e3),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    )
}

fn text(at: (f64, f64), anchor: &str, text: &str) -> String {
    format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>", at.0, at.1, escaped(text))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        // Writing to a String cannot fail.
        let _ = match character {
            '&' => escaped.write_str("&amp;"),
            '<' => escaped.write_str("&lt;"),
            '>' => escaped.write_str("&gt;"),
            other => escaped.write_char(other),
        };
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_at_round_numbers() {
        assert_eq!([step(4.9), step(27.0), step(98.0), step(120.0)], [1.0, 10.0, 20.0, 50.0]);
        assert_eq!([number(0.0), number(20.0), number(100_000.0), number(1e6)], ["0", "20", "100 000", "1 M"]);
    }

    #[test]
    fn every_point_lies_inside_the_picture() {
        let curves = vec![Curve { name: "a < b".to_owned(), points: vec![(1.0, 3.0), (1e6, 97.9)] }];
        let svg = Plot { name: "x", title: "t".to_owned(), x: "x", y: "y", curves }.svg();
        assert!(svg.contains("a &lt; b"));
        let numbers = |key: &str| {
            svg.match_indices(key)
                .filter_map(|(at, _)| svg[at + key.len()..].split('"').next()?.parse::<f64>().ok())
                .collect::<Vec<_>>()
        };
        assert!(numbers("cx=\"").iter().all(|x| (0.0..=SIZE.0).contains(x)));
        assert!(numbers("cy=\"").iter().all(|y| (0.0..=SIZE.1).contains(y)));
        assert_eq!(numbers("cx=\"").len(), 3);
    }
}
