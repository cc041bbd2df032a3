//! Two brokers on one Redis: what changes at the one ends what the other gave out, and a resource server
//! learns of it. The latencies are printed, not judged.

use std::io::Write as _;
use std::time::Duration;

use dayfly_client::Evidence;
use dayfly_client::resource::{Settings, Verifier};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::process::{Api, Installation, PATIENCE, Process, Site, until};
use crate::redis_servers;

/// Two brokers, an agent and an operator at each, and the tool.
pub(super) struct Pair {
    pub(super) files: Installation,
    pub(super) sites: [Site; 2],
    brokers: Vec<Process>,
    pub(super) agents: [Api; 2],
    pub(super) operators: [Api; 2],
    tool: Verifier,
}

/// A lease, its task and its token.
pub(super) struct Out {
    lease: String,
    pub(super) task: String,
    token: String,
}

/// A task that reads the CRM on behalf of a user.
pub(super) fn reading(user: &str) -> Value {
    json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}],
        "on_behalf_of": user})
}

async fn opened(agent: &Api, task: &Value) -> String {
    let (status, task) = agent.post("/v1/tasks", task).await.unwrap();
    assert_eq!(status, 201, "{task}");
    task["id"].as_str().unwrap().to_owned()
}

async fn asked(agent: &Api, task: &str) -> (u16, Value) {
    let body = json!({"tool": "crm", "actions": ["read"]});
    let path = format!("/v1/tasks/{task}/credentials");
    agent.post(&path, &body).await.unwrap()
}

impl Pair {
    pub(super) async fn start() -> Option<Self> {
        Self::with(|_| {}).await
    }

    /// The same, after something about their files was changed.
    pub(super) async fn with(change: impl FnOnce(&Installation)) -> Option<Self> {
        let files = Installation::on(redis_servers::single()?);
        change(&files);
        let sites = [files.broker(), files.replica()];
        let brokers = vec![sites[0].start().await, sites[1].start().await];
        let agents = [
            files.api("support-bot", &sites[0]).await,
            files.api("support-bot", &sites[1]).await,
        ];
        let operators = [
            files.api("ops-console", &sites[0]).await,
            files.api("ops-console", &sites[1]).await,
        ];
        let settings = Settings {
            evidence: Some(Evidence::file(files.evidence_file("crm-server").await)),
            feed: format!("http://{}/v1/revocations", sites[1].address),
            jwks: format!("http://{}/.well-known/jwks.json", sites[1].address),
            ..Settings::new(files.issuer(), "https://crm.example.org")
        };
        let tool = Verifier::follow(settings).unwrap();
        tokio::time::timeout(PATIENCE, tool.ready()).await.unwrap();
        Some(Self {
            files,
            sites,
            brokers,
            agents,
            operators,
            tool,
        })
    }

    async fn open(&self, broker: usize, heartbeat: Option<&str>) -> String {
        let mut body = reading("user:7");
        if let Some(heartbeat) = heartbeat {
            body["heartbeat"] = heartbeat.into();
        }
        opened(&self.agents[broker], &body).await
    }

    async fn ask(&self, broker: usize, task: &str) -> (u16, Value) {
        asked(&self.agents[broker], task).await
    }

    /// A credential of that broker, which the tool accepts.
    pub(super) async fn issue(&self, broker: usize) -> Out {
        self.issue_to(&self.agents[broker], &reading("user:7")).await
    }

    /// The same, for whoever asks there, in a task that it opens so.
    pub(super) async fn issue_to(&self, agent: &Api, task: &Value) -> Out {
        let task = opened(agent, task).await;
        self.issue_in(agent, task).await
    }

    /// The same in a task that there is.
    pub(super) async fn issue_in(&self, agent: &Api, task: String) -> Out {
        let (status, issued) = asked(agent, &task).await;
        assert_eq!(status, 201, "{issued}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let out = Out {
            lease: text(&issued["lease"]["id"]),
            token: text(&issued["credential"]["token"]),
            task,
        };
        assert!(self.tool.check(&out.token).is_ok());
        out
    }

    async fn cause(&self, out: &Out) -> Option<String> {
        let (_, lease) = self.operators[0]
            .get(&format!("/v1/leases/{}", out.lease))
            .await
            .unwrap();
        let ended = lease["state"] == "ended";
        ended.then(|| lease["cause"].as_str().unwrap().to_owned())
    }

    /// Does something and says how long it took until the tool refused, and by what the lease ended.
    pub(super) async fn ends(&self, what: &str, out: &Out, change: impl AsyncFnOnce()) -> String {
        self.timed(what, out, change).await.0
    }

    /// The same, and how long it took until the tool refused.
    pub(super) async fn timed(
        &self,
        what: &str,
        out: &Out,
        change: impl AsyncFnOnce(),
    ) -> (String, Duration) {
        let began = Instant::now();
        change().await;
        let answered = began.elapsed();
        until("the tool refuses", async || {
            self.tool.check(&out.token).is_err().then_some(())
        })
        .await;
        let refused = began.elapsed();
        let cause = until("the lease ends", async || self.cause(out).await).await;
        let said = format!(
            "{what}: answered after {answered:.1?}, refused at the tool after {refused:.1?}, proven after {:.1?} ({cause})\n",
            began.elapsed()
        );
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        (cause, refused)
    }

    async fn fact(&self, broker: usize, fact: &str, value: Option<&str>) {
        let path = format!("/v1/facts/{fact}");
        let (status, answer) = match value {
            Some(value) => self.operators[broker]
                .put(&path, &json!({"value": value}))
                .await
                .unwrap(),
            None => self.operators[broker].delete(&path).await.unwrap(),
        };
        assert_eq!(status, 200, "{answer}");
    }

    pub(super) async fn stop(self) {
        for (broker, site) in self.brokers.into_iter().zip(&self.sites) {
            broker.stop().await;
            site.verify_journal();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_at_one_broker_ends_what_the_other_gave_out() {
    let Some(pair) = Pair::start().await else { return };

    let out = pair.issue(1).await;
    let stated = async || pair.fact(0, "agent/support-bot/incident", Some("open")).await;
    assert_eq!(
        pair.ends("a fact about the agent", &out, stated).await,
        "not_permitted"
    );
    // The other broker has not decided by what was known before, not even once.
    let task = pair.open(1, None).await;
    for _ in 0..20 {
        pair.fact(0, "agent/support-bot/incident", None).await;
        // What is permitted again is seen soon; what is denied, at once.
        until("it issues again", async || {
            (pair.ask(1, &task).await.0 == 201).then_some(())
        })
        .await;
        pair.fact(0, "agent/support-bot/incident", Some("open")).await;
        let (status, denied) = pair.ask(1, &task).await;
        assert_eq!(status, 403, "{denied}");
    }
    pair.fact(0, "agent/support-bot/incident", None).await;
    until("it issues again", async || {
        (pair.ask(1, &task).await.0 == 201).then_some(())
    })
    .await;

    for selector in [
        json!({"agent": "support-bot"}),
        json!({"tool": "crm"}),
        json!({"user": "user:7"}),
        json!({"environment": "production"}),
        json!({"trust_domain": "example.org"}),
        json!({"all": true}),
    ] {
        let out = pair.issue(1).await;
        let mut order = selector.clone();
        order["reason"] = "incident 12".into();
        let kill = async || {
            let (status, answer) = pair.operators[0].post("/v1/revocations", &order).await.unwrap();
            assert_eq!(status, 200, "{answer}");
        };
        assert_eq!(
            pair.ends(&format!("a kill order {selector}"), &out, kill).await,
            "cutoff"
        );
    }

    let out = pair.issue(1).await;
    let revoke = async || {
        let path = format!("/v1/tasks/{}/revoke", out.task);
        let body = json!({"reason": "incident 12"});
        assert_eq!(pair.operators[0].post(&path, &body).await.unwrap().0, 200);
    };
    assert_eq!(
        pair.ends("an order to end the task", &out, revoke).await,
        "task_revoked"
    );

    let parent = pair.open(0, None).await;
    let part = json!({"purpose": "a part of it", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let path = format!("/v1/tasks/{parent}/tasks");
    let (status, child) = pair.agents[0].post(&path, &part).await.unwrap();
    assert_eq!(status, 201, "{child}");
    let task = child["id"].as_str().unwrap().to_owned();
    let (status, issued) = pair.ask(1, &task).await;
    assert_eq!(status, 201, "{issued}");
    let out = Out {
        lease: issued["lease"]["id"].as_str().unwrap().to_owned(),
        token: issued["credential"]["token"].as_str().unwrap().to_owned(),
        task,
    };
    assert!(pair.tool.check(&out.token).is_ok());
    let complete = async || {
        let path = format!("/v1/tasks/{parent}/complete");
        let body = json!({"outcome": "completed"});
        assert_eq!(pair.agents[0].post(&path, &body).await.unwrap().0, 200);
    };
    assert_eq!(
        pair.ends("the end of the task that it is part of", &out, complete)
            .await,
        "task_parent_ended"
    );
    assert_eq!(pair.ask(1, &out.task).await.0, 409);

    let task = pair.open(1, Some("1s")).await;
    let (_, issued) = pair.ask(1, &task).await;
    let out = Out {
        lease: issued["lease"]["id"].as_str().unwrap().to_owned(),
        token: issued["credential"]["token"].as_str().unwrap().to_owned(),
        task,
    };
    assert_eq!(
        pair.ends("no heartbeat for 1 s", &out, async || {}).await,
        "task_lost"
    );

    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_rules_end_what_they_would_not_give_out() {
    let Some(pair) = Pair::start().await else { return };
    for (what, change, cause) in [
        (
            "the agent is suspended",
            "status = \"suspended\"\n",
            "agent_suspended",
        ),
        ("the agent is retired", "status = \"retired\"\n", "agent_retired"),
    ] {
        let out = pair.issue(1).await;
        let path = "agents/support-bot.toml";
        let before = std::fs::read_to_string(pair.files.path(path)).unwrap();
        pair.files.change(path, |text| format!("{change}{text}"));
        let reload = async || {
            let (status, answer) = pair.operators[0]
                .post("/v1/rules/reload", &json!({}))
                .await
                .unwrap();
            assert_eq!(
                (status, &answer["effect"]["ended"]["leases"]),
                (200, &json!(1)),
                "{answer}"
            );
        };
        assert_eq!(pair.ends(what, &out, reload).await, cause);
        pair.files.change(path, |_| before);
        for operator in &pair.operators {
            assert_eq!(
                operator.post("/v1/rules/reload", &json!({})).await.unwrap().0,
                200
            );
        }
    }

    let out = pair.issue(1).await;
    let stop =
        "@id(\"stop\") @reason(\"not today\") forbid (principal, action == Action::\"crm:read\", resource);";
    std::fs::write(pair.files.path("policies/99-stop.cedar"), stop).unwrap();
    let written = async || {};
    assert_eq!(
        pair.ends("a policy file is written", &out, written).await,
        "not_permitted"
    );
    let broken = stop.replace("forbid", "forbit");
    std::fs::write(pair.files.path("policies/99-stop.cedar"), broken).unwrap();
    let (status, problem) = pair.operators[0]
        .post("/v1/rules/reload", &json!({}))
        .await
        .unwrap();
    assert_eq!(
        (status, &problem["title"]),
        (422, &json!("The rules cannot be put in force")),
        "{problem}"
    );
    std::fs::remove_file(pair.files.path("policies/99-stop.cedar")).unwrap();
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_in_the_middle_of_a_recheck_leaves_the_rest_to_the_other() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let task = pair.open(1, None).await;
    let mut leases = Vec::new();
    for _ in 0..90 {
        let (status, issued) = pair.ask(1, &task).await;
        assert_eq!(status, 201, "{issued}");
        leases.push(issued["lease"]["id"].as_str().unwrap().to_owned());
    }
    pair.fact(0, "agent/support-bot/incident", Some("open")).await;
    pair.brokers.remove(0).kill();
    for lease in &leases {
        until("every lease ends", async || {
            let (_, lease) = pair.operators[1]
                .get(&format!("/v1/leases/{lease}"))
                .await
                .unwrap();
            (lease["state"] == "ended" && lease["cause"] == "not_permitted").then_some(())
        })
        .await;
    }
    let (_, left) = pair.operators[1].get("/v1/rechecks").await.unwrap();
    assert_eq!(left, json!({"rechecks": []}));
}
