//! What was measured, and where it is written down.

/// Puts figures into the page, each in the row that begins so: only those of an optimised build, and only when asked.
pub(crate) fn write_figures(figures: &[(&str, String)]) {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/control-plane-figures.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let row = |line: &str| figures.iter().find(|(label, _)| line.starts_with(&format!("| {label} |")));
    assert_eq!(text.lines().filter_map(row).count(), figures.len(), "rows of {}", page.display());
    let asked = std::env::var_os("LEVEE_WRITE_FIGURES").is_some_and(|value| value == "1");
    if cfg!(debug_assertions) || !asked {
        return;
    }
    let line = |line: &str| match (row(line), line.trim_end_matches(" |").rsplit_once("| ")) {
        (Some((_, figure)), Some((before, _))) => format!("{before}| {figure} |\n"),
        _ => format!("{line}\n"),
    };
    std::fs::write(&page, text.lines().map(line).collect::<String>()).unwrap();
}

pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
