//! A sheet: rows of cells that can be sorted and searched, whatever they are about.

use std::cmp::Ordering;

/// A cell: what it says, and what it is sorted by if that is a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) value: Option<f64>,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), value: None }
    }

    /// A number with a metric prefix.
    pub(super) fn number(value: f64) -> Self {
        Self { text: metric(value), value: Some(value) }
    }

    /// A number as it is; nothing where there is none.
    pub(super) fn plain(value: Option<f64>) -> Self {
        let Some(number) = value else { return Self { text: "-".into(), value: Some(-1.0) } };
        let text = if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") };
        Self { text, value }
    }
}

/// `1234` as `1.23k`: three digits at least, and never more than six columns.
pub(super) fn metric(value: f64) -> String {
    let mut rest = value;
    for prefix in ["", "k", "M", "G", "T"] {
        // What would be rounded to four digits has the next prefix.
        if rest.abs() < 999.5 {
            return match () {
                () if prefix.is_empty() && rest.fract() == 0.0 => format!("{rest:.0}"),
                () if rest.abs() < 9.995 => format!("{rest:.2}{prefix}"),
                () if rest.abs() < 99.95 => format!("{rest:.1}{prefix}"),
                () => format!("{rest:.0}{prefix}"),
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.0}P")
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Columns of the screen at least.
    pub(super) width: u16,
    /// Numbers stand at the right, and the largest come first.
    pub(super) is_number: bool,
    /// Gets a part of what is left over.
    pub(super) grows: bool,
}

impl Column {
    pub(super) const fn number(name: &'static str, width: u16) -> Self {
        Self { name, width, is_number: true, grows: false }
    }

    pub(super) const fn word(name: &'static str, width: u16) -> Self {
        Self { name, width, is_number: false, grows: false }
    }

    pub(super) const fn words(name: &'static str, width: u16) -> Self {
        Self { name, width, is_number: false, grows: true }
    }
}

/// A table.
#[derive(Clone, Debug, Default)]
pub(super) struct Sheet {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
    /// What is to be said if there are no rows.
    pub(super) if_empty: &'static str,
}

/// By which column, and whether the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Without one, rows stay as they come.
    pub(super) column: Option<usize>,
    pub(super) reversed: bool,
}

impl Sheet {
    /// The rows that have the text in a cell, in order. Those that are equal stay as they came.
    pub(super) fn view(&self, search: &str, order: Order) -> Vec<&Vec<Cell>> {
        let wanted = search.to_lowercase();
        let has = |cell: &Cell| cell.text.to_lowercase().contains(&wanted);
        let mut rows: Vec<_> = self.rows.iter().filter(|row| row.iter().any(has)).collect();
        if let Some(column) = order.column {
            rows.sort_by(|a, b| {
                let ordering =
                    a.get(column).zip(b.get(column)).map_or(Ordering::Equal, |(a, b)| compare(a, b));
                if order.reversed { ordering.reverse() } else { ordering }
            });
        } else if order.reversed {
            rows.reverse();
        }
        rows
    }
}

/// The largest number first, and words from A to Z.
fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (a.value, b.value) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        _ => a.text.cmp(&b.text),
    }
}
