//! Carries commands out: each driver and each notifier has a queue of its own, so that none waits for another.
//!
//! What begins something waits for the one before it, unless the driver takes many at once: each waits for its own answer then.
//! A driver has two: what ends something does not wait behind what begins something. What waits to be begun is not begun any
//! more once the kill switch is engaged or another configuration is in force: it was decided under another one, and is
//! answered as something to be tried again, if it is still wanted.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::legitimate::Legitimate;
use crate::core::Input;
use crate::driver::{Driver, DriverError, DriverName, OwnerTag};
use crate::guardrail::Refusal;
use crate::ledger::{MitigationId, Order, Spec};
use crate::notify::{DeliveryError, Message, Notifier};

/// A driver that says nothing for so long has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Orders that wait for one driver: more than that are answered with an error, and come again.
const WAITING: usize = 10_000;

/// What a driver that takes many at once is asked to begin at the same time.
const AT_ONCE: usize = 64;

/// An order with its number, and how often everything had been called off when it was given.
struct Given {
    order: Order,
    number: u64,
    called_off: u64,
}

/// The way to a driver.
struct Queue {
    driver: Arc<dyn Driver>,
    /// What begins something.
    begin: mpsc::Sender<Given>,
    /// What ends something, and what looks.
    end: mpsc::Sender<Given>,
}

/// The ways to all drivers and notifiers.
pub(super) struct Ways {
    drivers: BTreeMap<DriverName, Queue>,
    /// What waits for drivers to recover, and ends with this.
    _watches: JoinSet<()>,
    /// Counts how often all that waited to be begun was called off.
    called_off: Arc<AtomicU64>,
    /// Numbers orders.
    given: AtomicU64,
    notifiers: BTreeMap<String, Arc<dyn Notifier>>,
    inputs: mpsc::UnboundedSender<Input>,
}

impl Ways {
    /// Ways to these; what they answer becomes inputs.
    pub(super) fn new(
        drivers: Vec<Arc<dyn Driver>>,
        notifiers: Vec<Arc<dyn Notifier>>,
        inputs: mpsc::UnboundedSender<Input>,
        legitimate: &Legitimate,
    ) -> Self {
        let called_off = Arc::default();
        let mut watches = JoinSet::new();
        let queue = |driver: Arc<dyn Driver>| {
            let ((begin, begins), (end, ends)) = (mpsc::channel(WAITING), mpsc::channel(WAITING));
            let name = driver.name().clone();
            watches.spawn(watch(Arc::clone(&driver), inputs.clone()));
            let work = Work {
                driver,
                called_off: Arc::clone(&called_off),
                inputs: inputs.clone(),
                legitimate: legitimate.clone(),
                checking: Mutex::default(),
            };
            let driver = Arc::clone(&work.driver);
            tokio::spawn(work.run(begins, ends));
            (name, Queue { driver, begin, end })
        };
        let drivers = drivers.into_iter().map(queue).collect();
        let notifiers = notifiers.into_iter().map(|notifier| (notifier.name().to_owned(), notifier)).collect();
        Self { drivers, _watches: watches, called_off, given: AtomicU64::default(), notifiers, inputs }
    }

    /// Nothing that waits to be begun is begun any more.
    pub(super) fn call_off(&self) {
        self.called_off.fetch_add(1, Ordering::AcqRel);
    }

    /// What was in force before this process.
    pub(super) fn restore(&self, driver: &DriverName, spec: &Spec, tag: &OwnerTag, remaining: Duration) {
        if let Some(queue) = self.drivers.get(driver) {
            queue.driver.restore(spec, tag, remaining);
        }
    }

    /// To a driver.
    pub(super) fn order(&self, order: Order) {
        let driver = match &order {
            Order::Apply(operation) | Order::Withdraw(operation) => &operation.driver,
            Order::Observe { driver, .. } => driver,
        };
        let Some(queue) = self.drivers.get(driver) else {
            let what = format!("{driver} has no driver in this version");
            self.answer(failed(order, DriverError::Incapable { what }));
            return;
        };
        let way = if matches!(order, Order::Apply(_)) { &queue.begin } else { &queue.end };
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let given = Given { order, number, called_off: self.called_off.load(Ordering::Acquire) };
        if let Err(refused) = way.try_send(given) {
            let reason = format!("{WAITING} orders wait for this driver");
            self.answer(failed(refused.into_inner().order, DriverError::Retryable { reason, retry_after: None }));
        }
    }

    /// To a notifier.
    pub(super) fn send(&self, message: Message) {
        let Some(notifier) = self.notifiers.get(&message.channel).cloned() else {
            let reason = "there is no such channel in the configuration, or it cannot be used".to_owned();
            self.answer(Input::Sent { id: message.id, result: Err(DeliveryError::Permanent { reason }) });
            return;
        };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let late = || DeliveryError::Retryable {
                reason: format!("no answer within {ANSWER_WITHIN:?}"),
                retry_after: None,
            };
            let delivered = tokio::time::timeout(ANSWER_WITHIN, notifier.deliver(&message)).await;
            let result = delivered.unwrap_or_else(|_| Err(late()));
            // The loop has ended: the message is still in the store.
            let _ = inputs.send(Input::Sent { id: message.id, result });
        });
    }

    fn answer(&self, input: Input) {
        // The loop has ended: the ledger asks again at the next start.
        let _ = self.inputs.send(input);
    }
}

/// Tells whenever whoever a driver talks to has come back.
async fn watch(driver: Arc<dyn Driver>, inputs: mpsc::UnboundedSender<Input>) {
    loop {
        driver.recovered().await;
        if inputs.send(Input::Recovered { driver: driver.name().clone() }).is_err() {
            return;
        }
    }
}

/// What carries the orders of one driver out.
struct Work {
    driver: Arc<dyn Driver>,
    called_off: Arc<AtomicU64>,
    inputs: mpsc::UnboundedSender<Input>,
    legitimate: Legitimate,
    /// Held while that is asked.
    checking: Mutex<()>,
}

impl Work {
    async fn run(self, mut begins: mpsc::Receiver<Given>, mut ends: mpsc::Receiver<Given>) {
        let this = Arc::new(self);
        // Numbers of ends that have overtaken what was given before them.
        let mut ended: BTreeMap<MitigationId, u64> = BTreeMap::new();
        let mut beginning = Beginning::default();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let begin = async { (Arc::clone(&room).acquire_owned().await, begins.recv().await) };
            let (room, given) = tokio::select! {
                biased;
                Some(given) = ends.recv() => (None, given),
                (room, Some(given)) = begin => (room.ok(), given),
                else => return,
            };
            if let Order::Withdraw(operation) = &given.order {
                ended.insert(operation.id, given.number);
                if let Some(order) = beginning.stop(operation.id).await {
                    this.answer(failed(order, retry("its end was asked for meanwhile".to_owned())));
                }
            }
            let overtaken = matches!(&given.order, Order::Apply(operation)
                if ended.get(&operation.id).is_some_and(|end| *end > given.number));
            if begins.is_empty() {
                ended.clear();
            }
            if overtaken {
                this.answer(failed(given.order, retry("its end was asked for meanwhile".to_owned())));
            } else if matches!(given.order, Order::Withdraw(_)) {
                // No end waits for another: one receiver that takes nothing would keep everything in force at all others.
                let this = Arc::clone(&this);
                let mut end = Box::pin(async move { this.answer(this.in_time(given, Ok(())).await) });
                // It begins now, before what is begun next.
                if poll_fn(|context| Poll::Ready(end.as_mut().poll(context))).await.is_pending() {
                    tokio::spawn(end);
                }
            } else {
                let (order, one) = (given.order.clone(), Arc::clone(&this));
                let begin = async move {
                    let checked = one.check(&given).await;
                    one.answer(one.in_time(given, checked).await);
                    drop(room);
                };
                if this.driver.takes_many() && matches!(order, Order::Apply(_)) {
                    beginning.start(order, begin).await;
                } else {
                    begin.await;
                }
            }
        }
    }

    fn answer(&self, input: Input) {
        // The loop has ended: the ledger asks again at the next start.
        let _ = self.inputs.send(input);
    }

    fn is_called_off(&self, given: &Given) -> bool {
        self.called_off.load(Ordering::Acquire) != given.called_off
    }

    /// Whether what is to be begun would hit too much that is legitimate.
    async fn check(&self, given: &Given) -> Result<(), Refusal> {
        match &given.order {
            Order::Apply(operation) => {
                // One after the other: each has the dataplane to itself, and its time.
                let _alone = self.checking.lock().await;
                if self.is_called_off(given) { Ok(()) } else { self.legitimate.check(&operation.spec).await }
            }
            Order::Withdraw(_) | Order::Observe { .. } => Ok(()),
        }
    }

    async fn in_time(&self, given: Given, checked: Result<(), Refusal>) -> Input {
        let order = given.order.clone();
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.carry_out(given, checked)).await;
        answered.unwrap_or_else(|_| failed(order, retry(format!("no answer within {ANSWER_WITHIN:?}"))))
    }

    async fn carry_out(&self, given: Given, checked: Result<(), Refusal>) -> Input {
        // Asking takes its time: this is the last moment at which nothing has happened yet.
        let is_called_off = self.is_called_off(&given);
        match given.order {
            Order::Apply(operation) => {
                let crate::ledger::Operation { key, spec, tag, remaining, .. } = &operation;
                let result = match checked {
                    _ if is_called_off => {
                        Err(retry("the kill switch or another configuration came before it".to_owned()))
                    }
                    Ok(()) => self.driver.apply(key, spec, tag, *remaining).await,
                    Err(refusal) => Err(DriverError::Refused(refusal)),
                };
                Input::Applied { id: operation.id, key: operation.key, result }
            }
            Order::Withdraw(operation) => {
                let result = self.driver.withdraw(&operation.key, &operation.spec, &operation.tag).await;
                Input::Withdrawn { id: operation.id, key: operation.key, result }
            }
            Order::Observe { driver: name, round } => {
                Input::Observed { driver: name, round, result: self.driver.observe().await }
            }
        }
    }
}

/// What is being begun at the moment.
#[derive(Default)]
struct Beginning(BTreeMap<MitigationId, (Order, JoinHandle<()>)>);

impl Beginning {
    /// Begins it, once the same measure is not being begun any more.
    async fn start(&mut self, order: Order, begin: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|_, (_, task)| !task.is_finished());
        if let Order::Apply(operation) = &order {
            if let Some((_, task)) = self.0.remove(&operation.id) {
                // One that has panicked is over, too.
                let _ = task.await;
            }
            self.0.insert(operation.id, (order, tokio::spawn(begin)));
        }
    }

    /// Stops what begins a measure; when this returns it does nothing more. The order, if that has not been answered.
    async fn stop(&mut self, id: MitigationId) -> Option<Order> {
        let (order, task) = self.0.remove(&id)?;
        task.abort();
        task.await.is_err().then_some(order)
    }
}

const fn retry(reason: String) -> DriverError {
    DriverError::Retryable { reason, retry_after: None }
}

fn failed(order: Order, error: DriverError) -> Input {
    match order {
        Order::Apply(operation) => Input::Applied { id: operation.id, key: operation.key, result: Err(error) },
        Order::Withdraw(operation) => Input::Withdrawn { id: operation.id, key: operation.key, result: Err(error) },
        Order::Observe { driver, round } => Input::Observed { driver, round, result: Err(error) },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use levee_api::config::Config;
    use tokio::sync::{Notify, watch};

    use super::*;
    use crate::driver::{Answer, Capabilities, Observed, OperationKey};
    use crate::guardrail::Guards;
    use crate::ledger::{Direction, Evidence, Operation};

    const FILE: &str = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]";

    /// Says what it was asked, and takes its time for the first.
    #[derive(Debug)]
    struct Slow {
        name: DriverName,
        asked: Mutex<Vec<String>>,
        busy: Notify,
        go_on: Notify,
        takes_many: bool,
    }

    impl Slow {
        fn was_asked(&self, what: String) -> bool {
            let mut asked = self.asked.lock().unwrap();
            asked.push(what);
            asked.len() == 1
        }
    }

    impl Driver for Slow {
        fn name(&self) -> &DriverName {
            &self.name
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        fn apply<'d>(
            &'d self,
            _: &'d OperationKey,
            _: &'d Spec,
            tag: &'d OwnerTag,
            _: Duration,
        ) -> Answer<'d, Evidence> {
            Box::pin(async {
                if self.was_asked(format!("apply {}", tag.id)) {
                    self.busy.notify_one();
                    self.go_on.notified().await;
                }
                Ok(Evidence::Accepted)
            })
        }

        fn withdraw<'d>(&'d self, _: &'d OperationKey, _: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()> {
            self.was_asked(format!("withdraw {}", tag.id));
            Box::pin(std::future::ready(Ok(())))
        }

        fn observe(&self) -> Answer<'_, Vec<Observed>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn takes_many(&self) -> bool {
            self.takes_many
        }
    }

    fn operation(id: u64) -> Operation {
        let id = MitigationId(id);
        Operation {
            driver: DriverName("core".to_owned()),
            key: OperationKey(format!("key-{id}")),
            id,
            spec: Spec::Blackhole { prefix: "203.0.113.7".parse().unwrap(), direction: Direction::Destination },
            tag: OwnerTag { appliance: "edge-1".to_owned(), id },
            remaining: Duration::from_secs(60),
        }
    }

    /// A driver that is busy with the first order, the ways to it, and its answers.
    async fn busy(takes_many: bool) -> (Arc<Slow>, Ways, mpsc::UnboundedReceiver<Input>) {
        let driver = Arc::new(Slow {
            name: DriverName("core".to_owned()),
            asked: Mutex::default(),
            busy: Notify::new(),
            go_on: Notify::new(),
            takes_many,
        });
        let config = Arc::new(Config::parse("levee.toml", FILE).unwrap());
        let guards = Arc::new(Guards::new(&config, []));
        let legitimate = Legitimate { dataplane: watch::channel(None).1, config, guards };
        let (inputs, answers) = mpsc::unbounded_channel();
        let ways = Ways::new(vec![Arc::clone(&driver) as Arc<dyn Driver>], Vec::new(), inputs, &legitimate);
        ways.order(Order::Apply(operation(1)));
        driver.busy.notified().await;
        (driver, ways, answers)
    }

    async fn answers(mut answers: mpsc::UnboundedReceiver<Input>, ways: Ways) -> Vec<String> {
        // The queues end with the ways.
        drop(ways);
        let mut all = Vec::new();
        while let Some(input) = answers.recv().await {
            all.push(match input {
                Input::Applied { id, result, .. } => format!("applied {id} {}", result.is_ok()),
                Input::Withdrawn { id, result, .. } => format!("withdrawn {id} {}", result.is_ok()),
                other => format!("{other:?}"),
            });
        }
        all
    }

    #[tokio::test]
    async fn an_end_waits_for_nothing_that_begins_and_what_it_ends_is_not_begun_after_it() {
        let (driver, ways, told) = busy(false).await;
        for id in [2, 3] {
            ways.order(Order::Apply(operation(id)));
        }
        ways.order(Order::Withdraw(operation(3)));
        ways.order(Order::Withdraw(operation(1)));
        driver.go_on.notify_one();
        let told = answers(told, ways).await;
        assert_eq!(*driver.asked.lock().unwrap(), ["apply 1", "withdraw 3", "withdraw 1", "apply 2"]);
        assert_eq!(
            told,
            ["applied 1 true", "withdrawn 3 true", "withdrawn 1 true", "applied 2 true", "applied 3 false"]
        );
    }

    #[tokio::test]
    async fn what_waits_to_be_begun_can_be_called_off() {
        let (driver, ways, told) = busy(false).await;
        ways.order(Order::Apply(operation(2)));
        ways.call_off();
        ways.order(Order::Withdraw(operation(1)));
        ways.order(Order::Apply(operation(3)));
        driver.go_on.notify_one();
        let told = answers(told, ways).await;
        assert_eq!(*driver.asked.lock().unwrap(), ["apply 1", "withdraw 1", "apply 3"]);
        assert_eq!(told, ["applied 1 true", "withdrawn 1 true", "applied 2 false", "applied 3 true"]);
    }

    #[tokio::test]
    async fn a_driver_that_takes_many_is_not_kept_waiting_by_one_and_an_end_stops_what_is_being_begun() {
        let (driver, ways, mut told) = busy(true).await;
        ways.order(Order::Apply(operation(2)));
        assert!(matches!(told.recv().await, Some(Input::Applied { id: MitigationId(2), result: Ok(_), .. })));
        ways.order(Order::Withdraw(operation(1)));
        assert_eq!(answers(told, ways).await, ["applied 1 false", "withdrawn 1 true"]);
        assert_eq!(*driver.asked.lock().unwrap(), ["apply 1", "apply 2", "withdraw 1"]);
    }
}
