//! Figures as plots.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use super::{
    figures::{Figures, Setting},
    goals::LANDLOCK,
    policy::{RULES, USUAL},
    work::Work,
};

const SIZE: (u32, u32) = (720, 400);
/// Room above the highest point, for what the lines are called.
const HEADROOM: f64 = 1.3;
const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0x1f, 0x5f, 0xbf);
const LANDLOCKS: RGBColor = RGBColor(0xd0, 0x7a, 0x1a);

/// A plot over one axis.
struct Plot<'a> {
    title: String,
    below: &'a str,
    /// How many places of the axis are marked.
    places: usize,
    /// How one is written.
    place: fn(&f64) -> String,
    lines: [Line; 2],
}

/// A line of a plot: its name, its colour, and its points.
type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

/// Writes the plots into `directory`.
pub fn draw(figures: &Figures, directory: &Path) -> Result<()> {
    let added = format!("Instructions added to open and close on {}", figures.kernel);
    let agent = Setting::Agent { rules: USUAL };
    let by_depth = |setting| {
        let works = [(2.0, Work::Open2), (8.0, Work::Open8), (32.0, Work::Open32)];
        points(works.map(|(depth, work)| (depth, figures.added(work, setting))))
    };
    let depth = Plot {
        title: format!("{added}, by depth (1,000 rules)"),
        below: "components of the path",
        places: 8,
        place: |depth| format!("{depth:.0}"),
        lines: [
            ("agent-guard", OURS, by_depth(agent)?),
            ("Landlock", LANDLOCKS, by_depth(LANDLOCK)?),
        ],
    };
    depth.write(&directory.join("depth.svg"))?;

    let by_rules = |setting: fn(u32) -> Setting| {
        let added = |rules: u32| figures.added(Work::Open8, setting(rules));
        points(RULES.map(|rules| (f64::from(rules).log10(), added(rules))))
    };
    let rules = Plot {
        title: format!("{added}, by rules (8 deep)"),
        below: "rules of the policy",
        places: 4,
        place: |power| format!("{:.0}", 10_f64.powf(*power)),
        lines: [
            ("agent-guard", OURS, by_rules(|rules| Setting::Agent { rules })?),
            ("Landlock", LANDLOCKS, by_rules(|rules| Setting::Landlock { rules })?),
        ],
    };
    rules.write(&directory.join("rules.svg"))
}

fn points<const N: usize>(of: [(f64, Option<i64>); N]) -> Result<Vec<(f64, f64)>> {
    of.into_iter()
        .map(|(x, y)| {
            let y = y.context("the record lacks a figure that is plotted")?;
            Ok((x, f64::from(i32::try_from(y)?)))
        })
        .collect()
}

impl Plot<'_> {
    fn write(&self, path: &Path) -> Result<()> {
        // Drawn in memory: an error of the drawing has no error of the disk in it.
        let mut image = String::new();
        self.draw(&mut image).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        fs::write(path, image + "\n").with_context(|| path.display().to_string())
    }

    fn draw(
        &self,
        image: &mut String,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>> {
        let all = || self.lines.iter().flat_map(|(_, _, points)| points);
        let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max);
        let (right, top) = (most(|point| point.0), most(|point| point.1) * HEADROOM);
        let left = all().map(|point| point.0).fold(right, f64::min);

        let root = SVGBackend::with_string(image, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, (FONT, 17))
            .margin(14)
            .margin_right(34)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(left..right, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.below)
            .x_labels(self.places)
            .x_label_formatter(&self.place)
            .y_desc("instructions")
            .y_label_formatter(&|count| format!("{count:.0}"))
            .draw()?;
        for (name, colour, points) in &self.lines {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart
                .draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
        root.present()
    }
}
