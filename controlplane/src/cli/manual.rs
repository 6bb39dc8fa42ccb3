//! Completions and man pages, made from the command line's own description.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;

use super::arguments::Arguments;
use super::{fail, print};

/// Completions for a shell, on standard output.
pub(super) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "leveectl", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// A page for each command.
pub(super) fn pages(folder: &Path) -> ExitCode {
    match clap_mangen::generate_to(Arguments::command(), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write man pages to {}: {error}", folder.display())),
    }
}

/// All commands with their help, as Markdown: `docs/reference/leveectl.md`.
///
pub fn manual() -> String {
    let mut text = String::from(
        "# leveectl\n\nGenerated from the program: `leveectl COMMAND --help` says the same. Exit status: 0 done, 1 it could \
         not be done, 2 wrong usage, 78 the\nconfiguration is not valid. `leveectl completions SHELL` prints completions, \
         `leveectl man FOLDER` writes man pages.\n",
    );
    let mut root = Arguments::command().term_width(100);
    root.build();
    append(&mut text, &mut root, "leveectl");
    text
}

fn append(text: &mut String, command: &mut clap::Command, path: &str) {
    let help = command.render_long_help().to_string();
    let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    text.push_str(&format!("\n## {path}\n\n```text\n{}\n```\n", help.trim_end()));
    for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name());
        append(text, inner, &path);
    }
}
