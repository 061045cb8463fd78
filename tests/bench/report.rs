//! What was measured: printed as Markdown tables, written as JSON.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// All tables of one run.
#[derive(Default, Serialize)]
pub struct Report {
    pub tables: Vec<Table>,
}

/// One table; every row has as many cells as there are columns.
#[derive(Serialize)]
pub struct Table {
    pub title: String,
    pub note: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Report {
    pub fn add(&mut self, title: &str, note: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let table = Table { title: title.to_owned(), note: note.to_owned(), columns, rows };
        // Shown as soon as it is there: a run takes minutes.
        println!("{}", table.markdown());
        self.tables.push(table);
    }

    pub fn print(&self) {
        eprintln!("{} tables measured", self.tables.len());
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(path, serde_json::to_string_pretty(self)?)?)
    }
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!("\n## {}\n\n", self.title);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text += &line(&self.columns);
        text += &format!("|{}\n", " --- |".repeat(self.columns.len()));
        for row in &self.rows {
            text += &line(row);
        }
        if !self.note.is_empty() {
            text += &format!("\n{}\n", self.note);
        }
        text
    }
}

/// The middle value; of none, zero.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// `1.02 (0.98-1.07; 6)`: median, range and number.
pub fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({low:.2}-{high:.2}; {})", median(values), values.len())
}
