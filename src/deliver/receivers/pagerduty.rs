//! `PagerDuty`'s Events API v2: one event per alert, so that each is one incident that its own end resolves. The same event
//! twice changes nothing there.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Declared, HttpKind, Kind, Message, Request, Route, Unsendable,
    keys::{needed, own_url, secret_keys},
    markup::{Dialect, escape},
    webhook,
};
use crate::{
    alert::{
        message::{Alert, Notification, Status},
        outbox::policy::{Grouping, Policy},
    },
    human,
    keys::{
        key::{self, Declared as _, Written, keys},
        secret::Secret,
    },
};

/// `PagerDuty`, Events API v2.
pub(super) static KIND: Declared =
    Declared::new("pagerduty", PagerDuty::keys, |section| Some(Arc::new(PagerDuty::read(section))));

secret_keys!(ROUTING, "routing_key");

/// Where events go unless the configuration says otherwise.
const OWN_URL: &str = "https://events.pagerduty.com/v2/enqueue";

keys! {
    /// `PagerDuty`, Events API v2.
    struct PagerDuty {
        /// Where events are posted. Without it, `PagerDuty`'s own address.
        url: Option<Secret> = None, own_url();
        /// Integration key of the service.
        routing_key: Secret = Secret::default(), needed(&ROUTING, |_, _| Ok(()));
    }
}

impl Kind for PagerDuty {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    /// One incident per alert, which its own service groups.
    fn policy(&self) -> Policy {
        Policy { grouping: Grouping::Alert, tell_short: false, batch: 1, ..Policy::default() }
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for PagerDuty {
    fn url(&self) -> Secret {
        self.url.clone().unwrap_or_else(|| Secret::inline(OWN_URL))
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.routing_key.clone()]
    }

    /// An event that arrives twice changes nothing, so that an attempt may begin anew. Never errs.
    fn requests(
        &self,
        message: &Message<'_>,
        secrets: &[String],
    ) -> Result<Vec<Request>, Unsendable> {
        let key = secrets.first().map(String::as_str).unwrap_or_default();
        let n = message.notification;
        Ok(n.alerts.iter().map(|alert| Request::json(event(n, alert, key).to_string())).collect())
    }
}

/// `PagerDuty` takes 1,024 characters of a summary and 512 KB of an event.
const SUMMARY_MAX: usize = 1_000;
const DETAIL_MAX: usize = 2_000;

/// The event of one alert. The routing key is a secret.
fn event(n: &Notification, alert: &Alert, routing_key: &str) -> Value {
    let mut event = json!({
        "routing_key": routing_key,
        "dedup_key": dedup_key(n, alert),
        "event_action": "resolve",
    });
    if alert.status() == Status::Resolved {
        return event;
    }
    let plain = |text: &str, max| escape(text, Dialect::Plain, max);
    let on = if n.host.is_empty() { String::new() } else { format!(" on {}", n.host) };
    let summary = format!("{}{on}: {}", alert.store, alert.summary);
    let details: serde_json::Map<String, Value> = webhook::annotations(alert)
        .into_iter()
        .chain(alert.labels.clone())
        .map(|(name, text)| (name, json!(plain(&text, DETAIL_MAX))))
        .collect();
    let mut links = Vec::new();
    for (text, href) in
        [("Runbook", alert.runbook.clone()), ("Status page", webhook::generator_url(n))]
    {
        if href.starts_with("https://") || href.starts_with("http://") {
            links.push(json!({"href": plain(&href, DETAIL_MAX), "text": text}));
        }
    }
    event["event_action"] = json!("trigger");
    event["client"] = json!("chroma_exporter");
    event["links"] = json!(links);
    event["payload"] = json!({
        "summary": plain(&summary, SUMMARY_MAX),
        "source": plain(if n.host.is_empty() { &alert.store } else { &n.host }, 255),
        "severity": alert.severity.as_str(),
        "timestamp": alert.since.to_string(),
        "component": plain(&alert.store, 255),
        "class": plain(&alert.name, 255),
        "custom_details": details,
    });
    event
}

/// The same for every episode of a rule in a store of a host: SHA-256 in hexadecimal digits, whatever the names hold.
/// The host belongs to it: two hosts may call their stores alike.
fn dedup_key(n: &Notification, alert: &Alert) -> String {
    let mut hash = Sha256::new();
    for part in [&n.host, &alert.store, &alert.name] {
        hash.update(part.as_bytes());
        hash.update([0xff]);
    }
    human::hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::receivers::{
        golden,
        samples::{self, hostile},
    };

    #[test]
    fn events_are_as_in_the_golden_files() {
        for (name, n) in samples::all() {
            let events = n.alerts.iter().map(|alert| event(&n, alert, "<secret>"));
            golden::holds("pagerduty", name, &events.collect());
        }
    }

    #[test]
    fn the_end_of_an_alert_has_the_key_of_its_beginning() {
        let mut n = samples::disk();
        let begins = event(&n, &n.alerts[0], "k");
        n.alerts[0].ended = Some(n.at);
        n.alerts[0].severity = crate::findings::Severity::Critical;
        let ends = event(&n, &n.alerts[0], "k");
        assert_eq!(ends["event_action"], "resolve");
        assert_eq!(begins["dedup_key"], ends["dedup_key"]);
        n.alerts[0].store = "other".to_owned();
        assert_ne!(event(&n, &n.alerts[0], "k")["dedup_key"], ends["dedup_key"]);
    }

    #[test]
    fn every_limit_holds_for_any_names() {
        hostile(|n| {
            for alert in &n.alerts {
                let value = event(n, alert, "k");
                assert!(value["dedup_key"].as_str().unwrap().len() <= 255);
                if alert.ended.is_none() {
                    let summary = value["payload"]["summary"].as_str().unwrap();
                    assert!((1..=1_024).contains(&summary.chars().count()));
                }
                assert!(value.to_string().len() < 100_000);
            }
        });
    }
}
