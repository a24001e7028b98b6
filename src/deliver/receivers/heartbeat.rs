//! The dead man's switch: a URL that is asked for as long as all is well, so that somebody else notices when it is not.

use std::{sync::Arc, time::Duration};

use super::{
    Declared, Hears, HttpKind, Kind, Message, Method, Request, Route, Unsendable, keys::url,
};
use crate::keys::{
    key::{self, Declared as _, Written, choice, keys},
    secret::Secret,
};

/// A URL that is asked for every minute.
pub(super) static KIND: Declared = Declared {
    hears: Hears::Heartbeats,
    repeat_interval: Duration::from_mins(1),
    ..Declared::new("heartbeat", Heartbeat::keys, |section| {
        Some(Arc::new(Heartbeat::read(section)))
    })
};

const fn word(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
    }
}

keys! {
    /// A URL that is asked for while all checks are fresh.
    struct Heartbeat {
        /// The URL.
        url: Secret = Secret::default(), url();
        /// How it is asked for.
        method: Method = Method::Get, choice(&[Method::Get, Method::Post], word);
    }
}

impl Kind for Heartbeat {
    fn written(&self) -> Written {
        key::Declared::written(self)
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
