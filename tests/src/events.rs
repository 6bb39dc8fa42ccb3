//! Reads the event lines of `levee-controlplane run --events FILE` and says them in one sentence each.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use serde_json::Value;

/// One event worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When, nanoseconds since the epoch.
    pub unix_ns: u64,
    /// What, as people say it.
    pub text: String,
    /// The evidence; empty if none was given.
    pub because: String,
}

/// The events of a file that tell the story of an attack, in the file's order: what was detected, how it was classified
/// whenever that changed, which filters were installed. A last line that is still being written is left out.
pub fn read(path: &Path) -> io::Result<Vec<Happening>> {
    let lines = BufReader::new(File::open(path)?).lines().collect::<io::Result<Vec<_>>>()?;
    let mut classified = HashMap::new();
    Ok(lines.iter().filter_map(|line| happening(&serde_json::from_str(line).ok()?, &mut classified)).collect())
}

/// `classified`: the vectors told last, by target.
fn happening(event: &Value, classified: &mut HashMap<String, String>) -> Option<Happening> {
    let target = target(event);
    let text = match event["event"].as_str()? {
        "state_changed" if event["state"] == "attack" => format!(
            "attack detected on {target}: {} {:.0}/s, threshold {:.0}/s",
            word(event, "role"),
            event["rate_pps"].as_f64()?,
            event["threshold_pps"].as_f64()?
        ),
        "anomaly_updated" => {
            let vectors = vectors(event)?;
            if classified.insert(target.clone(), vectors.clone()).as_ref() == Some(&vectors) {
                return None;
            }
            format!("classified: {vectors}")
        }
        "filter_installed" => format!(
            "filter on {target}: {}{} {}, {}",
            if event["simulated"] == true { "would " } else { "" },
            word(event, "action"),
            event["roles"].as_array()?.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            word(event, "match"),
        ),
        _ => return None,
    };
    let because = event["witness"].as_str().unwrap_or_default().to_owned();
    Some(Happening { unix_ns: event["time_unix_ns"].as_u64()?, text, because })
}

fn vectors(event: &Value) -> Option<String> {
    let names: Vec<_> = event["vectors"].as_array()?.iter().filter_map(|vector| vector["name"].as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// An address or a prefix, or else the whole zone.
fn target(event: &Value) -> String {
    event["target"].as_str().map_or_else(|| format!("zone {}", word(event, "zone")), str::to_owned)
}

fn word<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().filter(|word| !word.is_empty()).unwrap_or("(not said)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_an_attack_become_its_story() {
        let lines = r#"
            {"event":"policy_committed","time_unix_ns":1,"generation":1,"zones":1,"filters":0}
            {"event":"state_changed","time_unix_ns":2,"target":"203.0.113.10","zone":"web","role":"syn","state":"watch","rate_pps":900.5,"threshold_pps":500,"witness":""}
            {"event":"state_changed","time_unix_ns":2,"target":"203.0.113.10","zone":"web","role":"syn","state":"attack","rate_pps":9000.0,"threshold_pps":500,"witness":"half-open"}
            {"event":"filter_installed","time_unix_ns":3,"target":null,"zone":"web","roles":["syn"],"match":"tcp window = 512","action":"drop","witness":"half-open","simulated":false}
            {"event":"anomaly_updated","time_unix_ns":4,"target":"203.0.113.10","vectors":[{"name":"syn-flood","confidence":0.9}]}
            {"event":"anomaly_updated","time_unix_ns":5,"target":"203.0.113.10","vectors":[{"name":"syn-flood","confidence":1}]}
            {"event":"filter_inst"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, lines).unwrap();
        let told = read(&path).unwrap();
        let told: Vec<_> = told.iter().map(|one| (one.unix_ns, &*one.text, &*one.because)).collect();
        assert_eq!(
            told,
            [
                (2, "attack detected on 203.0.113.10: syn 9000/s, threshold 500/s", "half-open"),
                (3, "filter on zone web: drop syn, tcp window = 512", "half-open"),
                (4, "classified: syn-flood", ""),
            ]
        );
    }
}
