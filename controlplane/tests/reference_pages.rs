//! The pages of `docs/reference` that are made from tables in the code say what the code says.
//!
//! With `LEVEE_WRITE_DOCS=1` in the environment they are written instead of checked.

use std::fmt::Write as _;
use std::path::Path;

use levee_controlplane::runbook::variable::{StageField, Variable};

#[test]
fn variables_of_runbooks_are_documented() {
    let mut page =
        "# Variables of runbooks\n\nWhat the conditions of a [runbook](../how-to/write-a-runbook.md) can ask about. \
        A variable that is not known makes what depends on it unknown, and unknown neither enters nor leaves a stage: \
        `false && unknown` is false, `true || unknown` is true.\n\n| variable | type | what it says |\n|---|---|---|\n"
            .to_owned();
    for variable in Variable::ALL {
        let _ = writeln!(page, "| `{}` | {} | {} |", variable.name(), variable.kind(), variable.about());
    }
    page.push_str(
        "\n## Stages: `stage.NAME.FIELD`\n\nFor each stage of the same runbook.\n\n| field | type | what it says |\n|---|---|---|\n",
    );
    for field in StageField::ALL {
        let _ = writeln!(page, "| `{}` | {} | {} |", field.name(), field.kind(), field.about());
    }
    page.push_str(
        "\n## What conditions are made of\n\nConditions are expressions of the Common Expression Language (CEL, cel.dev) of at most \
        1024 characters, all of them ASCII, with brackets at most 16 deep.\n\n| | |\n|---|---|\n\
        | numbers | `0.7`, `1e9`, `42`: all are doubles |\n\
        | strings | `'udp-flood'`, `\"udp-flood\"` |\n\
        | lists of strings | `['udp-flood', 'syn-flood']` |\n\
        | durations | `duration('1m30s')`: numbers with `h`, `m`, `s`, `ms`, `us`, `ns` |\n\
        | logic | `&&`, `\\|\\|`, `!`, `A ? B : C` |\n\
        | comparison | `==`, `!=` of two bools, strings, numbers or durations; `<`, `<=`, `>`, `>=` of two numbers or durations |\n\
        | arithmetic | `+`, `-`, `*`, `/`, `%` of two numbers, `+` and `-` of two durations. What has no result (a division by zero, a negative duration) is unknown |\n\
        | `'NAME' in LIST` | the string is in the list |\n\
        | `size(LIST)` | how many strings it has |\n\
        | `known(VARIABLE)` | whether it is known now; always known itself |\n\
        | `S.startsWith(T)`, `S.endsWith(T)`, `S.contains(T)` | of two strings |\n\n\
        There are no macros (`exists`, `all`, `map`, `filter`, `has`) and so no loops, no bytes, maps, null or time stamps. Unknown \
        names, stages that there are not, and types that do not fit are errors of the configuration, told with line and column.\n",
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/runbook-variables.md");
    if std::env::var_os("LEVEE_WRITE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/reference/runbook-variables.md differs from the code: run `LEVEE_WRITE_DOCS=1 cargo test -p levee-controlplane \
         --test reference_pages` and review the change"
    );
}
