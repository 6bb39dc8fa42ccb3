//! `leveectl config check` as a process: what it prints and how it exits.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leveectl"))
        .args(["config", "check", "--no-environment"])
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn every_shipped_configuration_is_valid_without_a_warning() {
    let mut checked = 0;
    for entry in std::fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let output = check(&[path.to_str().unwrap()]);
            // Runbooks can be written before this version of Levee can carry them out; nobody shall miss that.
            let told = stderr(&output);
            let others = told
                .lines()
                .filter(|line| !line.starts_with("  help: ") && !line.contains("this version of Levee cannot talk to"));
            assert_eq!((output.status.code(), others.count()), (Some(0), 0), "{}: {told}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn a_valid_file_is_summed_up() {
    let file = configs().join("levee.toml");
    let file = file.to_str().unwrap();
    let text = stdout(&check(&[file]));
    assert!(
        text.starts_with(&format!("{file}: ok, 1 zone, 1 wire\nceiling  monitor\nzone     web: monitor,")),
        "{text}"
    );

    let object: serde_json::Value = serde_json::from_str(&stdout(&check(&[file, "--format", "json"]))).unwrap();
    assert_eq!(object["valid"], true);
    assert_eq!(object["zones"][0]["mode"], "monitor");
}

/// Nothing that waits for somebody to write, or never ends, is waited for.
#[test]
fn what_is_no_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, binary) = (folder.path().join("pipe"), folder.path().join("binary"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::write(&binary, b"\x7fELF\0\x1b[2J\xff").unwrap();
    let (pipe, binary, folder) = (pipe.to_str().unwrap(), binary.to_str().unwrap(), folder.path().to_str().unwrap());
    let runbook = format!("{}/tests/runbook/levee.toml", env!("CARGO_MANIFEST_DIR"));
    for (what, told, text) in [
        (pipe, "it is a pipe", false),
        (folder, "it is a folder", false),
        ("/dev/zero", "it is a device", false),
        (binary, "it is no text", true),
    ] {
        let commands: [&[&str]; 6] = [
            &["config", "check", what],
            &["config", "migrate", what],
            &["config", "diff", &runbook, what],
            &["runbook", "check", "--config", what],
            &["runbook", "simulate", "--config", &runbook, "--report", what],
            &["store", "restore", what, "--state-dir", folder],
        ];
        // A report and a store are told apart from text by what is in them.
        for command in &commands[..if text { 4 } else { 6 }] {
            let output = Command::new(env!("CARGO_BIN_EXE_leveectl")).args(*command).output().unwrap();
            let said = stderr(&output).split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
            assert!(said.contains(told) && !said.contains('\x1b'), "{command:?}: {said}");
            assert!(matches!(output.status.code(), Some(1 | 78)) && stdout(&output).is_empty(), "{command:?}");
        }
    }
}

#[test]
fn a_rate_for_a_filter_that_drops_is_refused_before_anybody_is_asked() {
    let add = |more: &[&str]| {
        let filter = ["mitigations", "add", "filter", "--zone", "web", "--match", "protocol=udp", "--ttl", "5m"];
        let none = ["--socket", "/nonexistent/socket"];
        let output = Command::new(env!("CARGO_BIN_EXE_leveectl")).args(none).args(filter).args(more).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    for rate in [&["--pps", "5"][..], &["--per", "source"], &["--action", "pass", "--pps", "5"]] {
        let (status, told) = add(rate);
        assert!(status == Some(2) && told.contains("--action limit"), "{rate:?}: {told}");
    }
    let (status, told) = add(&["--action", "limit", "--pps", "5", "--per", "source"]);
    assert!(status == Some(1) && told.contains("no control plane answers"), "{told}");
    let (status, told) = add(&["--action", "limit", "--pps", "1e6"]);
    assert!(status == Some(2) && told.contains("a whole number without a unit"), "{told}");
}

#[test]
fn an_invalid_file_is_told_with_places_and_exits_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.9/24\"]\nmod = \"enforce\"\n")
        .unwrap();
    let path = path.to_str().unwrap();

    let output = check(&[path]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(78));
    for part in ["bad.toml:4:13", "\"203.0.113.0/24\"", "bad.toml:5:1", "did you mean `mode`?", "mod = \"enforce\""] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }

    let output = check(&[path, "--format", "json"]);
    assert_eq!(output.status.code(), Some(78));
    let object: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(object["valid"], false);
    assert_eq!((&object["errors"][1]["line"], &object["errors"][1]["column"]), (&5.into(), &1.into()));
}

#[test]
fn two_files_are_compared_only_when_both_are_valid_conditions_and_all() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (configs().join("runbook-hosting.toml"), folder.path().join("after.toml"));
    let text = std::fs::read_to_string(&before).unwrap();
    let diff = || {
        let files = [before.as_os_str(), after.as_os_str()];
        Command::new(env!("CARGO_BIN_EXE_leveectl")).args(["config", "diff"]).args(files).output().unwrap()
    };
    std::fs::write(&after, &text).unwrap();
    assert_eq!((diff().status.code(), stdout(&diff()).as_str()), (Some(0), ""));
    std::fs::write(&after, text.replace("uplink.utilisation > 0.7", "uplink.utilisation > 0.6")).unwrap();
    assert_eq!(diff().status.code(), Some(1));
    assert!(stdout(&diff()).contains("uplink.utilisation > 0.6"), "{}", stdout(&diff()));
    std::fs::write(&after, text.replace("uplink.utilisation", "uplink.utilization")).unwrap();
    assert_eq!(diff().status.code(), Some(78));
    assert!(stderr(&diff()).contains("uplink.utilization"), "{}", stderr(&diff()));
}

#[test]
fn variables_that_are_never_known_with_a_file_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("levee.toml");
    let text = std::fs::read_to_string(configs().join("runbook-hosting.toml")).unwrap();
    let capacity = text.lines().find(|line| line.starts_with("capacity = ")).unwrap();
    std::fs::write(&path, text.replace(&format!("{capacity}\n"), "")).unwrap();
    let output = check(&[path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("asks for uplink.utilisation, which is never known: no wire has a capacity"), "{told}");
}

#[test]
fn a_file_that_cannot_be_read_exits_1_and_wrong_usage_2() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    let output = check(&[missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("missing.toml"), "{}", stderr(&output));
    assert_eq!(check(&[]).status.code(), Some(2));
    assert_eq!(check(&["a", "--format", "xml"]).status.code(), Some(2));
}
