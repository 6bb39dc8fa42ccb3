//! The documentation holds together: every page is reached from its index, every link leads somewhere, and the units for systemd
//! that it names are there and understood.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Targets of the links of a page, as they are written.
fn links(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    // Code has brackets too.
    let prose = text.split("```").step_by(2).collect::<String>();
    let ends = prose.match_indices("](").map(|(at, _)| &prose[at + 2..]);
    ends.filter_map(|rest| Some(rest[..rest.find(')')?].to_owned())).collect()
}

/// The file of a link; none: it leads elsewhere.
fn file_of(page: &Path, link: &str) -> Option<PathBuf> {
    let path = link.split('#').next().filter(|path| !path.is_empty() && !path.contains("://"))?;
    Some(page.parent().unwrap().join(path))
}

/// What a heading is called in links: as GitHub makes it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_page_is_reached_from_the_index() {
    let index = root().join("docs/README.md");
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![index.clone()]);
    while let Some(page) = waiting.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        // Pages are found by the indexes, not by chance.
        if page.file_name().is_some_and(|name| name == "README.md") {
            let files = links(&page).into_iter().filter_map(|link| file_of(&page, &link)?.canonicalize().ok());
            waiting.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "md")));
        }
    }
    let orphans: Vec<PathBuf> =
        pages(&root().join("docs")).into_iter().filter(|page| !reached.contains(page)).collect();
    assert!(orphans.is_empty(), "docs/README.md does not lead to {orphans:#?}");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let root = root();
    let pages = pages(&root.join("docs"))
        .into_iter()
        .chain(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    let mut wrong = Vec::new();
    for page in pages {
        for link in links(&page) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let file = file_of(&page, &link).unwrap_or_else(|| page.clone());
            if !file.exists() {
                wrong.push(format!("{}: {link}", page.display()));
                continue;
            }
            let Some((_, wanted)) = link.split_once('#') else { continue };
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
            if !(headings.any(|heading| heading == wanted) || text.contains(&format!("id=\"{wanted}\""))) {
                wrong.push(format!("{}: {link} (no such heading)", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Units that the documentation speaks of: `levee-...` behind systemctl.
#[test]
fn every_unit_that_is_named_is_there() {
    let root = root();
    for page in pages(&root.join("docs")) {
        let text = fs::read_to_string(&page).unwrap();
        for line in text.lines().filter_map(|line| Some(&line[line.find("systemctl ")?..])) {
            let units =
                line.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| word.starts_with("levee-"));
            for unit in units {
                let file = root.join(format!("configs/systemd/{unit}.service"));
                assert!(file.exists(), "{}: there is no {}", page.display(), file.display());
            }
        }
    }
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(root().join("configs/systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "service") {
            continue;
        }
        // Nothing is installed here: a program that is there stands for ours.
        let text = fs::read_to_string(&path).unwrap();
        for program in ["/usr/bin/levee-dataplane", "/usr/bin/levee-controlplane"] {
            if text.contains(program) {
                let copy = folder.path().join(path.file_name().unwrap());
                fs::write(&copy, text.replace(program, env!("CARGO_BIN_EXE_levee-controlplane"))).unwrap();
                units.push(copy);
            }
        }
    }
    assert_eq!(units.len(), 2);
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    let Ok(verified) = verified else { return println!("skipped: there is no systemd-analyze") };
    let told = String::from_utf8_lossy(&verified.stderr).into_owned() + &String::from_utf8_lossy(&verified.stdout);
    // Other units of the machine are its own business.
    let ours: Vec<&str> =
        told.lines().filter(|line| line.contains("levee-") && !line.contains("is not executable")).collect();
    assert!(ours.is_empty(), "{told}");
    // A mistake is noticed.
    let broken = folder.path().join("levee-broken.service");
    fs::write(&broken, fs::read_to_string(&units[0]).unwrap().replace("Restart=always", "Restrat=always")).unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&broken).output().unwrap();
    assert!(String::from_utf8_lossy(&verified.stderr).contains("Restrat"));
}
