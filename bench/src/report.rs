//! What is told of the measurements: the table with its targets, the plot, and the ratios that the guard compares
//! with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::measure::{Extent, Medians};

/// Everything that was measured in one run.
pub struct Report {
    pub extent: Extent,
    pub throughput: Medians,
    pub large_orders: Medians,
    pub whole_way: Medians,
    pub followed_ms: f64,
    pub worker: Medians,
    pub pickup: (f64, f64),
    pub idle: f64,
    pub start_ms: f64,
    pub growth: Medians,
    pub soak: Vec<f64>,
    pub memory: f64,
    pub wasm_kib: [f64; 2],
    /// For the guard.
    pub recorded: Recorded,
}

/// Whether a figure keeps to its target.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }
}

/// A row of the table: what, the figure in words, the target in words, and whether it is met.
struct Row {
    what: String,
    figure: String,
    target: String,
    met: Option<bool>,
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |what: &str, figure: String, target: &str, met: Option<bool>| {
            rows.push(Row { what: what.to_owned(), figure, target: target.to_owned(), met });
        };
        let t = &self.throughput;
        let mut ratio = |what: &str, of: &str, to: &str, bound: Bound| {
            let figure = t.ratio(of, to);
            let (sign, value) = match bound {
                Bound::AtLeast(value) => ("≥", value),
                Bound::AtMost(value) => ("≤", value),
            };
            row(what, format!("{figure:.2} x"), &format!("{sign} {value:.2} x"), Some(bound.holds(figure)));
        };
        ratio("create, 64 connections, to hello", "create/service/64", "hello/64", Bound::AtLeast(0.60));
        ratio("create, 64 connections, to native", "create/service/64", "create/native/64", Bound::AtLeast(0.50));
        ratio("read, 64 connections, to hello", "read/service/64", "hello/64", Bound::AtLeast(0.85));
        ratio("metrics, 64 connections, to hello", "metrics/service/64", "hello/64", Bound::AtLeast(0.85));
        ratio(
            "create, 1,000 connections, p99 to hello's",
            "create/service/1000/p99",
            "hello/1000/p99",
            Bound::AtMost(3.0),
        );
        let requests = ["create", "read", "status", "metrics"];
        let failed: f64 = requests.iter().map(|what| t.sum(&format!("{what}/service/1000/failed"))).sum();
        row("errors at 1,000 connections", format!("{failed:.0}"), "0", Some(failed == 0.0));
        let (worked, share) = (self.worker.of("service"), self.worker.ratio("service", "plain"));
        row(
            "worker, orders a second to Completed",
            format!("{worked:.0}, {share:.2} x plain rusqlite"),
            "≥ 20,000 or ≥ 0.50 x",
            Some(worked >= 20_000.0 || share >= 0.5),
        );
        let (median, p99) = self.pickup;
        row(
            "accepted to Processing at 500 a second, once the worker ticks",
            format!("p50 {median:.0} ms, p99 {p99:.0} ms"),
            "≤ 30 ms, ≤ 150 ms",
            Some(median <= 30.0 && p99 <= 150.0),
        );
        row(
            "idle system, share of a processor",
            format!("{:.1} %", self.idle * 100.0),
            "≤ 2 %",
            Some(self.idle <= 0.02),
        );
        for what in ["create", "read", "status", "metrics", "claim"] {
            let figure = self.growth.ratio(&format!("{what}/small"), &format!("{what}/grown"));
            row(
                &format!("{what}: 1,000 orders to {}", with_commas(self.extent.grown)),
                format!("{figure:.2} x"),
                "≤ 1.20 x",
                Some(figure <= 1.2),
            );
        }
        row("memory at 1,000 connections", format!("{:.0} MiB", self.memory), "≤ 150 MiB", Some(self.memory <= 150.0));
        let large = &self.large_orders;
        let share = large.ratio("create", "hello");
        row(
            "create with bodies of 117 KB, 64 connections, to hello that reads them",
            format!("{share:.2} x"),
            "≥ 0.30 x",
            Some(share >= 0.3),
        );
        let (memory, timed_out) = (large.of("memory"), large.sum("timed out"));
        row(
            "the same at 1,000 connections",
            format!("{memory:.0} MiB, {timed_out:.0} timed out"),
            "≤ 400 MiB, none",
            Some(memory <= 400.0 && timed_out == 0.0),
        );
        if let (Some(first), Some(last)) = (self.soak.get(self.soak.len() / 3), self.soak.last()) {
            row(
                &format!("memory over {} minutes, 1,000 connections", self.soak.len()),
                format!("{first:.0} MiB after a third, {last:.0} MiB at the end"),
                "flat",
                Some(*last <= first * 1.1 + 5.0),
            );
        }
        let [api, worker] = self.wasm_kib;
        row("order_api.wasm", format!("{api:.0} KiB"), "≤ 1,536 KiB", Some(api <= 1_536.0));
        row("order_worker.wasm", format!("{worker:.0} KiB"), "≤ 600 KiB", Some(worker <= 600.0));
        row("start to first answer", format!("{:.0} ms", self.start_ms), "≤ 250 ms", Some(self.start_ms <= 250.0));
        let (service, native) = (self.whole_way.of("service"), self.whole_way.of("native"));
        let share = self.whole_way.ratio("service", "native");
        row(
            "intake and worker at once, to Completed",
            format!("{service:.0} a second, {share:.2} x native ({native:.0})"),
            "",
            None,
        );
        row(
            "1,000 orders sent at once, each followed to Completed",
            format!("the last after {:.0} ms", self.followed_ms),
            "all",
            Some(true),
        );
        rows
    }

    /// The table of targets.
    pub fn table(&self) -> String {
        let mut table = "| What | Measured | Target | |\n|---|---|---|---|\n".to_owned();
        for Row { what, figure, target, met } in self.rows() {
            let met = match met {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "",
            };
            let _ = writeln!(table, "| {what} | {figure} | {target} | {met} |");
        }
        table
    }

    fn requests_table(&self) -> String {
        let mut table =
            "| Requests a second | 1 connection | 64 connections | 1,000 connections | p99 at 1,000 |\n|---|---|---|---|---|\n"
                .to_owned();
        let creates = ["hello", "create/service", "create/native"];
        let reads = ["read/service", "read/native", "status/service", "metrics/service", "metrics/native"];
        for name in creates.into_iter().chain(reads) {
            let at = |connections: &str| self.throughput.of(&format!("{name}/{connections}"));
            let p99 = self.throughput.of(&format!("{name}/1000/p99"));
            let _ = writeln!(
                table,
                "| {} | {:.0} | {:.0} | {:.0} | {p99:.0} ms |",
                name.replace('/', ", "),
                at("1"),
                at("64"),
                at("1000")
            );
        }
        table
    }

    /// Writes RESULTS.md (all but what is written by hand, below the mark), results.svg and recorded.json.
    pub fn write(&self, folder: &Path) -> Result<()> {
        const MARK: &str = "<!-- What follows is written by hand. -->\n";
        let file = folder.join("RESULTS.md");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        let by_hand = before.split_once(MARK).map(|(_, by_hand)| by_hand).unwrap_or_default();
        let Extent { rounds, seconds, stored, .. } = self.extent;
        let text = format!(
            "# Results\n\nMade by `cargo bench-all`, in one run, on {}. Medians of {rounds} rounds that take turns, \
             {seconds} s of traffic each, by oha on the same processors; {} orders are stored while requests are \
             compared. *hello* is a component that answers a constant on the same host, *native* the same rules, schema, \
             durability and group commit by axum and rusqlite without Wasm. Intake is measured without the worker, which \
             native does not have there either; the last rows have both.\n\n{}\n{}\n![Requests a second](results.svg)\n\n\
             {MARK}{by_hand}",
            machine(),
            with_commas(stored),
            self.table(),
            self.requests_table(),
        );
        std::fs::write(file, text)?;
        std::fs::write(folder.join("recorded.json"), serde_json::to_string_pretty(&self.recorded)? + "\n")?;
        self.plot(&folder.join("results.svg"))
    }

    /// Bars of the requests per second, for each number of connections.
    fn plot(&self, file: &Path) -> Result<()> {
        const SUBJECTS: [(&str, &str, RGBColor); 5] = [
            ("hello", "hello", RGBColor(160, 160, 160)),
            ("create, native", "create/native", RGBColor(244, 177, 131)),
            ("create", "create/service", RGBColor(197, 90, 17)),
            ("read", "read/service", RGBColor(46, 117, 182)),
            ("metrics", "metrics/service", RGBColor(84, 130, 53)),
        ];
        let groups = ["1", "64", "1000"];
        let figure = |name: &str, group: &str| self.throughput.of(&format!("{name}/{group}"));
        let highest =
            SUBJECTS.iter().flat_map(|(_, name, _)| groups.map(|group| figure(name, group))).fold(1.0, f64::max);
        let failed = |error: &dyn std::fmt::Display| anyhow!("the plot: {error}");
        let area = SVGBackend::new(file, (720, 360)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let width = (SUBJECTS.len() + 1) as i32;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .caption("Requests a second, by connections", ("sans-serif", 16))
            .x_label_area_size(28)
            .y_label_area_size(60)
            .build_cartesian_2d(0..width * groups.len() as i32, 0.0..highest * 1.15)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(WHITE)
            .y_label_formatter(&|value| with_commas(*value as u64))
            .draw()
            .map_err(|error| failed(&error))?;
        for (place, (label, name, color)) in SUBJECTS.into_iter().enumerate() {
            let bars = groups.iter().enumerate().map(|(group, connections)| {
                let left = group as i32 * width + place as i32;
                Rectangle::new([(left, 0.0), (left + 1, figure(name, connections))], color.filled())
            });
            chart
                .draw_series(bars)
                .map_err(|error| failed(&error))?
                .label(label)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
        }
        let labels = groups.iter().enumerate().map(|(group, connections)| {
            let words =
                if *connections == "1" { "1 connection".to_owned() } else { format!("{connections} connections") };
            Text::new(words, (group as i32 * width + 1, -highest * 0.03), ("sans-serif", 13))
        });
        chart.draw_series(labels).map_err(|error| failed(&error))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK.mix(0.3))
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))
    }
}

/// The ratios that the guard watches, as a run of its extent found them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// How many the machine had: what a system makes of another number is another ratio.
    pub processors: usize,
    /// By what is compared.
    pub ratios: BTreeMap<String, f64>,
}

impl Recorded {
    /// Those of these measurements, which were made here.
    pub fn of(throughput: &Medians, worker: &Medians) -> Self {
        let ratios = [
            ("create to hello", throughput.ratio("create/service/64", "hello/64")),
            ("create to native", throughput.ratio("create/service/64", "create/native/64")),
            ("read to hello", throughput.ratio("read/service/64", "hello/64")),
            ("metrics to hello", throughput.ratio("metrics/service/64", "hello/64")),
            ("worker to plain rusqlite", worker.ratio("service", "plain")),
        ];
        Self { processors: processors(), ratios: ratios.map(|(what, ratio)| (what.to_owned(), ratio)).into() }
    }

    /// Those that the last long run left.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("recorded.json");
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} is missing", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run writes", file.display()))
    }
}

/// How many processors there are.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// The machine, as far as it matters.
fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_048_576;
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpus = processors();
    format!("{cpus} processors ({}), {memory} GiB, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
