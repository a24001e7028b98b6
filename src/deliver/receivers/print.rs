//! Receivers as the file says them, their secrets as places or `<secret>`.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::{
    config::{
        report::looks_like_address,
        secret::{SHOWN, Secret},
    },
    deliver::receivers::list::{
        Auth, BEARER, HEADER_VALUE, Http, Kind, PASSWORD, PROXY, ROUTING, Receiver, SIGNING,
        SIGNING_OLD, SecretKeys, URL,
    },
    format::duration,
};

/// Keys and values in the order of the example.
pub(crate) struct Printed(Vec<(&'static str, Value)>);

impl Serialize for Printed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Printed {
    pub(crate) fn new(receiver: &Receiver) -> Self {
        let mut out =
            Self(vec![("name", json!(&*receiver.name)), ("type", json!(receiver.kind.as_str()))]);
        out.kind(&receiver.kind);
        if !matches!(receiver.kind, Kind::Heartbeat { .. }) {
            let stores: Vec<_> = receiver.stores.iter().map(glob::Pattern::as_str).collect();
            out.put("min_severity", json!(receiver.min_severity.as_str()));
            out.put("stores", json!(stores));
            out.put("send_resolved", json!(receiver.send_resolved));
        }
        out.put("repeat_interval", json!(duration::format(receiver.repeat_interval)));
        out.put("group_interval", json!(duration::format(receiver.group_interval)));
        out.put("timeout", json!(duration::format(receiver.timeout)));
        if !matches!(receiver.kind, Kind::Command { .. }) {
            out.http(&receiver.http);
        }
        out
    }

    fn put(&mut self, key: &'static str, value: Value) {
        self.0.push((key, value));
    }

    fn secret(&mut self, keys: &SecretKeys, secret: Option<&Secret>) {
        if let Some((key, text)) = secret.map(|secret| keys.written(secret)) {
            self.put(key, json!(text));
        }
    }

    fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Slack { url } | Kind::Compatible { url, flavour: _ } => {
                self.secret(&URL, Some(url));
            }
            Kind::Webhook { url, signing_keys } => {
                self.secret(&URL, Some(url));
                self.secret(&SIGNING, signing_keys.first());
                self.secret(&SIGNING_OLD, signing_keys.get(1));
            }
            Kind::Alertmanager { url, labels } => {
                self.secret(&URL, Some(url));
                self.put("labels", json!(labels));
            }
            Kind::PagerDuty { url, routing_key } => {
                self.secret(&URL, url.as_ref());
                self.secret(&ROUTING, Some(routing_key));
            }
            Kind::Command { command } => {
                let shown = |word: &String| {
                    if looks_like_address(word) { SHOWN.to_owned() } else { word.clone() }
                };
                self.put("command", command.iter().map(shown).collect());
            }
            Kind::Heartbeat { url, post } => {
                self.secret(&URL, Some(url));
                self.put("method", json!(if *post { "POST" } else { "GET" }));
            }
        }
    }

    fn http(&mut self, http: &Http) {
        self.secret(&PROXY, http.proxy.as_ref());
        self.put("allow_http", json!(http.allow_http));
        let mut tls = serde_json::Map::new();
        let mut file = |key: &str, path: &std::path::Path| {
            tls.insert(key.to_owned(), json!(path.to_string_lossy()));
        };
        if let Some(path) = &http.ca_file {
            file("ca_file", path);
        }
        if let Some((cert, key)) = &http.identity {
            file("cert_file", cert);
            file("key_file", key);
        }
        self.put("tls", Value::Object(tls));
        let header = |(name, value): &(String, Secret)| {
            let (key, text) = HEADER_VALUE.written(value);
            json!({"name": name, key: text})
        };
        self.put("headers", http.headers.iter().map(header).collect());
        match &http.auth {
            None => {}
            Some(Auth::Bearer(token)) => self.secret(&BEARER, Some(token)),
            Some(Auth::Basic { username, password }) => {
                let (key, text) = PASSWORD.written(password);
                self.put("basic_auth", json!({"username": username, key: text}));
            }
        }
    }
}
