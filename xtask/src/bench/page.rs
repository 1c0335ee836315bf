//! Puts what the records say into the pages that show it: between `<!-- table NAME -->` and `<!-- end -->`.

use std::fs;

use anyhow::{Context as _, Result};

use super::{HOST, USUAL_KERNEL, figures::Figures, plot, record, table};
use crate::{build, vm::Kernel};

const END: &str = "<!-- end -->";

/// Makes tables and plots anew from the records.
pub fn render() -> Result<()> {
    let root = build::root()?;
    let of = |name: &str| {
        let figures = Figures::read(&record(name)?);
        figures.context("`cargo xtask bench --write` makes the records that pages are made from")
    };
    let all: Vec<Figures> =
        Kernel::ALL.iter().map(|kernel| of(&kernel.to_string())).collect::<Result<_>>()?;
    let (usual, host) = (of(&USUAL_KERNEL.to_string())?, of(HOST)?);
    plot::draw(&usual, &root.join("docs/bench"))?;

    let source = table::source;
    for (page, tables) in [
        (
            "docs/performance.md",
            vec![
                ("missed", table::missed(&all)),
                ("costs", source(&usual) + "\n" + &table::costs(&usual)),
                ("flatness", source(&usual) + "\n" + &table::flatness(&usual)),
                ("peers", source(&usual) + "\n" + &table::peers(&usual)),
                ("kernels", table::kernels(&all)),
                ("host", source(&host) + "\n" + &table::on_host(&host)),
                ("host-peers", source(&host) + "\n" + &table::peers(&host)),
                ("policy", source(&host) + "\n" + &table::seconds(&host)),
            ],
        ),
        ("README.md", vec![("costs", source(&usual) + "\n" + &table::costs_in_short(&usual))]),
    ] {
        let path = root.join(page);
        let mut text = fs::read_to_string(&path).with_context(|| page.to_owned())?;
        for (name, table) in tables {
            text = filled(&text, name, &table)
                .with_context(|| format!("{page} has no `<!-- table {name} -->` with {END}"))?;
        }
        fs::write(&path, text).with_context(|| page.to_owned())?;
    }
    Ok(())
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
