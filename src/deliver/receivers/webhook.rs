//! The JSON that Alertmanager posts to webhooks, version 4 (prometheus.io/docs/alerting/latest/configuration,
//! `webhook_config`), signed as Standard-Webhooks says when there is a key (github.com/standard-webhooks). The same JSON
//! goes to local commands.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;

use super::{
    Declared, HttpKind, Kind, Message, Request, Route, Unsendable,
    keys::{secret, secret_keys, url},
    words,
};
use crate::{
    alert::{
        message::{Alert, Notification},
        outbox::policy::Policy,
    },
    clock::Timestamp,
    facts::bad_value::BadValue,
    format::hash::{FNV_START, fnv1a},
    keys::{
        key::{self, Declared as _, Written, keys},
        secret::Secret,
    },
};

/// A webhook that takes what Alertmanager posts.
pub(super) static KIND: Declared =
    Declared::new("webhook", Webhook::keys, |section| Some(Arc::new(Webhook::read(section))));

secret_keys!(SIGNING, "signing_key");
secret_keys!(SIGNING_OLD, "signing_key_old");

keys! {
    /// The JSON that Alertmanager posts, version 4.
    struct Webhook {
        /// Where it is posted.
        url: Secret = Secret::default(), url();
        /// Key of a Standard-Webhooks signature. Without it nothing is signed.
        signing_key: Option<Secret> = None, secret(&SIGNING, |_, text| signing_rule(text)).optional();
        /// The key before it, which signs too during a rotation.
        signing_key_old: Option<Secret> = None, secret(&SIGNING_OLD, |_, text| signing_rule(text)).optional();
    }
}

/// Standard-Webhooks keys carry 24 to 64 bytes as base64 behind `whsec_`; other text is the key as it stands.
/// Errs when what stands behind `whsec_` is no such key.
fn signing_rule(text: &str) -> Result<(), BadValue> {
    match text.strip_prefix("whsec_").map(|rest| BASE64_STANDARD.decode(rest)) {
        Some(Err(_)) => Err("must be base64 after whsec_".into()),
        _ => Ok(()),
    }
}

impl Kind for Webhook {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    fn policy(&self) -> Policy {
        policy()
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Webhook {
    fn url(&self) -> Secret {
        self.url.clone()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.signing_key.iter().chain(&self.signing_key_old).cloned().collect()
    }

    fn requests(
        &self,
        message: &Message<'_>,
        secrets: &[String],
    ) -> Result<Vec<Request>, Unsendable> {
        let mut request = Request::json(body(message));
        request.headers =
            signature(&message.notification.id, message.now, request.body.as_bytes(), secrets)
                .ok_or(Unsendable("the signing key must be base64 after whsec_"))?;
        Ok(vec![request])
    }
}

/// Programs know alerts by their labels, so that another severity is another alert to them.
pub(super) fn policy() -> Policy {
    Policy { severity_identifies: true, ..Policy::default() }
}

/// The JSON of a message. Data of ours are always some.
pub(super) fn body(message: &Message<'_>) -> String {
    payload(message.receiver, message.notification).unwrap_or_default()
}

pub(crate) type Labels = BTreeMap<String, String>;

/// Fields in the order of Alertmanager.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    receiver: &'a str,
    status: &'static str,
    alerts: Vec<Item>,
    group_labels: Labels,
    common_labels: Labels,
    common_annotations: Labels,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    version: &'static str,
    group_key: String,
    truncated_alerts: usize,
    /// Since Alertmanager 0.32.
    #[serde(rename = "notification_reason")]
    reason: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    status: &'static str,
    labels: Labels,
    annotations: Labels,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: String,
}

/// How Alertmanager writes the end of what has none.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The message for the receiver of this name. Errs never with data of ours; the error is serde's own.
pub(crate) fn payload(receiver: &str, n: &Notification) -> serde_json::Result<String> {
    let alerts: Vec<Item> = n.alerts.iter().map(|alert| item(n, alert)).collect();
    let store = n.store().map(|store| ("store".to_owned(), store.to_owned()));
    let document = Document {
        receiver,
        status: n.status().as_str(),
        group_labels: store.into_iter().collect(),
        common_labels: common(alerts.iter().map(|item| &item.labels)),
        common_annotations: common(alerts.iter().map(|item| &item.annotations)),
        alerts,
        external_url: &n.external_url,
        version: "4",
        group_key: group_key(n),
        truncated_alerts: n.left_out,
        reason: n.reason.as_str(),
    };
    serde_json::to_string(&document)
}

fn group_key(n: &Notification) -> String {
    match n.store() {
        Some(store) => format!("{{}}:{{store={store:?}}}"),
        None => "{}:{}".to_owned(),
    }
}

fn item(n: &Notification, alert: &Alert) -> Item {
    let labels = labels(n, alert);
    Item {
        status: alert.status().as_str(),
        fingerprint: format!("{:016x}", fingerprint(&labels)),
        labels,
        annotations: annotations(alert),
        starts_at: alert.since.precise(),
        ends_at: alert.ended.map_or_else(|| NEVER.to_owned(), crate::clock::Timestamp::precise),
        generator_url: generator_url(n),
    }
}

/// What identifies an alert. Labels of the rule cannot take the names of ours.
pub(crate) fn labels(n: &Notification, alert: &Alert) -> Labels {
    let mut labels = alert.labels.clone();
    let own = [
        ("alertname", alert.name.as_str()),
        ("store", &alert.store),
        ("severity", alert.severity.as_str()),
        ("host", &n.host),
    ];
    labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// What is to be read by people, and the link to more.
pub(crate) fn annotations(alert: &Alert) -> Labels {
    let value = alert.reading.as_ref().map(crate::alert::message::Number::text).unwrap_or_default();
    let all = [
        ("summary", alert.summary.clone()),
        ("description", words::description(alert)),
        ("cause", alert.cause.clone()),
        ("remedy", alert.remedy.text()),
        ("remedy_command", alert.remedy.command.clone().unwrap_or_default()),
        ("done", alert.done.clone()),
        ("tried", alert.tried.clone()),
        ("path", alert.path.clone()),
        ("value", value),
        ("runbook_url", alert.runbook.clone()),
    ];
    let given = all.into_iter().filter(|(_, text)| !text.is_empty());
    given.map(|(name, text)| (name.to_owned(), text)).collect()
}

/// The status page.
pub(crate) fn generator_url(n: &Notification) -> String {
    if n.external_url.is_empty() { String::new() } else { format!("{}/", n.external_url) }
}

/// What all of them have with the same value.
fn common<'a>(mut all: impl Iterator<Item = &'a Labels>) -> Labels {
    let mut common = all.next().cloned().unwrap_or_default();
    for labels in all {
        common.retain(|name, value| labels.get(name) == Some(value));
    }
    common
}

/// The fingerprint that Prometheus and Alertmanager compute (prometheus/common `model/signature.go`): FNV-1a over names and
/// values in order, each followed by a byte that stands in no text.
pub(crate) fn fingerprint(labels: &Labels) -> u64 {
    let parts = labels.iter().flat_map(|(name, value)| [name, value]);
    parts.fold(FNV_START, |hash, part| fnv1a(hash, part.bytes().chain([0xff])))
}

/// The headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, one signature for each key. A key behind
/// `whsec_` is base64; another is taken as it stands. `None` when a key is no base64.
pub(crate) fn signature(
    id: &str,
    at: Timestamp,
    body: &[u8],
    keys: &[String],
) -> Option<Vec<(&'static str, String)>> {
    let seconds = at.as_secs().to_string();
    let mut signatures = Vec::new();
    for key in keys {
        let key = match key.strip_prefix("whsec_") {
            Some(encoded) => BASE64_STANDARD.decode(encoded).ok()?,
            None => key.clone().into_bytes(),
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        signatures.push(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())));
    }
    let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", seconds)];
    if !signatures.is_empty() {
        headers.push(("webhook-signature", signatures.join(" ")));
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::receivers::{
        golden,
        samples::{self, hostile},
    };

    #[test]
    fn messages_are_as_in_the_golden_files() {
        for (name, notification) in samples::all() {
            let text = payload("events", &notification).unwrap();
            golden::holds("webhook", name, &serde_json::from_str(&text).unwrap());
            let order: Vec<_> = [
                "receiver",
                "status",
                "alerts",
                "groupLabels",
                "commonLabels",
                "externalURL",
                "version",
                "groupKey",
                "truncatedAlerts",
            ]
            .iter()
            .map(|field| text.find(&format!("\"{field}\":")).unwrap())
            .collect();
            assert!(order.is_sorted(), "as Alertmanager orders them: {text}");
        }
    }

    #[test]
    fn any_names_are_json() {
        hostile(|n| {
            let value: serde_json::Value = serde_json::from_str(&payload("x", n).unwrap()).unwrap();
            assert_eq!(value["alerts"].as_array().unwrap().len(), n.alerts.len());
        });
    }

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        let labels = |all: &[(&str, &str)]| -> Labels {
            all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        // model/signature_test.go of prometheus/common: an empty set, and {name="garland, briggs", fear="love is not enough"}.
        assert_eq!(fingerprint(&labels(&[])), 14_695_981_039_346_656_037);
        let two = labels(&[("name", "garland, briggs"), ("fear", "love is not enough")]);
        assert_eq!(fingerprint(&two), 5_799_056_148_416_392_346);
    }

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification's reference implementations.
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
        let at = Timestamp::from_secs(1_614_265_330);
        let body = br#"{"test": 2432232314}"#;
        let headers =
            signature("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, &[key.clone(), "old".into()])
                .unwrap();
        let [(_, _), (_, moment), ("webhook-signature", both)] = &headers[..] else {
            panic!("{headers:?}")
        };
        assert_eq!(moment, "1614265330");
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(second.starts_with("v1,") && second.len() == first.len());
        assert!(signature("id", at, body, &["whsec_*".into()]).is_none());
        assert!(signature("id", at, body, &[]).unwrap().len() == 2);
    }
}
