//! Reads the event lines of `levee-controlplane run --events FILE` and says them in one sentence each.

use std::{
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
}

/// The events of a file that tell the story of an attack, in the file's order. A last line that is still being written
/// is left out, as are lines of other kinds.
pub fn read(path: &Path) -> io::Result<Vec<Happening>> {
    let lines = BufReader::new(File::open(path)?).lines().collect::<io::Result<Vec<_>>>()?;
    Ok(lines.iter().filter_map(|line| happening(&serde_json::from_str(line).ok()?)).collect())
}

fn happening(event: &Value) -> Option<Happening> {
    let text = match event["event"].as_str()? {
        "anomaly_opened" => format!("detected on {}: {}", target(event), findings(event)),
        "anomaly_updated" => format!("classified on {}: {}", target(event), vectors(event)?),
        "filter_installed" => format!(
            "{}{} [{}] on {}, because {}",
            if event["simulated"] == true { "would " } else { "" },
            word(event, "action"),
            word(event, "match"),
            target(event),
            word(event, "witness")
        ),
        _ => return None,
    };
    Some(Happening { unix_ns: event["time_unix_ns"].as_u64()?, text })
}

/// The roles above their thresholds, with the evidence that it is an attack.
fn findings(event: &Value) -> String {
    let roles = event["roles"].as_array().into_iter().flatten().map(|role| {
        let witness = role["witness"].as_str().filter(|words| !words.is_empty());
        let rate = format!("{} {}/s, threshold {}/s", word(role, "role"), role["rate_pps"], role["threshold_pps"]);
        witness.map_or(rate.clone(), |witness| format!("{rate}; {witness}"))
    });
    roles.chain(vectors(event)).collect::<Vec<_>>().join("; ")
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
            {"event":"anomaly_opened","time_unix_ns":2,"target":"203.0.113.10","zone":"web","roles":[{"role":"syn","state":"attack","rate_pps":9000,"threshold_pps":500,"witness":"half-open"}],"vectors":[]}
            {"event":"filter_installed","time_unix_ns":3,"target":null,"zone":"web","match":"tcp window = 512","action":"drop","witness":"half-open","simulated":false}
            {"event":"anomaly_updated","time_unix_ns":4,"target":"203.0.113.10","vectors":[{"name":"syn-flood","confidence":0.9}]}
            {"event":"filter_inst"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, lines).unwrap();
        let told: Vec<_> = read(&path).unwrap().into_iter().map(|one| (one.unix_ns, one.text)).collect();
        assert_eq!(
            told,
            [
                (2, "detected on 203.0.113.10: syn 9000/s, threshold 500/s; half-open".to_owned()),
                (3, "drop [tcp window = 512] on zone web, because half-open".to_owned()),
                (4, "classified on 203.0.113.10: syn-flood".to_owned()),
            ]
        );
    }
}
