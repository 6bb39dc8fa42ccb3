//! Tables for people: columns as wide as what is in them, numbers to the right.

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading that begins with `>` is that of numbers.
    pub(super) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What came from outside must not move the cursor, nor begin another line.
        let cells = cells.into_iter().map(|cell| cell.chars().filter(|character| !character.is_control()).collect());
        self.rows.push(cells.collect());
    }

    /// As text; `nothing` stands for a table without rows.
    pub(super) fn text(&self, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        let titles = self.headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).zip(self.headings).map(|((cell, wide), heading)| {
                let blanks = " ".repeat(wide - width(cell));
                if heading.starts_with('>') { format!("{blanks}{cell}") } else { format!("{cell}{blanks}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["id", ">packets", "zone"]);
        table.row(["7".to_owned(), "12".to_owned(), "web\n\x1b[2J".to_owned()]);
        table.row(["1234".to_owned(), "1".to_owned(), String::new()]);
        assert_eq!(table.text("none"), "id    packets  zone\n7          12  web[2J\n1234        1\n");
        assert_eq!(Table::new(&["id"]).text("There is none."), "There is none.\n");
    }
}
