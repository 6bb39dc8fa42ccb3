//! `levee-dataplane replay` as a program: what it refuses, and that it damages nothing.
#![expect(clippy::expect_used, reason = "a test that cannot go on says why and fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use levee_dataplane::capture_file::Writer;
use levee_engine::time::Timestamp;
use tempfile::TempDir;

/// A folder with a configuration and a capture of one frame.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let zone = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";
    fs::write(folder.path().join("levee.toml"), zone).expect("writing the configuration");
    let mut capture = Writer::create(folder.path().join("in.pcap")).expect("a capture");
    // Not IP, so it passes.
    let mut frame = [0xff; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    capture.write(Timestamp(1), &frame, 60).expect("a packet");
    capture.finish().expect("the capture");
    folder
}

fn replay(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_levee-dataplane"))
        .current_dir(folder)
        .args(["replay", "--config", "levee.toml", "--outside-in", "in.pcap"])
        .args(arguments)
        .output()
        .expect("the program");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

#[test]
fn an_input_is_never_written_over_whatever_it_is_called() {
    let folder = folder();
    let before = fs::read(folder.path().join("in.pcap")).expect("the capture");
    std::os::unix::fs::symlink("in.pcap", folder.path().join("link.pcap")).expect("a link");
    let inputs = ["in.pcap", "./in.pcap", "link.pcap", "levee.toml"];
    for name in inputs {
        let (output, told) = replay(folder.path(), &["--inside-out", name, "--report", "report.json"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains(name) && told.contains("--inside-out"), "{told}");
        let (output, told) = replay(folder.path(), &["--inside-out", "out.pcap", "--report", name]);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
    }
    assert_eq!(fs::read(folder.path().join("in.pcap")).expect("the capture"), before);
    assert!(!folder.path().join("out.pcap").exists(), "it is refused before anything is written");
}

#[test]
fn two_outputs_are_never_one_file_but_may_be_one_device() {
    let folder = folder();
    let (output, told) = replay(folder.path(), &["--inside-out", "out", "--report", "./out"]);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("./out (--report) is the file of --inside-out too"), "{told}");
    let to_nowhere = ["--inside-out", "/dev/null", "--outside-out", "/dev/null", "--report", "/dev/null"];
    let (output, told) = replay(folder.path(), &to_nowhere);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

#[test]
fn a_state_that_is_not_there_is_told_unless_it_is_about_to_be_learned() {
    let folder = folder();
    let out = ["--inside-out", "/dev/null", "--report", "/dev/null", "--state", "learned"];
    let (output, told) = replay(folder.path(), &out);
    assert!(output.status.success() && told.contains("learned/baseline does not exist"), "{told}");
    let (output, told) = replay(folder.path(), &[&out[..], &["--learn"]].concat());
    assert!(output.status.success() && told.is_empty(), "{told}");
    let (output, told) = replay(folder.path(), &out);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

#[test]
fn a_configuration_that_cannot_be_read_is_not_called_invalid() {
    let folder = folder();
    let status = |text: Option<&str>| {
        let path = folder.path().join("levee.toml");
        match text {
            Some(text) => fs::write(&path, text).expect("writing the configuration"),
            None => fs::remove_file(&path).expect("removing the configuration"),
        }
        replay(folder.path(), &["--inside-out", "/dev/null", "--report", "/dev/null"]).0.status.code()
    };
    assert_eq!(status(Some("schema = 1\n[[zone]]\nname = \"web\"\nprefxies = []\n")), Some(78));
    assert_eq!(status(None), Some(1));
}
