use super::{policy::Grouping, *};
use crate::alert::message::Outcome;

fn alert(store: &str, name: &str, since: i64, severity: Severity) -> Alert {
    Alert {
        name: name.to_owned(),
        severity,
        store: store.to_owned(),
        path: format!("/{store}"),
        summary: String::new(),
        evidence: String::new(),
        count: 1,
        reading: None,
        cause: String::new(),
        code: String::new(),
        items: 0,
        remedy: crate::findings::Remedy::default(),
        runbook: String::new(),
        labels: BTreeMap::new(),
        since: Timestamp::from_secs(since),
        ended: None,
        episode: format!("{store}-{name}-{since}"),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    }
}

/// A queue, its receiver's ledger, and time in seconds.
struct Post {
    queue: ReceiverQueue,
    silences: Vec<Silence>,
    about: About,
}

impl Post {
    fn new(policy: Policy) -> Self {
        let queue = ReceiverQueue::new("ops", policy, BTreeMap::new(), DeliveryState::default());
        Self { queue, silences: Vec::new(), about: About::default() }
    }

    fn fire(&mut self, store: &str, name: &str, at: i64) -> Alert {
        let alert = alert(store, name, at, Severity::Warning);
        let now = Timestamp::from_secs(at);
        self.queue.note(&Event::Fired(alert.clone()), &self.silences, now);
        alert
    }

    fn end(&mut self, alert: &Alert, at: i64) {
        let now = Timestamp::from_secs(at);
        let ended = Alert { ended: Some(now), ..alert.clone() };
        self.queue.note(&Event::Resolved(ended), &self.silences, now);
    }

    fn next(&mut self, at: i64) -> Next {
        self.queue.next(&self.silences, &self.about, Timestamp::from_secs(at))
    }

    /// `firing: a/X+ a/Y-` for what is sent, `wait 5` or `idle`; answered with `outcome`.
    fn step(&mut self, at: i64, outcome: &Outcome) -> String {
        match self.next(at) {
            Next::Send(notification) => {
                self.queue.record(outcome, 1.0, Timestamp::from_secs(at));
                reported(&notification)
            }
            Next::WaitUntil(until) => format!("wait {}", until.as_secs()),
            Next::Idle => "idle".to_owned(),
        }
    }

    fn deliver(&mut self, at: i64) -> String {
        self.step(at, &Outcome::Delivered)
    }

    /// The same queue after a restart.
    fn restart(&mut self) {
        let delivery = serde_json::to_string(self.queue.delivery()).unwrap();
        let entries = serde_json::to_string(self.queue.entries()).unwrap();
        let policy = self.queue.policy.clone();
        self.queue = ReceiverQueue::new(
            "ops",
            policy,
            serde_json::from_str(&entries).unwrap(),
            serde_json::from_str(&delivery).unwrap(),
        );
    }
}

fn reported(notification: &Notification) -> String {
    let mut text = format!("{}:", notification.reason.as_str());
    for alert in &notification.alerts {
        let mark = match (alert.status(), alert.known) {
            (_, true) => "=",
            (Status::Firing, _) => "+",
            (Status::Resolved, _) => "-",
        };
        for part in [" ", &*alert.key(), mark] {
            text.push_str(part);
        }
    }
    text
}

fn refused(after: Option<u64>) -> Outcome {
    let after = after.map(Duration::from_secs);
    Outcome::Retry { failure: Failure::RateLimited, after, unclear: false }
}

const UNCLEAR: Outcome = Outcome::Retry { failure: Failure::Timeout, after: None, unclear: true };

#[test]
fn what_came_of_a_trial_is_told_once_and_with_the_first_message_when_it_is_known_by_then() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    assert_eq!(post.deliver(0), "firing: a/X+");
    let tried = Alert { tried: "nothing is lost".to_owned(), ..x };
    let note = |post: &mut Post, alert: &Alert, at| {
        post.queue.note(&Event::Tried(alert.clone()), &[], Timestamp::from_secs(at));
    };
    note(&mut post, &tried, 20);
    post.restart();
    assert_eq!(post.deliver(20), "tried: a/X+");
    note(&mut post, &tried, 30);
    assert_eq!(post.deliver(30), "wait 14420");
    assert_eq!(post.deliver(14_420), "reminder: a/X+");
    let y = post.fire("b", "Y", 14_500);
    note(&mut post, &Alert { tried: "lost".to_owned(), ..y }, 14_501);
    assert_eq!(post.deliver(14_502), "firing: b/Y+");
    assert_eq!(post.deliver(14_502), "wait 28820");
}

#[test]
fn a_firing_is_told_at_once_reminded_of_and_resolved() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    assert_eq!(post.deliver(0), "firing: a/X+");
    assert_eq!(post.deliver(0), "wait 14400");
    assert_eq!(post.deliver(14_399), "wait 14400");
    assert_eq!(post.deliver(14_400), "reminder: a/X+");
    post.end(&x, 14_500);
    assert_eq!(post.deliver(14_500), "resolved: a/X-");
    assert_eq!(post.deliver(14_500), "idle");
    assert!(post.queue.entries().is_empty());
    assert_eq!(post.queue.counts().attempts, 3);
}

#[test]
fn the_group_is_told_whole_and_what_is_known_is_marked() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    post.deliver(0);
    post.fire("a", "Y", 1);
    post.fire("b", "Z", 2);
    assert_eq!(post.deliver(2), "firing: a/Y+ a/X=");
    assert_eq!(post.deliver(2), "firing: b/Z+");
    post.end(&x, 20);
    assert_eq!(post.deliver(20), "resolved: a/X- a/Y=");
}

#[test]
fn firing_and_resolved_that_never_went_out_become_one() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    assert_eq!(post.step(0, &refused(Some(60))), "firing: a/X+");
    post.end(&x, 10);
    assert_eq!(post.deliver(59), "wait 60");
    assert_eq!(post.deliver(60), "resolved: a/X-");
    assert_eq!(post.deliver(61), "idle");
    // A receiver that only keeps what is has nothing to hear of it.
    let mut post = Post::new(Policy::alertmanager());
    let x = post.fire("a", "X", 0);
    post.step(0, &refused(None));
    post.end(&x, 10);
    assert_eq!(post.deliver(60), "idle");
}

#[test]
fn an_unclear_attempt_is_made_again_word_for_word_also_after_a_restart() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    let Next::Send(first) = post.next(0) else { panic!("nothing sent") };
    assert_eq!(post.next(0), Next::Idle, "one at a time");
    post.restart(); // killed before the answer was known
    post.end(&x, 1);
    let Next::Send(second) = post.next(1) else { panic!("nothing sent") };
    assert_eq!(first, second);
    post.queue.record(&UNCLEAR, 1.0, Timestamp::from_secs(1));
    post.restart();
    assert_eq!(post.next(1), Next::WaitUntil(Timestamp::from_secs(2)));
    assert_eq!(post.next(2), Next::Send(first));
    post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(2));
    assert_eq!(post.deliver(12), "resolved: a/X-", "who got the firing gets its end");
    assert_eq!(post.deliver(12), "idle");
}

#[test]
fn after_an_unclear_attempt_id_and_words_stay_until_the_outcome_is_known() {
    for (name, between) in [
        ("refused", refused(None)),
        ("unclear again", UNCLEAR),
        ("refused with a pause", refused(Some(5))),
    ] {
        let mut post = Post::new(Policy::default());
        let x = post.fire("a", "X", 0);
        let Next::Send(first) = post.next(0) else { panic!("nothing sent") };
        post.queue.record(&UNCLEAR, 1.0, Timestamp::from_secs(0));
        post.end(&x, 1);
        assert_eq!(post.next(10), Next::Send(first.clone()), "{name}");
        post.queue.record(&between, 1.0, Timestamp::from_secs(10));
        post.restart();
        assert_eq!(post.next(20), Next::Send(first), "{name}");
        post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(20));
        assert_eq!(post.deliver(30), "resolved: a/X-", "{name}");
    }
}

#[test]
fn whoever_may_have_heard_a_firing_hears_its_end() {
    let no = Outcome::Rejected { failure: Failure::Client };
    for (first, end) in [(UNCLEAR, "resolved: a/X-"), (refused(None), "idle")] {
        let mut post = Post::new(Policy::default());
        let x = post.fire("a", "X", 0);
        post.step(0, &first);
        assert_eq!(post.step(10, &no), "firing: a/X+");
        assert_eq!(post.queue.counts().dead_letters, 1);
        post.end(&x, 20);
        assert_eq!(post.deliver(30), end, "{first:?}");
        assert_eq!(post.deliver(40), "idle");
    }
}

/// Each as its receivers have it: people, machines that know alerts by labels, one incident per alert.
fn policies() -> [(&'static str, Policy); 4] {
    let pagerduty =
        Policy { grouping: Grouping::Alert, tell_short: false, batch: 1, ..Policy::default() };
    let webhook = Policy { severity_identifies: true, ..Policy::default() };
    [
        ("people", Policy::default()),
        ("webhook", webhook),
        ("pagerduty", pagerduty),
        ("alertmanager", Policy::alertmanager()),
    ]
}

#[test]
fn an_alert_that_comes_back_before_its_end_was_told_goes_on() {
    for (name, policy) in policies() {
        let mut post = Post::new(Policy { group_interval: Duration::from_secs(10), ..policy });
        let first = post.fire("a", "X", 0);
        assert_eq!(post.deliver(0), "firing: a/X+", "{name}");
        post.end(&first, 3);
        assert_eq!(post.deliver(3), "wait 10", "{name}");
        let second = post.fire("a", "X", 6);
        assert_eq!(post.deliver(10), "firing: a/X+", "{name}: the newer beginning, and no end");
        assert!(!post.deliver(25).contains('-'), "{name}");
        post.end(&second, 100);
        assert_eq!(post.deliver(100), "resolved: a/X-", "{name}");
        assert!(post.queue.entries().len() <= 1, "{name}");
    }
}

#[test]
fn an_end_that_was_told_is_not_told_again_while_a_newer_episode_fires() {
    let mut post = Post::new(Policy::alertmanager());
    let first = post.fire("a", "X", 0);
    post.deliver(0);
    post.end(&first, 10);
    assert_eq!(post.deliver(10), "resolved: a/X-");
    post.fire("a", "X", 20);
    for second in 20..600 {
        while let Next::Send(notification) = post.next(second) {
            assert_eq!(notification.status(), Status::Firing, "{second}");
            assert_eq!(notification.alerts.len(), 1, "{second}");
            post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(second));
        }
    }
    // Of another severity it is another alert there, whose end is its own.
    let mut post = Post::new(Policy::alertmanager());
    let first = post.fire("a", "X", 0);
    post.deliver(0);
    post.end(&first, 10);
    let graver = alert("a", "X", 20, Severity::Critical);
    post.queue.note(&Event::Fired(graver), &[], Timestamp::from_secs(20));
    assert_eq!(post.deliver(20), "firing: a/X+ a/X-");
}

/// The newer episode was told by an attempt whose outcome came late, and ended meanwhile.
#[test]
fn an_older_end_is_not_told_after_a_newer_beginning_that_has_ended_too() {
    for (name, policy) in policies() {
        let policy = Policy { group_interval: Duration::ZERO, ..policy };
        let mut post = Post::new(policy);
        let first = post.fire("a", "X", 0);
        post.deliver(0);
        post.end(&first, 1);
        let second = post.fire("a", "X", 2);
        assert_eq!(post.step(2, &UNCLEAR), "firing: a/X+", "{name}");
        post.end(&second, 3);
        post.restart();
        assert_eq!(post.deliver(100), "firing: a/X+", "{name}: word for word");
        let Next::Send(end) = post.next(101) else { panic!("{name}: the end is not told") };
        let since: Vec<i64> = end.alerts.iter().map(|alert| alert.since.as_secs()).collect();
        assert_eq!((reported(&end), since), ("resolved: a/X-".to_owned(), vec![2]), "{name}");
    }
}

#[test]
fn an_end_is_told_while_its_successor_is_silenced_or_has_ended_unheard() {
    for silenced in [true, false] {
        let mut post = Post::new(Policy { tell_short: false, ..Policy::default() });
        let first = post.fire("a", "X", 0);
        post.deliver(0);
        post.end(&first, 3);
        if silenced {
            post.silences.push(Silence {
                id: "1".to_owned(),
                store: "a".to_owned(),
                alert: String::new(),
                since: Timestamp::from_secs(4),
                until: Timestamp::from_secs(1000),
                comment: String::new(),
                by: String::new(),
            });
        }
        let second = post.fire("a", "X", 6);
        if !silenced {
            post.end(&second, 8);
        }
        assert_eq!(post.deliver(10), "resolved: a/X-", "{silenced}");
    }
}

#[test]
fn unheard_episodes_are_counted_by_the_one_that_overtakes_them() {
    let mut post = Post::new(Policy::default());
    for at in [0, 1, 2] {
        let flap = post.fire("a", "X", at);
        post.end(&flap, at);
    }
    post.fire("a", "X", 3);
    let Next::Send(notification) = post.next(3) else { panic!("nothing sent") };
    assert_eq!(reported(&notification), "firing: a/X+");
    assert_eq!(notification.alerts[0].merged, 3);
    post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(3));
    post.next(4);
    assert_eq!(post.queue.entries().len(), 1);
}

#[test]
fn the_same_news_has_the_same_id_although_nothing_was_written_down() {
    let sent = |later: i64| {
        let mut post = Post::new(Policy::default());
        post.fire("a", "X", 0);
        let Next::Send(notification) = post.next(later) else { panic!("nothing sent") };
        notification.id
    };
    assert_eq!(sent(0), sent(7));
}

#[test]
fn pauses_grow_to_five_minutes_and_what_the_receiver_asks_for_counts() {
    let mut post = Post::new(Policy::default());
    post.fire("a", "X", 0);
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert_eq!(post.step(now, &refused(None)), "firing: a/X+");
        let Next::WaitUntil(until) = post.next(now) else { panic!("no pause") };
        pauses.push(until.as_secs() - now);
        now = until.as_secs();
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    assert_eq!(post.step(now, &refused(Some(3600))), "firing: a/X+");
    assert_eq!(post.next(now), Next::WaitUntil(Timestamp::from_secs(now + 3600)));
    // The clock steps back: nobody waits for it to catch up.
    assert_eq!(post.deliver(5), "firing: a/X+");
    assert_eq!(post.queue.counts().failed[&Failure::RateLimited], 13);
}

#[test]
fn a_permanent_refusal_is_a_dead_letter_and_holds_nothing_up() {
    let no = Outcome::Rejected { failure: Failure::Client };
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    post.fire("b", "Y", 1);
    assert_eq!(post.step(1, &no), "firing: a/X+");
    assert_eq!(post.deliver(1), "firing: b/Y+");
    assert_eq!(post.queue.counts().dead_letters, 1);
    assert_eq!(post.deliver(14_401), "reminder: a/X+", "it fires still, so it is tried again");
    assert_eq!(post.deliver(14_401), "reminder: b/Y+");
    post.end(&x, 14_500);
    assert_eq!(post.deliver(14_500), "resolved: a/X-");
    let z = post.fire("a", "Z", 15_000);
    post.step(15_000, &no);
    post.end(&z, 15_001);
    assert!(post.deliver(15_011).starts_with("wait"), "nobody heard of Z, so nobody hears its end");
}

#[test]
fn what_nobody_takes_for_a_day_is_given_up_and_counted() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    post.fire("b", "Y", 0);
    assert_eq!(post.step(0, &UNCLEAR), "firing: a/X+");
    post.end(&x, 10);
    post.step(86_400, &UNCLEAR);
    assert_eq!(post.queue.counts().dead_letters, 1);
    assert!(!post.queue.entries().contains_key("a-X-0"));
    post.next(86_401);
    assert_eq!(post.queue.counts().dead_letters, 2);
    assert_eq!(post.queue.waiting(Timestamp::from_secs(86_402)).0, 0);
    assert_eq!(post.queue.entries().len(), 1, "it fires still");
}

#[test]
fn a_storm_is_one_summary() {
    let mut post = Post::new(Policy::default());
    let alerts: Vec<Alert> = (0..200).map(|n| post.fire(&format!("s{n:03}"), "X", 0)).collect();
    let Next::Send(summary) = post.next(0) else { panic!("nothing sent") };
    assert_eq!((summary.alerts.len(), &*summary.group, summary.store()), (200, "all", None));
    post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(0));
    for alert in &alerts {
        post.end(alert, 1);
    }
    assert_eq!(post.deliver(1), "wait 10", "flapping is told once in ten seconds");
    assert!(post.deliver(10).starts_with("resolved: s000/X-"));
    assert_eq!(post.deliver(10), "idle");
}

#[test]
fn flapping_stores_cannot_flood_a_receiver() {
    let mut post = Post::new(Policy { gap: Duration::from_secs(1), ..Policy::default() });
    let (mut sent, mut firings, mut heard) = (0, 0, 0);
    for second in 0..60 {
        for n in 0..200 {
            let alert = post.fire(&format!("s{n}"), "X", second);
            post.end(&alert, second);
            firings += 1;
        }
        assert!(post.queue.entries().len() <= 200 * (FLAPS_MAX + 1));
        while let Next::Send(notification) = post.next(second) {
            assert!(notification.alerts.len() <= 256);
            post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(second));
            sent += 1;
            heard += notification.alerts.iter().map(|alert| 1 + alert.merged).sum::<usize>();
        }
    }
    assert!(sent <= 12, "{sent} messages in a minute");
    let waiting: usize = post.queue.entries().values().map(|entry| 1 + entry.alert.merged).sum();
    assert_eq!(heard + waiting, firings, "each one is told or counted");
}

#[test]
fn alertmanager_hears_everything_each_minute_and_the_end_for_five() {
    let mut post = Post::new(Policy::alertmanager());
    let x = post.fire("a", "X", 0);
    post.fire("b", "Y", 0);
    assert_eq!(post.deliver(0), "firing: a/X+ b/Y+");
    assert_eq!(post.deliver(60), "reminder: a/X+ b/Y+");
    post.end(&x, 70);
    assert_eq!(post.deliver(70), "resolved: a/X-");
    let mut ends = 1;
    for second in 71..1000 {
        while let Next::Send(notification) = post.next(second) {
            ends += notification.alerts.iter().filter(|alert| alert.ended.is_some()).count();
            post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(second));
        }
    }
    assert_eq!(ends, 5);
    assert_eq!(post.queue.entries().len(), 1);
}

#[test]
fn a_silence_holds_back_what_is_new_and_never_the_end_of_what_was_told() {
    let silence = |until| Silence {
        id: "1".to_owned(),
        store: "a*".to_owned(),
        alert: String::new(),
        since: Timestamp::from_secs(0),
        until: Timestamp::from_secs(until),
        comment: String::new(),
        by: String::new(),
    };
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    post.deliver(0);
    post.silences.push(silence(100));
    let y = post.fire("a", "Y", 20);
    post.fire("b", "Z", 20);
    post.fire("a", "W", 20);
    assert_eq!(post.deliver(20), "firing: b/Z+");
    assert_eq!(post.deliver(20), "wait 100");
    post.end(&x, 30);
    assert_eq!(post.deliver(30), "resolved: a/X-");
    post.end(&y, 40);
    assert_eq!(post.deliver(100), "firing: a/W+", "Y came and went unheard");
}

#[test]
fn only_what_a_receiver_asked_for_is_told() {
    let policy = Policy {
        min_severity: Severity::Critical,
        stores: vec![glob::Pattern::new("prod-*").unwrap()],
        send_resolved: false,
        ..Policy::default()
    };
    let mut post = Post::new(policy);
    post.fire("prod-1", "Light", 0);
    let other = alert("dev", "X", 0, Severity::Critical);
    let grave = alert("prod-1", "X", 0, Severity::Critical);
    for alert in [&other, &grave] {
        post.queue.note(&Event::Fired(alert.clone()), &[], Timestamp::from_secs(0));
    }
    assert_eq!(post.deliver(0), "firing: prod-1/X+");
    post.end(&grave, 1);
    assert_eq!(post.deliver(20), "idle");
}

#[test]
fn escalation_is_told_and_a_new_receiver_learns_what_fires() {
    let mut post = Post::new(Policy::default());
    let x = post.fire("a", "X", 0);
    post.deliver(0);
    let graver = Alert { severity: Severity::Critical, ..x };
    post.queue.note(&Event::Escalated(graver.clone()), &[], Timestamp::from_secs(20));
    assert_eq!(post.deliver(20), "escalated: a/X+");
    let mut fresh = Post::new(Policy::default());
    fresh.queue.sync([&graver].into_iter(), Timestamp::from_secs(30));
    assert_eq!(fresh.deliver(30), "firing: a/X+");
    // What ended while the program was down.
    fresh.queue.sync(std::iter::empty(), Timestamp::from_secs(50));
    assert_eq!(fresh.deliver(50), "resolved: a/X-");
}

#[test]
fn ids_differ_between_notifications_and_receivers() {
    let mut ids = BTreeSet::new();
    let mut post = Post::new(Policy::default());
    for second in 0..50 {
        post.fire("a", &format!("X{second}"), second);
        let Next::Send(notification) = post.next(second) else { panic!("nothing sent") };
        assert_eq!(notification.id.len(), 32);
        assert!(ids.insert(notification.id));
        post.queue.record(&Outcome::Delivered, 1.0, Timestamp::from_secs(second));
    }
}
