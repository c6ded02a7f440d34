//! The services of one boot: states, health and their last events (talos.md 3.8).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use indexmap::IndexMap;
use serde_json::json;
use talos::proto::machine::{
    ServiceEvent, ServiceEvents, ServiceHealth, ServiceInfo, ServiceStateEvent, service_state_event::Action,
};
use tokio::sync::watch;

use super::cosi::{Store, kinds};
use super::events::EventLog;
use super::logs::Logs;

/// Events kept per service.
const KEPT: usize = 64;

/// A state in a service's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Initialized,
    Preparing,
    Waiting,
    Running,
    Stopping,
    Finished,
    Failed,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Initialized => "Initialized",
            Self::Preparing => "Preparing",
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
            Self::Finished => "Finished",
            Self::Failed => "Failed",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Initialized => Action::Initialized,
            Self::Preparing => Action::Preparing,
            Self::Waiting => Action::Waiting,
            Self::Running => Action::Running,
            Self::Stopping => Action::Stopping,
            Self::Finished => Action::Finished,
            Self::Failed => Action::Failed,
        }
    }
}

struct Service {
    state: State,
    events: VecDeque<ServiceEvent>,
    health: ServiceHealth,
}

/// The services of a boot; a cheap handle.
#[derive(Clone)]
pub(crate) struct Services {
    services: Arc<Mutex<IndexMap<String, Service>>>,
    events: EventLog,
    cosi: Store,
    logs: Logs,
    changed: watch::Sender<u64>,
    /// Held while a service is changed and published: what was published last is what is.
    publishing: Arc<Mutex<()>>,
}

impl Services {
    pub(crate) fn new(events: EventLog, cosi: Store, logs: Logs) -> Self {
        Self {
            services: Arc::default(),
            events,
            cosi,
            logs,
            changed: watch::Sender::new(0),
            publishing: Arc::default(),
        }
    }

    /// Moves a service to a state, with the message that its event shows.
    pub(crate) fn set(&self, id: &str, state: State, message: &str) {
        let _in_order = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let health = {
            let mut services = self.lock();
            let service = services.entry(id.to_owned()).or_insert_with(|| Service {
                state: State::Initialized,
                events: VecDeque::new(),
                health: ServiceHealth { unknown: true, ..ServiceHealth::default() },
            });
            if service.state != state {
                service.health = ServiceHealth { unknown: true, ..ServiceHealth::default() };
            }
            service.state = state;
            if service.events.len() == KEPT {
                service.events.pop_front();
            }
            service.events.push_back(event(message, state));
            service.health.clone()
        };
        match state {
            State::Running => self.logs.service(id, &format!("{id} is starting")),
            State::Stopping => self.logs.service(id, &format!("{id} received signal terminated, shutting down")),
            _ => {}
        }
        self.publish(id, state, message, &health);
    }

    /// Reports the result of a health check; only a change is an event.
    pub(crate) fn set_health(&self, id: &str, result: Result<(), &str>) {
        let _in_order = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, health, message) = {
            let mut services = self.lock();
            let Some(service) = services.get_mut(id).filter(|service| service.state == State::Running) else { return };
            let healthy = result.is_ok();
            let text = result.err().unwrap_or_default();
            if !service.health.unknown && service.health.healthy == healthy && service.health.last_message == text {
                return;
            }
            service.health = ServiceHealth {
                unknown: false,
                healthy,
                last_message: text.to_owned(),
                last_change: Some(SystemTime::now().into()),
            };
            let message = match result {
                Ok(()) => "Health check successful".to_owned(),
                Err(text) => format!("Health check failed: {text}"),
            };
            if service.events.len() == KEPT {
                service.events.pop_front();
            }
            service.events.push_back(event(&message, service.state));
            (service.state, service.health.clone(), message)
        };
        self.publish(id, state, &message, &health);
    }

    fn publish(&self, id: &str, state: State, message: &str, health: &ServiceHealth) {
        if state == State::Running {
            let spec = json!({"running": true, "healthy": health.healthy, "unknown": health.unknown});
            self.cosi.put(kinds::SERVICES, id, &spec);
        } else {
            self.cosi.remove(kinds::SERVICES, id);
        }
        let event = ServiceStateEvent {
            service: id.to_owned(),
            action: state.action().into(),
            message: message.to_owned(),
            health: Some(health.clone()),
        };
        self.events.publish(&event, "");
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn state(&self, id: &str) -> Option<State> {
        self.lock().get(id).map(|service| service.state)
    }

    /// Running, and healthy unless it has no health check.
    pub(crate) fn is_up(&self, id: &str) -> bool {
        let services = self.lock();
        let up = |service: &Service| service.state == State::Running && (service.health.healthy || !has_health(id));
        services.get(id).is_some_and(up)
    }

    /// Why a service is not up, as the readiness conditions put it.
    pub(crate) fn problem(&self, id: &str) -> Option<String> {
        let services = self.lock();
        let Some(service) = services.get(id) else { return Some(format!("{id} not running")) };
        if service.state != State::Running {
            return Some(format!("{id} not running"));
        }
        (has_health(id) && !service.health.healthy).then(|| format!("{id} not healthy"))
    }

    /// All services with their events, sorted by id as Talos lists them.
    pub(crate) fn list(&self) -> Vec<ServiceInfo> {
        let services = self.lock();
        let info = |(id, service): (&String, &Service)| ServiceInfo {
            id: id.clone(),
            state: service.state.name().to_owned(),
            events: Some(ServiceEvents { events: service.events.iter().cloned().collect() }),
            health: Some(service.health.clone()),
        };
        let mut list: Vec<_> = services.iter().map(info).collect();
        list.sort_by(|left, right| left.id.cmp(&right.id));
        list
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Wakes whoever waits for a condition over services.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<String, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_health(id: &str) -> bool {
    matches!(id, "apid" | "containerd" | "cri" | "etcd" | "kubelet" | "machined" | "trustd" | "udevd" | "syslogd")
}

fn event(message: &str, state: State) -> ServiceEvent {
    ServiceEvent { msg: message.to_owned(), state: state.name().to_owned(), ts: Some(SystemTime::now().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talos::release::Line;

    #[test]
    fn what_was_published_last_is_what_is() {
        let cosi = Store::new(Line::V1_13);
        let services = Services::new(EventLog::default(), cosi.clone(), Logs::default());
        for round in 0..3000 {
            std::thread::scope(|scope| {
                for state in [State::Running, State::Stopping] {
                    let services = &services;
                    scope.spawn(move || services.set("apid", state, ""));
                }
            });
            let shown = cosi.get(kinds::SERVICES.namespace, kinds::SERVICES.name, "apid").is_some();
            assert_eq!(shown, services.state("apid") == Some(State::Running), "in round {round}");
        }
    }
}
