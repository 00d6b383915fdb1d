// SPDX-License-Identifier: GPL-2.0

//! Tables of text, with colours on a terminal.

use crate::uri::printable;

/// How a cell looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Like all text.
    Plain,
    /// A heading, a name.
    Bold,
    /// Less important.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Bad,
}

/// Puts text into a style; no escape sequence without colours.
pub fn styled(text: &str, style: Style, colour: bool) -> String {
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Good => "32",
        Style::Warn => "33",
        Style::Bad => "1;31",
        Style::Plain => return text.into(),
    };
    match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.into(),
    }
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The text, safe for a terminal.
    text: String,
    /// Its style.
    style: Style,
    /// Whether it ends where its column ends: numbers.
    right: bool,
}

/// A cell of text.
pub fn left(text: impl AsRef<str>) -> Cell {
    Cell {
        text: printable(text.as_ref()),
        style: Style::Plain,
        right: false,
    }
}

/// A cell that ends where its column ends.
pub fn right(text: impl ToString) -> Cell {
    Cell {
        text: printable(&text.to_string()),
        style: Style::Plain,
        right: true,
    }
}

impl Cell {
    /// The same cell in a style.
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// A table; its first row is its heading.
#[derive(Debug)]
pub struct Table {
    /// The rows; all have the heading's number of cells.
    rows: Vec<Row>,
}

/// A row of a table.
#[derive(Debug)]
enum Row {
    /// Cells, one for each column.
    Cells(Vec<Cell>),
    /// A remark on the row above that belongs to no column.
    Note(String, Style),
}

impl Table {
    /// A table with a heading; a column whose heading is `right` is one of numbers.
    pub fn new(heading: Vec<Cell>) -> Self {
        let heading = heading.into_iter().map(|cell| cell.style(Style::Dim));
        Self {
            rows: vec![Row::Cells(heading.collect())],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a remark on the row above.
    pub fn note(&mut self, text: &str, style: Style) {
        self.rows.push(Row::Note(printable(text), style));
    }

    /// Writes the table, each line behind `indent` spaces, without spaces at the ends of lines.
    pub fn render(&self, indent: usize, colour: bool) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (column, cell) in cells.iter().enumerate() {
                let width = cell.text.chars().count();
                match widths.get_mut(column) {
                    Some(widest) => *widest = width.max(*widest),
                    None => widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            match row {
                Row::Note(text, style) => {
                    line.push_str("    ");
                    line.push_str(&styled(text, *style, colour));
                }
                Row::Cells(cells) => {
                    for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                        let gap = " ".repeat(width - cell.text.chars().count());
                        let text = styled(&cell.text, cell.style, colour);
                        if column > 0 {
                            line.push_str("  ");
                        }
                        match cell.right {
                            true => line.extend([gap, text]),
                            false if column + 1 == cells.len() => line.push_str(&text),
                            false => line.extend([text, gap]),
                        }
                    }
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut table = Table::new(vec![left("NAME"), right("SIZE"), left("STATE")]);
        table.row(vec![left("a"), right(1), left("up")]);
        table.note("all is well", Style::Plain);
        table.row(vec![left("longer"), right(100), left("lost")]);
        assert_eq!(
            table.render(2, false),
            "  NAME    SIZE  STATE\n  a          1  up\n      all is well\n  longer   100  lost\n"
        );
    }

    #[test]
    fn colours() {
        let mut table = Table::new(vec![left("A")]);
        table.row(vec![left("x\x1b[2J").style(Style::Bad)]);
        assert_eq!(
            table.render(0, true),
            "\x1b[2mA\x1b[0m\n\x1b[1;31mx\\u{1b}[2J\x1b[0m\n"
        );
    }
}
