//! Lists whose columns hold mixed text (values, addresses, advice): every cell to the left. Figures under one heading
//! are `context::columns`' business. Used by `config show` and `doctor`.

const GAP: &str = "  ";

/// `header` and `rows` with every column as wide as its widest cell; control characters become blanks.
pub fn left(header: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|cell| clean(cell)).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()));
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += padded.join(GAP).trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_to_the_left_and_hold_no_control_characters() {
        let rows = vec![vec!["é".into(), "1".into(), "x".into()], vec!["a\nb\u{1b}[1m".into()]];
        assert_eq!(left(&["KEY", "VALUE", ""], &rows), "KEY      VALUE\né        1      x\na b [1m\n");
    }
}
