use super::*;

/// Compares with a file beside this one; `LEVEE_WRITE_DOCS=1` writes it.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/leveectl").join(name);
    if std::env::var_os("LEVEE_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}: run with LEVEE_WRITE_DOCS=1 if this is meant", path.display());
}

const SECOND: u64 = 1_000_000_000;
/// 2026-01-02 03:04:05 UTC.
const OPENED: u64 = 1_767_323_045 * SECOND;

fn target() -> Option<v1::Target> {
    let prefix = v1::Prefix { address: vec![203, 0, 113, 10], length: 32 };
    Some(v1::Target { zone: "web".into(), prefix: Some(prefix) })
}

fn incident() -> v1::Incident {
    let stage = |stage: &str, state: &str, after: Option<u64>, reason: &str| v1::StageProgress {
        stage: stage.into(),
        state: state.into(),
        since_unix_ns: after.map(|after| OPENED + after),
        reason: reason.into(),
    };
    v1::Incident {
        id: "7".into(),
        target: target(),
        state: v1::IncidentState::Attack.into(),
        severity: v1::Severity::High.into(),
        vectors: vec![v1::IncidentVector {
            vector: "dns-amplification".into(),
            confidence: 0.97,
            evidence: vec!["nobody inside asked".into(), "source port 53".into()],
            first_seen_unix_ns: OPENED + 40_000_000,
        }],
        current: Some(v1::Rates { pps: 812_000.0, bps: 7.1e9, dropped_pps: Some(809_000.0), ..Default::default() }),
        peak: Some(v1::Rates { pps: 1_240_000.0, bps: 9.6e9, ..Default::default() }),
        opened_unix_ns: OPENED,
        runbook: Some(v1::RunbookProgress {
            runbook: "standard".into(),
            stages: vec![
                stage("local", "active", Some(0), ""),
                stage("edge", "waiting", Some(65 * SECOND), "uplink.utilisation > 0.7 for 3 s"),
                stage("blackhole", "idle", None, ""),
            ],
        }),
        mitigations: 1,
        needs_decision: true,
        ..Default::default()
    }
}

fn story() -> v1::IncidentStory {
    let entry = |after: u64, kind: &str, text: &str, actor: &str| v1::TimelineEntry {
        time_unix_ns: OPENED + after,
        kind: kind.into(),
        text: text.into(),
        actor: actor.into(),
        ..Default::default()
    };
    v1::IncidentStory {
        incident: Some(incident()),
        timeline: vec![
            entry(0, "opened", "unsolicited_response at 812 kpps, threshold 1 000 pps", ""),
            entry(41_000_000, "attack", "dns-amplification (97 %)", ""),
            entry(43_000_000, "reflex", "filter 17: protocol=17 src_port=53, drop", ""),
            entry(65 * SECOND, "approval", "stage edge asks operator\x1b[31m", "runbook standard, stage edge"),
        ],
        mitigations: vec![v1::Mitigation {
            id: "8".into(),
            kind: v1::MitigationKind::Filter.into(),
            state: v1::MitigationState::Active.into(),
            evidence: v1::Evidence::Seen.into(),
            spec: "udp_unserved protocol=17 src_port=53: drop".into(),
            target: target(),
            driver: "dataplane".into(),
            incident: "7".into(),
            stage: "local".into(),
            requested_by: "runbook standard, stage local".into(),
            created_unix_ns: OPENED,
            deadline_unix_ns: OPENED + 300 * SECOND,
            remaining_ns: 225 * SECOND,
            ..Default::default()
        }],
        captures: vec!["20260102T030405.000Z-203.0.113.10".into()],
        ..Default::default()
    }
}

#[test]
fn the_story_of_an_incident_is_told_with_times() {
    let text = told(&story(), OPENED + 75 * SECOND);
    assert!(!text.contains('\x1b'), "what came from outside moves the cursor");
    golden("incidents-show.txt", &text);
}

#[test]
fn incidents_are_listed() {
    let answer = v1::ListIncidentsResponse { incidents: vec![incident()], total: 3, ..Default::default() };
    golden("incidents-list.txt", &listed(&answer, OPENED + 75 * SECOND));
    assert_eq!(listed(&v1::ListIncidentsResponse::default(), 0), "There is no such incident.\n");
}

#[test]
fn json_has_the_names_of_the_contract_and_readable_prefixes() {
    let text = json::text("IncidentStory", &story()).unwrap();
    assert!(text.contains("\"prefix\": \"203.0.113.10\""), "{text}");
    golden("incidents-show.json", &text);
}
