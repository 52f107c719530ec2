//! Tables with elastic tab stops, byte for byte as Go's `text/tabwriter` lays them out for Stolon; no crate does the same.
//!
//! Only cells that end in a tab take part in the layout. A column is as wide as its longest cell plus one, rounded
//! up to a multiple of eight; cells are padded with tabs.

const TAB_WIDTH: usize = 8;
const PADDING: usize = 1;

/// How the last cell of a row ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEnd {
    /// The last cell is not padded.
    Free,
    /// The last cell is followed by a tab too, and so takes part in the layout.
    Tab,
}

/// Which rows share their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The header and the first row, and each further row by itself. That is how Stolon's tables have always looked, and scripts may
    /// depend on their bytes.
    FirstRow,
    /// All of them.
    AllRows,
}

/// The header and the rows.
pub fn render(header: &[&str], rows: &[Vec<String>], end: RowEnd, alignment: Alignment) -> String {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    if alignment == Alignment::AllRows {
        let header = std::iter::once(Row { cells: &header, end });
        let block: Vec<Row<'_>> = header.chain(rows.iter().map(|row| Row { cells: row, end })).collect();
        return render_block(&block);
    }
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let block = if index == 0 {
            vec![Row { cells: &header, end: RowEnd::Free }, Row { cells: row, end }]
        } else {
            vec![Row { cells: row, end }]
        };
        out.push_str(&render_block(&block));
    }
    out
}

struct Row<'a> {
    cells: &'a [String],
    end: RowEnd,
}

impl Row<'_> {
    /// The cell, if it ends in a tab.
    fn tabbed_cell(&self, column: usize) -> Option<&str> {
        let tabbed = match self.end {
            RowEnd::Free => self.cells.len().saturating_sub(1),
            RowEnd::Tab => self.cells.len(),
        };
        self.cells.get(column).filter(|_| column < tabbed).map(String::as_str)
    }
}

fn render_block(rows: &[Row<'_>]) -> String {
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.cells.iter().enumerate() {
            out.push_str(cell);
            if row.tabbed_cell(column).is_some() {
                let width = column_width(rows, column);
                let tabs = (width - length(cell)).div_ceil(TAB_WIDTH);
                out.extend(std::iter::repeat_n('\t', tabs));
            }
        }
        out.push('\n');
    }
    out
}

fn column_width(rows: &[Row<'_>], column: usize) -> usize {
    let longest = rows.iter().filter_map(|row| row.tabbed_cell(column)).map(length).max().unwrap_or(0);
    (longest + PADDING).next_multiple_of(TAB_WIDTH)
}

fn length(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn the_header_is_aligned_with_the_first_row_only() {
        assert_eq!(
            render(&["ID", "LEADER"], &[row(&["70834425", "true"])], RowEnd::Free, Alignment::FirstRow),
            "ID\t\tLEADER\n70834425\ttrue\n"
        );
        let header = [
            "UID",
            "HEALTHY",
            "PG LISTENADDRESS",
            "PG HEALTHY",
            "PG WANTEDGENERATION",
            "PG CURRENTGENERATION",
        ];
        let rows = [
            row(&["keeper1", "true", "127.0.0.1:45431", "true", "3", "3"]),
            row(&["keeper2", "true", "127.0.0.1:45432", "true", "2", "2"]),
        ];
        assert_eq!(
            render(&header, &rows, RowEnd::Tab, Alignment::FirstRow),
            "UID\tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\n\
             keeper1\ttrue\t127.0.0.1:45431\t\ttrue\t\t3\t\t\t3\t\n\
             keeper2\ttrue\t127.0.0.1:45432\ttrue\t2\t2\t\n"
        );
    }

    #[test]
    fn length_counts_characters_not_bytes() {
        assert_eq!(
            render(&["A", "B"], &[row(&["äöüäöüä", "x"])], RowEnd::Free, Alignment::FirstRow),
            "A\tB\näöüäöüä\tx\n"
        );
    }

    #[test]
    fn no_rows_no_table() {
        assert_eq!(render(&["ID"], &[], RowEnd::Free, Alignment::FirstRow), "");
    }
}
