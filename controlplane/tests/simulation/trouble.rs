//! What goes wrong, by chance, and how that ends.

use levee_api::filter::Target;
use levee_controlplane::actor::Actor;
use levee_controlplane::core::Input;
use levee_controlplane::server::link::Operation;
use levee_controlplane::store::{Contents, Disk, Fault};

use crate::bug::Bug;
use crate::configuration::Variant;
use crate::life::{SECOND, World, host};

impl World {
    /// Something goes wrong, or an attack begins.
    pub(crate) fn trouble(&mut self) {
        if self.chance.percent(4) {
            let last = u8::try_from(self.chance.between(5, 12)).unwrap();
            let mut target = host(last);
            if self.chance.percent(15) {
                target.prefix = Some("203.0.113.0/24".parse().unwrap());
            } else if self.chance.percent(15) {
                // Protected: nothing may be done upstream.
                target.prefix = Some("198.51.100.1".parse().unwrap());
            }
            let bps = [5e8, 3e9, 8e9, 2e10][usize::try_from(self.chance.between(0, 3)).unwrap()];
            let end = self.at + self.chance.between(5, 200) * SECOND;
            self.attacks.insert(target, (bps, end));
        }
        if self.chance.percent(6) {
            self.ask();
        }
        let failing = self.chance.between(0, 60);
        let commits = self.disk.commits();
        match self.chance.between(0, 199) {
            0 | 1 => self.crash(),
            2 => {
                let fault = if self.chance.percent(50) { Fault::CrashBefore } else { Fault::CrashAfter };
                self.disk.fault_at(commits + self.chance.between(0, 3), fault);
            }
            3 | 4 => {
                let fault = if self.chance.percent(50) { Fault::Full } else { Fault::Fails };
                for later in 0..self.chance.between(1, 8) {
                    self.disk.fault_at(commits + later, fault);
                }
                if self.chance.percent(20) {
                    // That is when somebody stops everything.
                    self.ask_for(Operation::KillSwitch { on: true, reason: "emergency".to_owned() });
                }
            }
            5 if self.bug == Some(Bug::Unsynced) => {
                for later in 0..3 {
                    self.disk.fault_at(commits + later, Fault::Unsynced);
                }
            }
            6 | 7 => {
                let at = usize::try_from(self.chance.between(0, 1)).unwrap();
                self.receivers[at].failing = if self.chance.percent(50) { 0 } else { failing };
                if self.chance.percent(50) {
                    // Whether it is so or not.
                    let driver = self.receivers[at].name.clone();
                    self.feed(Input::Recovered { driver });
                }
            }
            8 => {
                let broken = self.chance.percent(50);
                self.receivers[1].broken = broken;
            }
            9 => self.wall_offset = self.wall_offset.wrapping_add(self.chance.between(0, 200_000) * SECOND),
            10 => self.wall_offset -= self.chance.between(0, 200_000) * SECOND,
            11 => {
                self.dataplane.restart();
                self.connected = false;
                self.feed(Input::Disconnected);
            }
            12 | 13 => {
                self.connected = false;
                self.feed(Input::Disconnected);
            }
            14 if self.chance.percent(30) => {
                // The machine reboots.
                self.crash();
                (self.boot, self.booted_at) = (self.boot + 1, self.at);
                self.starts_at = self.at + 20 * SECOND;
                // Answers are kept for a day, which only the wall clock counts across a reboot.
                self.operators.forget();
                self.checker.forget_the_minute();
            }
            15 if self.chance.percent(40) => {
                // The disk is replaced: nothing is left but what is in force outside.
                self.crash();
                (self.disk, self.stored) = (Disk::new(), Contents::default());
                self.operators.forget();
                self.checker.forget_the_kill_switch();
                self.checker.forget_the_minute();
            }
            20 => self.copy = Some(self.disk.restored()),
            21 if self.chance.percent(60) => {
                // The store is damaged, and a copy takes its place: what has ended since is in force in it.
                if let Some(copy) = self.copy.take() {
                    self.crash();
                    copy.instead_of(&self.disk);
                    self.disk = copy;
                    self.operators.forget();
                    self.checker.forget_the_minute();
                }
            }
            16 => {
                let host = host(u8::try_from(self.chance.between(5, 12)).unwrap());
                let prefix = Target { zone: "web".to_owned(), prefix: Some("203.0.113.0/24".parse().unwrap()) };
                self.dataplane.merge(&host, &prefix);
            }
            17 if self.chance.percent(20) => {
                let by = Actor::levee("simulation");
                self.feed(Input::KillSwitch { engage: true, by });
            }
            18 | 19 => self.feed(Input::KillSwitch { engage: false, by: Actor::levee("simulation") }),
            22..=24 => {
                let variant = usize::try_from(self.chance.between(0, 4)).unwrap();
                self.change_configuration(Variant::ALL[variant]);
            }
            25 | 26 => self.goodput = [None, Some(0.9), Some(0.3)][usize::try_from(self.chance.between(0, 2)).unwrap()],
            _ => {}
        }
    }

    /// Faults stop.
    pub(crate) fn heal(&mut self) {
        self.troubled = false;
        self.change_configuration(Variant::Whole);
        self.goodput = Some(0.9);
        for receiver in &mut self.receivers {
            receiver.failing = 0;
        }
        // A provider may be gone for good: the ladder has to go around it.
        self.receivers[1].broken = self.bug == Some(Bug::DeadEnd) || self.chance.percent(50);
        if self.bug == Some(Bug::BelievesEnds) {
            self.receivers[0].failing = 60;
        }
        self.release();
    }

    /// An operator turns the kill switch off, and again where a crash has come in between.
    pub(crate) fn release(&mut self) {
        if self.process.as_ref().is_none_or(|process| process.core.kill_switch_is_engaged()) {
            self.feed(Input::KillSwitch { engage: false, by: Actor::levee("simulation") });
        }
    }

    pub(crate) fn crash(&mut self) {
        self.process = None;
        self.disk.crash();
        // Nobody hears what was for another process.
        self.answers.clear();
        self.repeats.clear();
        self.connected = false;
        self.starts_at = self.at + self.chance.between(0, 30) * SECOND;
        self.life.crashes += 1;
    }
}
