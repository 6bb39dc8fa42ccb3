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
    /// What, as people say it, without the target; the same words for the same thing on several targets.
    pub what: String,
    /// Address, prefix or zone.
    pub target: String,
    /// Details and evidence, one a line.
    pub details: Vec<String>,
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
    let mut details = Vec::new();
    let what = match event["event"].as_str()? {
        "state_changed" if event["state"] == "attack" => {
            let (rate, threshold) = (event["rate_pps"].as_f64()?, event["threshold_pps"].as_f64()?);
            details.push(format!("{rate:.0} packets/s, threshold {threshold:.0}"));
            format!("attack of {} detected", word(event, "role"))
        }
        "anomaly_updated" => {
            let vectors = vectors(event)?;
            if classified.insert(target.clone(), vectors.clone()).as_ref() == Some(&vectors) {
                return None;
            }
            format!("classified as {vectors}")
        }
        "filter_installed" => {
            let verb = if event["simulated"] == true { "filter would" } else { "filter to" };
            let roles: Vec<_> = event["roles"].as_array()?.iter().filter_map(Value::as_str).collect();
            details.push(format!("match: {}", word(event, "match")));
            format!("{verb} {} {}", word(event, "action"), roles.join(", "))
        }
        _ => return None,
    };
    let because = event["witness"].as_str().unwrap_or_default().split("; ").filter(|reason| !reason.is_empty());
    details.extend(because.map(|reason| format!("because {reason}")));
    Some(Happening { unix_ns: event["time_unix_ns"].as_u64()?, what, target, details })
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
            {"event":"filter_installed","time_unix_ns":3,"target":null,"zone":"web","roles":["syn"],"match":"tcp window = 512","action":"drop","witness":"half-open; 99 %","simulated":false}
            {"event":"anomaly_updated","time_unix_ns":4,"target":"203.0.113.10","vectors":[{"name":"syn-flood","confidence":0.9}]}
            {"event":"anomaly_updated","time_unix_ns":5,"target":"203.0.113.10","vectors":[{"name":"syn-flood","confidence":1}]}
            {"event":"filter_inst"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, lines).unwrap();
        let told = read(&path).unwrap();
        let told: Vec<_> =
            told.iter().map(|one| (one.unix_ns, &*one.what, &*one.target, one.details.join("; "))).collect();
        assert_eq!(
            told,
            [
                (
                    2,
                    "attack of syn detected",
                    "203.0.113.10",
                    "9000 packets/s, threshold 500; because half-open".to_owned()
                ),
                (
                    3,
                    "filter to drop syn",
                    "zone web",
                    "match: tcp window = 512; because half-open; because 99 %".to_owned()
                ),
                (4, "classified as syn-flood", "203.0.113.10", String::new()),
            ]
        );
    }
}
