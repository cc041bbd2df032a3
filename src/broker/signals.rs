//! `signal`: somebody outside tells of an event. Facts change, and leases end.
//!
//! Everything that follows is written down before the transmitter hears that its token was taken; until
//! then it sends it again. Taking it again, here or by another replica, does no more: facts and cutoffs are as
//! of the instant of the event. That it was taken is remembered only to spare the work and a second record.

use std::sync::Arc;

use crate::journal::record::{Record, Result as Outcome, Signalled, Verb};
use crate::ledger::context::Stated;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::fact::{Fact, Subject};
use crate::model::ids::RequestId;
use crate::model::lease::Cause;
use crate::model::name::{AgentName, UserId};
use crate::model::time::Timestamp;
use crate::signal::set::{self, Set};
use crate::signal::{Effect, Nothing, Signal, SignalError, Status, Stream, Whom, rules};

use super::error::BrokerError;
use super::measure::Because;
use super::records::Fill;
use super::sightings::Sightings;
use super::{Broker, measure};

/// What became of a token that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Something followed.
    Effective,
    /// Nothing followed, and nothing had to.
    Idle,
    /// It was taken before.
    Repeated,
}

/// What is remembered of a token for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// What follows is on record; not all of it is done.
    Recorded,
    /// It was taken.
    Taken,
}

/// One whom a signal is about, found here.
struct Target {
    subject: Subject,
    selector: Selector,
    agent: Option<AgentName>,
    user: Option<UserId>,
}

impl Target {
    fn of(subject: Subject) -> Self {
        Self {
            selector: subject.selector(),
            agent: None,
            user: None,
            subject,
        }
    }
}

impl Broker {
    /// Takes a token that came by this stream, under the name that its transmitter fetched it by where it
    /// has one. When this is done, all that follows is written down.
    pub async fn signal(
        &self,
        stream: &Stream,
        compact: &str,
        named: Option<&str>,
        request: Option<RequestId>,
    ) -> Result<Taken, BrokerError> {
        let now = self.now();
        let record = Record {
            request,
            signal: Some(Box::new(told(stream, None))),
            ..Record::new(Verb::Signal, Outcome::Permitted, now)
        };
        let taken = match self.verified(stream, compact, named, now).await {
            Ok(set) => self.take(stream, &set, record).await,
            Err(error) => self.refuse(stream, &set::digest_of(compact), error, record).await,
        };
        let outcome = match &taken {
            Ok((_, outcome)) => outcome,
            Err(BrokerError::Signal(SignalError::Foreign(_))) => "foreign",
            Err(BrokerError::Signal(error)) if error.code().is_some() => "refused",
            Err(_) => "failed",
        };
        measure::signalled(stream.name(), outcome);
        taken.map(|(taken, _)| taken)
    }

    /// Takes a token that was verified. The answer says what came of it, and the word for that.
    async fn take(
        &self,
        stream: &Stream,
        set: &Set,
        record: Record,
    ) -> Result<(Taken, &'static str), BrokerError> {
        // Two streams may have one transmitter, which gives both the same token.
        let mark = format!("{} {}", stream.name(), set.mark());
        let before = self.heard.get(&mark);
        if before == Some(Heard::Taken) {
            return Ok((Taken::Repeated, "repeated"));
        }
        let record = Record {
            signal: Some(Box::new(told(stream, Some(set)))),
            ..record
        };
        let signal = match stream.interpret(set) {
            Ok(signal) => signal,
            Err(error) => return self.refuse(stream, set.mark(), error, record).await,
        };
        let targets = match self.find_all(stream, &signal).await? {
            Ok(targets) => targets,
            Err(error) => return self.refuse(stream, set.mark(), error, record).await,
        };
        let taken = if let Some((outcome, reason)) = idle(stream, &signal, &targets) {
            self.tell(record.reason(reason)).await?;
            (Taken::Idle, outcome)
        } else {
            let record = naming(record, &signal, &targets);
            let follow_up = async {
                let cut = self.cut(stream, set, &signal, &targets).await?;
                if before.is_none() {
                    self.tell(record.clone()).await?;
                    self.heard.insert(mark.clone(), Heard::Recorded);
                }
                let news = self.state_all(stream, &signal, &targets).await?;
                // A part may have been done by the time before.
                Ok(cut || news || before.is_some())
            };
            let denies = match follow_up.await {
                Ok(denies) => denies,
                Err(error) => return self.fail(stream, set, error, record).await,
            };
            if before.is_some() {
                // What was recorded of it last is that it failed.
                self.tell(record).await?;
            }
            let lag = self.now().since(set.at());
            measure::signal_took(lag);
            if denies {
                measure::denies(Because::Signal, lag);
            }
            (Taken::Effective, "taken")
        };
        self.heard.insert(mark, Heard::Taken);
        Ok(taken)
    }

    async fn tell(&self, record: Record) -> Result<(), BrokerError> {
        let result = record.result;
        self.record(record).await?;
        measure::decided(Verb::Signal, result);
        Ok(())
    }

    async fn verified(
        &self,
        stream: &Stream,
        compact: &str,
        named: Option<&str>,
        now: Timestamp,
    ) -> Result<Set, SignalError> {
        let set = stream.verify(compact, now).await?;
        match named {
            Some(name) if name != set.jti() => Err(SignalError::Malformed(
                "its `jti` is not the name that it was fetched under".into(),
            )),
            _ => Ok(set),
        }
    }

    /// Everybody whom a signal is about, if the stream may speak about all of them.
    async fn find_all(
        &self,
        stream: &Stream,
        signal: &Signal,
    ) -> Result<Result<Vec<Target>, SignalError>, BrokerError> {
        let mut targets = Vec::new();
        for whom in &signal.about {
            match self.find_one(stream, whom).await? {
                Some(found) => targets.extend(found),
                None => {
                    let kind = match whom {
                        Whom::User(_) => "a user",
                        Whom::Workload(_) | Whom::Agent(_) => "an agent",
                        Whom::Lease(_) => "a token",
                        Whom::Environment(_) => "an environment",
                    };
                    return Ok(Err(SignalError::Foreign(format!(
                        "it is about {kind} that this stream may not speak about"
                    ))));
                }
            }
        }
        Ok(Ok(targets))
    }

    /// Who that is here. None where the stream may not speak about whoever it is.
    async fn find_one(&self, stream: &Stream, whom: &Whom) -> Result<Option<Vec<Target>>, BrokerError> {
        let may = stream.confinement();
        let rules = self.parts.rules.current();
        let found = match whom {
            Whom::User(user) => vec![(
                may.has_user(user),
                Target {
                    user: Some(user.clone()),
                    ..Target::of(Subject::User(user.clone()))
                },
            )],
            Whom::Environment(environment) => vec![(
                may.has_environment(environment),
                Target::of(Subject::Environment(environment.clone())),
            )],
            Whom::Agent(_) | Whom::Workload(_) => {
                let agents = match whom {
                    Whom::Workload(id) => rules.registry.agents_of(id),
                    Whom::Agent(name) => rules.registry.agent(name).into_iter().collect(),
                    _ => Vec::new(),
                };
                let target = |name: &AgentName| Target {
                    agent: Some(name.clone()),
                    ..Target::of(Subject::Agent(name.clone()))
                };
                // Who is not here is answered like who is another's, lest a transmitter learn who is.
                if agents.is_empty() && !may.may_know_of_none(whom) {
                    return Ok(None);
                }
                let agents = agents.into_iter();
                agents
                    .map(|agent| {
                        (
                            may.has_agent(&agent.name, &agent.environment),
                            target(&agent.name),
                        )
                    })
                    .collect()
            }
            Whom::Lease(id) => {
                let lease = self.parts.ledger.lease(*id).await?;
                let lease = lease.map(|lease| {
                    let user = lease.on_behalf_of.as_ref();
                    let own = may.has_agent(&lease.agent, &lease.environment)
                        || user.is_some_and(|user| may.has_user(user));
                    let target = Target {
                        selector: Selector::Lease(lease.id),
                        subject: Subject::Task(lease.task),
                        agent: Some(lease.agent),
                        user: lease.on_behalf_of,
                    };
                    (own, target)
                });
                lease.into_iter().collect()
            }
        };
        if found.iter().any(|(own, _)| !own) {
            return Ok(None);
        }
        Ok(Some(found.into_iter().map(|(_, target)| target).collect()))
    }

    /// Denies at once, before anything else: ending access is never held back by the journal. Whether there was
    /// anything to cut.
    async fn cut(
        &self,
        stream: &Stream,
        set: &Set,
        signal: &Signal,
        targets: &[Target],
    ) -> Result<bool, BrokerError> {
        let now = self.now();
        let why = format!("{} by {}", rules::word(set.event()), stream.source());
        if !signal.effects.contains(&Effect::Cut) {
            return Ok(false);
        }
        let up_to = stream.reach(set, now);
        let (mut undrained, mut cut) = (None, false);
        for target in targets {
            if let Selector::Lease(id) = target.selector {
                if id.made_at() <= up_to {
                    cut = true;
                    self.parts.ledger.revoke(id, Cause::Signal, now).await?;
                    self.due.notify_one();
                }
                continue;
            }
            let cutoff = Cutoff {
                selector: target.selector.clone(),
                up_to,
                at: now,
                cause: Cause::Signal,
            };
            cut = true;
            match self.order_cut(&cutoff, &why).await {
                // The others are cut all the same, and whoever told it tells it again.
                Err(error @ BrokerError::Undrained { .. }) => undrained = Some(error),
                outcome => outcome?,
            }
        }
        undrained.map_or(Ok(cut), Err)
    }

    /// States the facts. They are on record before anything is decided by them. Whether one of them is news.
    async fn state_all(
        &self,
        stream: &Stream,
        signal: &Signal,
        targets: &[Target],
    ) -> Result<bool, BrokerError> {
        let mut news = false;
        for (target, effect) in each(signal, targets) {
            let Effect::State {
                name,
                value,
                at,
                expires_at,
            } = effect
            else {
                continue;
            };
            let fact = Fact {
                about: target.subject.clone(),
                name: name.clone(),
                value: value.clone(),
                source: stream.source().clone(),
                at: *at,
                expires_at: *expires_at,
            };
            news |= matches!(self.state(&fact).await?, Stated::New(_));
        }
        Ok(news)
    }

    /// Refuses a token, and records that: each once in a while and few of all of them, so that nobody
    /// fills the journal from outside.
    async fn refuse<T>(
        &self,
        stream: &Stream,
        key: &str,
        error: SignalError,
        record: Record,
    ) -> Result<T, BrokerError> {
        if error.code().is_some() && self.is_news(stream, key) {
            let record = Record {
                result: Outcome::Denied,
                ..record.reason(error.to_string())
            };
            self.tell(record).await?;
        }
        Err(error.into())
    }

    /// Whether what is wrong with a token was not recorded lately.
    fn is_news(&self, stream: &Stream, key: &str) -> bool {
        let noise = self
            .noise
            .get_with_by_ref(stream.name(), || Arc::new(Sightings::new()));
        noise.is_news(key, self.now())
    }

    /// Records, once in a while, that not all that follows could be written down. It is sent again.
    async fn fail<T>(
        &self,
        stream: &Stream,
        set: &Set,
        error: BrokerError,
        record: Record,
    ) -> Result<T, BrokerError> {
        if self.is_news(stream, &format!("{} failed", set.mark())) {
            let record = Record {
                result: Outcome::Failed,
                ..record.reason("not all that follows could be written down: it has to come again")
            };
            self.tell(record).await?;
        }
        Err(error)
    }
}

/// What follows, for everybody whom a signal is about.
fn each<'a>(signal: &'a Signal, targets: &'a [Target]) -> impl Iterator<Item = (&'a Target, &'a Effect)> {
    let effects = signal.effects.iter();
    effects.flat_map(move |effect| targets.iter().map(move |target| (target, effect)))
}

/// What a record says of a token, as far as it was verified.
fn told(stream: &Stream, set: Option<&Set>) -> Signalled {
    Signalled {
        effects: Vec::new(),
        event: set.map(|set| set.event().to_owned()),
        happened_at: set.map(Set::at),
        jti: set.map(|set| set.jti().to_owned()),
        stream: stream.name().clone(),
    }
}

/// A record that says whom a signal is about and what follows.
fn naming(record: Record, signal: &Signal, targets: &[Target]) -> Record {
    let effects = each(signal, targets).map(|(target, effect)| format!("{} {effect}", target.subject));
    let lease = |target: &Target| match target.selector {
        Selector::Lease(id) => Some(id),
        _ => None,
    };
    let task = |target: &Target| match target.subject {
        Subject::Task(id) => Some(id),
        _ => None,
    };
    let mut told = record.signal;
    if let Some(told) = &mut told {
        told.effects = effects.collect();
    }
    Record {
        agent: targets.iter().find_map(|target| target.agent.clone()),
        lease: targets.iter().find_map(lease),
        on_behalf_of: targets.iter().find_map(|target| target.user.clone()),
        signal: told,
        task: targets.iter().find_map(task),
        ..record
    }
}

/// Why nothing follows: the word for it, and a reason for the record.
fn idle(stream: &Stream, signal: &Signal, targets: &[Target]) -> Option<(&'static str, &'static str)> {
    Some(match signal.nothing {
        Some(Nothing::Verification) => ("verification", "a sign of life"),
        Some(Nothing::Stream(status)) => {
            let reason = match status {
                Status::Enabled => "the transmitter enabled the stream",
                Status::Paused => "the transmitter paused the stream",
                Status::Disabled => "the transmitter disabled the stream",
                Status::Unknown => "the transmitter changed the stream",
            };
            if status != Status::Enabled {
                tracing::warn!(stream = %stream.name(), status = status.as_str(), "{reason}");
            }
            ("stream_updated", reason)
        }
        Some(Nothing::Ignored) => ("ignored", "nothing follows from such events"),
        Some(Nothing::Nobody(why)) => ("nobody", why),
        None if targets.is_empty() => ("nobody", "it is about nobody that there is here"),
        None => return None,
    })
}
