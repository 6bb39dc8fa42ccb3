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
        "anomaly_opened" => format!("detected on {}: {}", word(event, "target"), findings(event)),
        "anomaly_updated" => format!("classified as {}", vectors(event)?),
        "filter_installed" => format!(
            "{}{} {} on {}, because {}",
            if event["simulated"] == true { "would " } else { "" },
            word(event, "action"),
            word(event, "match"),
            word(event, "target"),
            word(event, "witness")
        ),
        "filter_removed" => {
            format!("no longer {} {} ({})", word(event, "action"), word(event, "match"), word(event, "reason"))
        }
        "anomaly_ended" => format!("over on {}", word(event, "target")),
        _ => return None,
    };
    Some(Happening { unix_ns: event["time_unix_ns"].as_u64()?, text })
}

fn findings(event: &Value) -> String {
    let roles = event["roles"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|role| format!("{} {}/s above {}/s", word(role, "role"), role["pps"], role["threshold_pps"]));
    roles.chain(vectors(event)).collect::<Vec<_>>().join(", ")
}

fn vectors(event: &Value) -> Option<String> {
    let names: Vec<_> = event["vectors"].as_array()?.iter().filter_map(|vector| vector["vector"].as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn word<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or("?")
}
