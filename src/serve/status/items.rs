//! What findings are about, in pages: `/api/v1/status/items`. A list may have a hundred thousand entries, and the document of
//! all stores, which is made anew every second, must not.

use serde::Serialize;

use crate::{
    findings::{Code, Finding},
    human::plain,
    sample::Snapshot,
};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    store: String,
    code: Code,
    subject: Option<String>,
    /// From 1.
    page: usize,
    per_page: usize,
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct Items {
    store: String,
    code: Code,
    /// The findings that the list is of, in its order.
    findings: Vec<Part>,
    /// How many there are, listed or not.
    total: u64,
    /// How many can be asked for.
    listed: usize,
    page: usize,
    /// 0 when nothing is listed.
    pages: usize,
    per_page: usize,
    #[serde(rename = "items")]
    list: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    subject: String,
    total: u64,
    listed: usize,
}

/// Why a question for items was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuery {
    #[error("the query cannot be read")]
    Unreadable,
    #[error("{name} must be a number from {least} to {most}")]
    NotInRange { name: &'static str, least: usize, most: usize },
    #[error("no finding has this code")]
    UnknownCode,
    #[error("only store, code, subject, page and per_page are known")]
    UnknownName,
    #[error("store is missing: the name of a store")]
    NoStore,
    #[error("code is missing: the code of a finding")]
    NoCode,
}

impl Query {
    /// Reads the part of an address behind its question mark. Errs when a word is unknown, out of range or missing.
    pub(crate) fn parse(query: &str) -> Result<Self, BadQuery> {
        let (mut store, mut code, mut subject) = (None, None, None);
        let (mut page, mut per_page) = (1, PER_PAGE);
        // Only the query is ours; the rest of the address is what the parser needs.
        let url = reqwest::Url::parse(&format!("http://x/?{query}"));
        let url = url.map_err(|_| BadQuery::Unreadable)?;
        for (name, value) in url.query_pairs() {
            let number = |name: &'static str, most: usize| {
                let number: Option<usize> = value.parse().ok();
                let fits = number.filter(|n| (1..=most).contains(n));
                fits.ok_or(BadQuery::NotInRange { name, least: 1, most })
            };
            match &*name {
                "store" => store = Some(value.into_owned()),
                "code" => {
                    let known = Code::parse(&value);
                    code = Some(known.ok_or(BadQuery::UnknownCode)?);
                }
                "subject" => subject = Some(value.into_owned()),
                "page" => page = number("page", usize::MAX)?,
                "per_page" => per_page = number("per_page", PER_PAGE_MAX)?,
                _ => return Err(BadQuery::UnknownName),
            }
        }
        let store = store.ok_or(BadQuery::NoStore)?;
        let code = code.ok_or(BadQuery::NoCode)?;
        Ok(Self { store, code, subject, page, per_page })
    }

    /// The page, as far as `snapshot` has it; `None` when it knows no such store.
    pub(crate) fn answer(&self, snapshot: &Snapshot) -> Option<Items> {
        let store = snapshot.stores.iter().find(|store| *store.store == *self.store)?;
        let all = store.readings.iter().flat_map(|reading| &reading.observation.findings);
        let wanted = |finding: &&Finding| {
            finding.code == self.code
                && self.subject.as_ref().is_none_or(|subject| plain(&finding.subject) == *subject)
        };
        let found: Vec<&Finding> = all.filter(wanted).collect();
        let listed = found.iter().map(|finding| finding.items.len()).sum::<usize>();
        let skip = (self.page - 1).saturating_mul(self.per_page);
        let items = found.iter().flat_map(|finding| &finding.items).skip(skip).take(self.per_page);
        Some(Items {
            store: store.store.to_string(),
            code: self.code,
            findings: found
                .iter()
                .map(|finding| Part {
                    subject: plain(&finding.subject),
                    total: finding.items_total,
                    listed: finding.items.len(),
                })
                .collect(),
            total: found.iter().fold(0, |sum, f| f.items_total.saturating_add(sum)),
            listed,
            page: self.page,
            pages: listed.div_ceil(self.per_page),
            per_page: self.per_page,
            list: items.map(|item| plain(item)).collect(),
        })
    }
}

const PER_PAGE: usize = 1_000;
/// Some hundred kilobytes.
const PER_PAGE_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        sample::{Observation, StoreReadings},
    };

    fn snapshot() -> Snapshot {
        let lost = |subject: &str, count| {
            Finding::new(Code::RecordsWithoutVector, subject, "")
                .with_items_of((0..count).map(|n| format!("{subject}{n}")), 700)
        };
        let observation = Observation {
            findings: vec![lost("a ", 3), Finding::new(Code::HotJournal, "", ""), lost("b", 4)],
            ..Observation::default()
        };
        let store = StoreReadings::of_one("my docs", "/srv", "hnsw", observation);
        Snapshot { taken_at: Timestamp::from_secs(0), stores: vec![store] }
    }

    #[test]
    fn pages_hold_every_item_once() {
        let ask = |query: &str| Query::parse(query).unwrap().answer(&snapshot()).unwrap();
        let base = "store=my+docs&code=records_without_vector";
        let all = ask(base);
        assert_eq!((all.total, all.listed, all.pages, all.list.len()), (1400, 7, 1, 7));
        let mut seen = Vec::new();
        for page in 1..=4 {
            seen.extend(ask(&format!("{base}&per_page=2&page={page}")).list);
        }
        assert_eq!(seen, all.list);
        assert!(ask(&format!("{base}&page=99999999999")).list.is_empty());
        let one = ask("store=my%20docs&code=records_without_vector&subject=a+");
        assert_eq!(one.list, ["a 0", "a 1", "a 2"]);
        let none = ask("store=my+docs&code=hot_journal");
        assert_eq!((none.total, none.pages, none.findings.len()), (0, 0, 1));
        let text = serde_json::to_value(&one).unwrap();
        assert_eq!(
            text["findings"],
            serde_json::json!([{"subject": "a ", "total": 700, "listed": 3}])
        );
        assert!(Query::parse("store=x&code=hot_journal").unwrap().answer(&snapshot()).is_none());
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        for (query, want) in [
            ("", "store is missing"),
            ("store=a", "code is missing"),
            ("store=a&code=nonsense", "no finding has this code"),
            ("store=a&code=hot_journal&page=0", "page must be a number"),
            ("store=a&code=hot_journal&page=-1", "page must be a number"),
            (
                "store=a&code=hot_journal&per_page=10001",
                "per_page must be a number from 1 to 10000",
            ),
            ("store=a&code=hot_journal&x=1", "only store, code"),
        ] {
            let error = Query::parse(query).unwrap_err().to_string();
            assert!(error.starts_with(want), "{query}: {error}");
        }
    }
}
