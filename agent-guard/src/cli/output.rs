//! What commands print on standard output.

use std::io::{self, Write as _};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Prints `value`, for people as `table` shows it.
///
/// # Errors
/// It can not be written; not where whoever reads has seen enough.
pub fn print(
    format: Format,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(),
        Format::Json => json(value).context("writing JSON")?,
        Format::Yaml => yaml(value).context("writing YAML")?,
    };
    write(text.as_bytes()).map(drop)
}

/// Writes to standard output. False where nobody reads any more.
///
/// # Errors
/// What the system said.
pub fn write(bytes: &[u8]) -> anyhow::Result<bool> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("writing to standard output"),
    }
}

/// JSON, indented.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n")
}

/// YAML.
pub fn yaml(value: &impl Serialize) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}

/// Rows under a head, in columns.
pub fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head).add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
