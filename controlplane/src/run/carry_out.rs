//! Carries commands out: each driver and each notifier has a queue of its own, so that none waits for another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::legitimate::Legitimate;
use crate::core::Input;
use crate::driver::{Driver, DriverError, DriverName};
use crate::ledger::Order;
use crate::notify::{DeliveryError, Message, Notifier};

/// A driver that says nothing for so long has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Orders that wait for one driver: more than that are answered with an error, and come again.
const WAITING: usize = 10_000;

/// The ways to all drivers and notifiers.
pub(super) struct Ways {
    drivers: BTreeMap<DriverName, mpsc::Sender<Order>>,
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
        let queue = |driver: Arc<dyn Driver>| {
            let (sender, orders) = mpsc::channel(WAITING);
            let name = driver.name().clone();
            tokio::spawn(drive(driver, orders, inputs.clone(), legitimate.clone()));
            (name, sender)
        };
        let drivers = drivers.into_iter().map(queue).collect();
        let notifiers = notifiers.into_iter().map(|notifier| (notifier.name().to_owned(), notifier)).collect();
        Self { drivers, notifiers, inputs }
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
        if let Err(refused) = queue.try_send(order) {
            let reason = format!("{WAITING} orders wait for this driver");
            self.answer(failed(refused.into_inner(), DriverError::Retryable { reason, retry_after: None }));
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

async fn drive(
    driver: Arc<dyn Driver>,
    mut orders: mpsc::Receiver<Order>,
    inputs: mpsc::UnboundedSender<Input>,
    legitimate: Legitimate,
) {
    while let Some(order) = orders.recv().await {
        let answered =
            tokio::time::timeout(ANSWER_WITHIN, carry_out(driver.as_ref(), order.clone(), &legitimate)).await;
        let reason = || format!("no answer within {ANSWER_WITHIN:?}");
        let input =
            answered.unwrap_or_else(|_| failed(order, DriverError::Retryable { reason: reason(), retry_after: None }));
        if inputs.send(input).is_err() {
            return;
        }
    }
}

async fn carry_out(driver: &dyn Driver, order: Order, legitimate: &Legitimate) -> Input {
    match order {
        Order::Apply(operation) => {
            let crate::ledger::Operation { key, spec, tag, remaining, .. } = &operation;
            let result = match legitimate.check(spec).await {
                Ok(()) => driver.apply(key, spec, tag, *remaining).await,
                Err(refusal) => Err(DriverError::Refused(refusal)),
            };
            Input::Applied { id: operation.id, key: operation.key, result }
        }
        Order::Withdraw(operation) => {
            let result = driver.withdraw(&operation.key, &operation.spec, &operation.tag).await;
            Input::Withdrawn { id: operation.id, key: operation.key, result }
        }
        Order::Observe { driver: name, round } => {
            Input::Observed { driver: name, round, result: driver.observe().await }
        }
    }
}

fn failed(order: Order, error: DriverError) -> Input {
    match order {
        Order::Apply(operation) => Input::Applied { id: operation.id, key: operation.key, result: Err(error) },
        Order::Withdraw(operation) => Input::Withdrawn { id: operation.id, key: operation.key, result: Err(error) },
        Order::Observe { driver, round } => Input::Observed { driver, round, result: Err(error) },
    }
}
