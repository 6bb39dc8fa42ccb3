//! Policy, memory and the outside world.
