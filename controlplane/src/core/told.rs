//! Messages: written down with what they tell of, sent by the outbox.

use std::collections::BTreeSet;

use levee_api::config::Config;
use serde_json::json;

use super::{Command, Core, Step};
use crate::clock::Now;
use crate::figures;
use crate::incident::{Note, Report, TimelineKind};
use crate::ledger::{IncidentId, Mitigation};
use crate::notify::{ChannelLimits, Concluded, DeliveryError, Message, MessageId, Topic};
use crate::store::Write;

/// The channels of a configuration.
pub(super) fn channels(config: &Config) -> impl Iterator<Item = (String, ChannelLimits)> {
    config
        .notifiers
        .iter()
        .map(|notifier| (notifier.name.clone(), ChannelLimits { max_per_minute: notifier.max_per_minute }))
}

impl Core {
    /// Writes a message to each channel down.
    pub(super) fn tell(
        &mut self,
        id: IncidentId,
        channels: &[String],
        topic: Topic,
        text: &str,
        now: &Now,
        step: &mut Step,
    ) {
        let Some(incident) = self.incidents.get(id) else { return };
        if channels.is_empty() {
            return;
        }
        let vectors: Vec<&str> = incident.vectors.iter().map(|vector| vector.vector.as_str()).collect();
        let in_force: Vec<String> = self
            .ledger
            .of_incident(id)
            .filter(|entry| entry.is_wanted())
            .map(|entry| format!("{} by {} ({})", entry.spec, entry.driver, entry.state))
            .collect();
        let subject = format!("{} on {}: {text}", incident.severity, incident.target);
        let kinds = if vectors.is_empty() { "of a kind that is not known yet".to_owned() } else { vectors.join(", ") };
        let measures = if in_force.is_empty() { "the dataplane's own filters".to_owned() } else { in_force.join("; ") };
        let needs = if topic == Topic::ApprovalAsked {
            format!("\nNeeds: your decision, with leveectl runbook approve or deny for incident {id}")
        } else {
            String::new()
        };
        let body = format!(
            "{text}\nAttack: {kinds}; {}, {} now, {}, {} at most, for {}\nDone: {measures}{needs}",
            figures::pps(incident.rates.pps),
            figures::bps(incident.rates.bps),
            figures::pps(incident.peak.pps),
            figures::bps(incident.peak.bps),
            figures::duration(now.since(&incident.opened)),
        );
        let data = json!({
            "incident": id,
            "zone": incident.target.zone,
            "target": incident.target.prefix,
            "severity": incident.severity,
            "vectors": vectors,
            "pps": incident.rates.pps,
            "bps": incident.rates.bps,
            "peak_pps": incident.peak.pps,
            "peak_bps": incident.peak.bps,
            "text": text,
            "mitigations": in_force,
        });
        self.send(id, channels, topic, (subject, body, data), now, step);
    }

    /// The report goes to whoever heard of the incident.
    pub(super) fn tell_closed(&mut self, id: IncidentId, channels: &[String], now: &Now, step: &mut Step) {
        let Some(incident) = self.incidents.get(id) else { return };
        let mitigations: Vec<&Mitigation> = self.ledger.of_incident(id).collect();
        let report = Report { incident, timeline: self.incidents.timeline(id), mitigations: &mitigations };
        let (text, data) = (report.text(now), report.json(now));
        let subject = format!("closed: incident {id} on {}", incident.target);
        self.send(id, channels, Topic::IncidentClosed, (subject, text, data), now, step);
    }

    fn send(
        &mut self,
        id: IncidentId,
        channels: &[String],
        topic: Topic,
        (subject, text, data): (String, String, serde_json::Value),
        now: &Now,
        step: &mut Step,
    ) {
        let channels: BTreeSet<&String> = channels.iter().collect();
        for channel in channels {
            // The number in the timeline is given once: with the topic and the channel it names the message for ever.
            let number = self
                .incidents
                .get(id)
                .map_or(0, |incident| u64::from(incident.next_entry).saturating_add(incident.entries_left_out));
            let message = Message {
                id: MessageId(format!("incident-{id}-{number}-{}-{channel}", topic.name())),
                channel: channel.clone(),
                incident: Some(id),
                number,
                topic,
                created: *now,
                subject: subject.clone(),
                text: text.clone(),
                data: data.clone(),
                failures: 0,
                retry_at: None,
                error: None,
                ended: None,
            };
            step.writes.push(Write::PutMessage(message.clone()));
            self.outbox.add(message);
        }
    }

    /// The channels that were told of an incident: those of stages that something happened to.
    pub(super) fn told_of(&self, id: IncidentId) -> Vec<String> {
        let Some(runbook) = self.runbook(id) else { return Vec::new() };
        let timeline = self.incidents.timeline(id);
        let happened = |stage: &str| timeline.iter().any(|entry| entry.stage.as_deref() == Some(stage));
        let stages = runbook.stages.iter().filter(|stage| happened(&stage.name));
        stages.flat_map(|stage| stage.notify.iter().cloned()).collect()
    }

    pub(super) fn sent(&mut self, id: &MessageId, result: Result<(), DeliveryError>, now: &Now, step: &mut Step) {
        let concluded = match result {
            Ok(()) => self.outbox.sent(id, now),
            Err(error) => self.outbox.failed(id, &error, now),
        };
        self.concluded(concluded, step);
    }

    pub(super) fn concluded(&mut self, concluded: Concluded, step: &mut Step) {
        for write in &concluded.writes {
            if let Write::PutMessage(message) = write
                && let Some(ended) = &message.ended
            {
                self.sent.insert(message.id.clone(), ended.at);
            }
        }
        step.writes.extend(concluded.writes);
        for (message, reason) in concluded.given_up {
            step.commands.push(Command::Log(format!("message {} was given up: {reason}", message.id)));
            if let Some(incident) =
                message.incident.filter(|id| self.incidents.get(*id).is_some_and(crate::incident::Incident::is_open))
            {
                let text = format!("{} could not be told: {reason}", message.channel);
                let now = self.now;
                self.incidents.note(incident, &now, Note::new(TimelineKind::Notification, text), &mut step.writes);
            }
        }
    }
}
