//! Alertmanager's API v2, `POST /api/v2/alerts` (<https://prometheus.io/docs/alerting/latest/alerts_api>). It forgets what is not told
//! again: a firing alert ends four resend intervals from now unless it is sent anew, as Prometheus does it. An alert is
//! known by all its labels, so that one that grows worse is another one, and the milder one ends by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Declared, HttpKind, Kind, Message, Request, Route, Unsendable, keys::url, webhook};
use crate::{
    alert::{message::Notification, outbox::policy::Policy},
    clock::Timestamp,
    facts::bad_value::BadValue,
    keys::{
        key::{self, Declared as _, Written, keys},
        secret::Secret,
        section::Section,
    },
};

/// One Alertmanager; each replica is a receiver of its own. It groups by itself, and forgets what is not told again.
pub(super) static KIND: Declared = Declared {
    repeat_interval: Duration::from_mins(1),
    group_interval: Duration::ZERO,
    ..Declared::new("alertmanager", Alertmanager::keys, |section| {
        Some(Arc::new(Alertmanager::read(section)))
    })
};

keys! {
    /// One Alertmanager. Each replica is a receiver of its own.
    struct Alertmanager {
        /// Its address, with the prefix that it is served below.
        url: Secret = Secret::default(), url();
        /// Labels that every alert gets.
        labels: BTreeMap<String, String> = BTreeMap::new(), labels();
    }
}

fn labels() -> key::Kind<BTreeMap<String, String>> {
    let write = |labels: &BTreeMap<String, String>| {
        let text = |(key, value): (&String, &String)| (key.clone(), Written::Text(value.clone()));
        Some(Written::Map(labels.iter().map(text).collect()))
    };
    key::Kind::custom(
        "labels and their values",
        |section, key| Some(read_labels(section, key)),
        write,
    )
}

fn read_labels(section: &Section<'_>, key: &'static str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, item) in section.pairs(key, LABELS_MAX) {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !name.bytes().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            section.add(item.place.wrong("must be a label name of a-z A-Z 0-9 _"));
            continue;
        }
        let value = section.judged(&item, |value| match value.len() {
            ..=LABEL_BYTES_MAX => Ok(value.to_owned()),
            _ => Err(BadValue::TooLong { bytes_max: LABEL_BYTES_MAX }),
        });
        labels.extend(value.map(|value| (name, value)));
    }
    labels
}

const LABEL_BYTES_MAX: usize = 1024;
const LABELS_MAX: usize = 32;

impl Kind for Alertmanager {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    fn policy(&self) -> Policy {
        Policy::alertmanager()
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Alertmanager {
    fn url(&self) -> Secret {
        self.url.clone()
    }

    fn requests(&self, message: &Message<'_>, _: &[String]) -> Result<Vec<Request>, Unsendable> {
        let body =
            payload(message.notification, &self.labels, message.repeat_interval, message.now);
        Ok(vec![Request { path: PATH, ..Request::json(body.to_string()) }])
    }
}

/// Where alerts are posted, below the address of the receiver.
const PATH: &str = "/api/v2/alerts";

/// Resend intervals after which a firing alert ends that nobody sent again.
const RESENDS: u32 = 4;

/// The alerts with `extra` labels, which go before all but `alertname`, `store` and `severity`.
fn payload(
    n: &Notification,
    extra: &BTreeMap<String, String>,
    resend: Duration,
    now: Timestamp,
) -> Value {
    let alerts = n.alerts.iter().map(|alert| {
        let own = webhook::labels(n, alert);
        let mut labels = own.clone();
        labels.remove("host");
        labels.insert("job".to_owned(), "chroma_exporter".to_owned());
        labels.insert("instance".to_owned(), n.host.clone());
        labels.extend(extra.clone());
        for name in ["alertname", "store", "severity"] {
            labels.extend(own.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        labels.retain(|_, value| !value.is_empty());
        // It refuses an end before the beginning, which a clock that was set back would give.
        let ends = alert.ended.unwrap_or_else(|| now.plus(resend.saturating_mul(RESENDS)));
        let starts = alert.since.min(ends);
        let mut item = json!({
            "labels": labels,
            "annotations": webhook::annotations(alert),
            "startsAt": starts.precise(),
            "endsAt": ends.precise(),
        });
        let url = webhook::generator_url(n);
        if !url.is_empty() {
            item["generatorURL"] = json!(url);
        }
        item
    });
    alerts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::receivers::{
        golden,
        samples::{self, hostile},
    };

    #[test]
    fn alerts_are_as_in_the_golden_files() {
        let extra = [("job", "chroma"), ("env", "prod"), ("severity", "mine")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for (name, n) in samples::all() {
            let value = payload(&n, &extra, Duration::from_mins(1), n.at);
            golden::holds("alertmanager", name, &value);
        }
    }

    #[test]
    fn no_alert_ends_before_it_begins() {
        let mut n = samples::disk();
        for (ended, now) in [(None, 1_000_000_000), (Some(1_000_000_000), 1_900_000_000)] {
            n.alerts[0].ended = ended.map(Timestamp::from_secs);
            let now = Timestamp::from_secs(now);
            let value = payload(&n, &BTreeMap::new(), Duration::from_mins(1), now);
            let moment = |key: &str| value[0][key].as_str().unwrap().to_owned();
            assert!(moment("startsAt") <= moment("endsAt"), "{value}");
        }
        hostile(|n| {
            let value = payload(n, &BTreeMap::new(), Duration::from_mins(1), n.at);
            assert_eq!(value.as_array().unwrap().len(), n.alerts.len());
        });
    }
}
