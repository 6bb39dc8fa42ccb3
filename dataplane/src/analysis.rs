//! The analysis thread: work that takes longer than a tick may.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use levee_engine::detect::detector::{Outcome, Task};

use crate::bell::Bell;

/// The way to the thread and back. It ends when this is dropped.
#[derive(Debug)]
pub struct Analysis {
    tasks: Option<Sender<Task>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Analysis {
    /// Starts the thread. `bell`: rung when something has been done.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(bell: Bell) -> io::Result<Self> {
        let (tasks, given) = channel::<Task>();
        let (done, outcomes) = channel();
        let thread = std::thread::Builder::new().name("levee-analysis".to_owned()).spawn(move || {
            for task in given {
                if done.send(task.run()).is_err() {
                    break;
                }
                bell.ring();
            }
        })?;
        Ok(Self { tasks: Some(tasks), outcomes, thread: Some(thread) })
    }

    /// Gives the thread something to do; the engine hands out one task at a time.
    pub fn give(&self, task: Task) {
        if let Some(tasks) = &self.tasks
            && tasks.send(task).is_err()
        {
            tracing::error!("the analysis thread has ended: signatures are no longer extracted");
        }
    }

    /// What has been done; never waits.
    pub fn take(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

impl Drop for Analysis {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
