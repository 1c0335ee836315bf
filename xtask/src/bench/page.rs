//! Puts what the records say into the pages that show it: between `<!-- table NAME -->` and `<!-- end -->`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{HOST, USUAL_KERNEL, figures::Figures, plot, record, table};
use crate::{build, vm::Kernel};

const END: &str = "<!-- end -->";

/// Makes tables and plots anew from the records.
pub fn render() -> Result<()> {
    let root = build::root()?;
    plot::draw(&recorded(&USUAL_KERNEL.to_string())?, &root.join("docs/bench"))?;
    for (page, text) in pages(&root)? {
        fs::write(root.join(page), text).with_context(|| page.to_owned())?;
    }
    Ok(())
}

fn recorded(name: &str) -> Result<Figures> {
    let figures = Figures::read(&record(name)?);
    figures.context("`cargo xtask bench --write` makes the records that pages are made from")
}

/// The pages as the records would have them, by path below `root`.
fn pages(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let all: Vec<Figures> =
        Kernel::ALL.iter().map(|kernel| recorded(&kernel.to_string())).collect::<Result<_>>()?;
    let (usual, host) = (recorded(&USUAL_KERNEL.to_string())?, recorded(HOST)?);
    let under_source = |figures: &Figures, table: &dyn Fn(&Figures) -> String| {
        table::source(figures) + "\n" + &table(figures)
    };
    let performance = [
        ("missed", table::missed(&all)),
        ("costs", under_source(&usual, &table::costs)),
        ("flatness", under_source(&usual, &table::flatness)),
        ("peers", under_source(&usual, &table::peers)),
        ("kernels", table::kernels(&all)),
        ("host", under_source(&host, &table::on_host)),
        ("host-peers", under_source(&host, &table::peers)),
        ("policy", under_source(&host, &table::seconds)),
    ];
    let readme = [("costs", under_source(&usual, &table::costs_in_short))];
    let mut pages = Vec::new();
    for (page, tables) in [("docs/performance.md", &performance[..]), ("README.md", &readme)] {
        let mut text = fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
        for (name, table) in tables {
            text = filled(&text, name, table)
                .with_context(|| format!("{page} has no `<!-- table {name} -->` with {END}"))?;
        }
        pages.push((page, text));
    }
    Ok(pages)
}

/// `text` with `table` at the place of this name.
fn filled(text: &str, name: &str, table: &str) -> Option<String> {
    let begin = format!("<!-- table {name} -->\n");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_say_what_the_records_say() {
        let root = build::root().unwrap();
        for (page, text) in pages(&root).unwrap() {
            let as_is = fs::read_to_string(root.join(page)).unwrap();
            assert!(text == as_is, "`cargo xtask bench --render` makes the tables of {page} anew");
        }
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let page =
            "a\n<!-- table one -->\nold\n<!-- end -->\nb\n<!-- table two -->\n<!-- end -->\n";
        let new = filled(page, "one", "| new |\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- table one -->\n\n| new |\n\n<!-- end -->\nb\n<!-- table two -->\n<!-- end -->\n"
        );
        assert_eq!(filled(&new, "one", "| new |\n").as_ref(), Some(&new));
        assert_eq!(filled(page, "three", "x"), None);
    }
}
