//! The dead man's switch: a URL that is asked for as long as all is well, so that somebody else notices when it is not.

use std::{sync::Arc, time::Duration};

use super::{
    Declared, Hears, HttpKind, Kind, Message, Method, Request, Route, Unsendable,
    keys::{Keys, Printed, URL},
};
use crate::keys::{secret::Secret, section};

/// A URL that is asked for every minute.
pub(super) static KIND: Declared = Declared {
    hears: Hears::Heartbeats,
    repeat_interval: Duration::from_mins(1),
    ..Declared::new("heartbeat", |keys: &Keys<'_>| {
        let mut method = Method::Get;
        let choices = section::choice(&[Method::Get, Method::Post], word);
        keys.section.set("method", &mut method, choices);
        let url = keys.url()?;
        Some(Arc::new(Heartbeat { url, method }))
    })
};

const fn word(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
    }
}

#[derive(Debug, PartialEq)]
struct Heartbeat {
    url: Secret,
    method: Method,
}

impl Kind for Heartbeat {
    fn print(&self, out: &mut Printed) {
        out.secret(&URL, Some(&self.url));
        out.put("method", word(self.method));
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Heartbeat {
    fn url(&self) -> Secret {
        self.url.clone()
    }

    fn requests(&self, _: &Message<'_>, _: &[String]) -> Result<Vec<Request>, Unsendable> {
        Ok(vec![Request { method: self.method, ..Request::json("") }])
    }
}
