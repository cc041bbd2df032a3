//! Calling tools: the token of now, for the tool alone.

use dayfly_client::{Broker, Error};

use crate::way::{Fate, Way};
use crate::world::{READ, World, error};

#[tokio::test]
async fn the_token_goes_to_the_tool_and_nowhere_else() {
    let world = World::start().await;
    let (tool, stranger) = (Way::to(&world.tool).await, Way::to(&world.tool).await);
    world.place_crm(&[&tool.address]).await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let crm = task.http(READ).unwrap().origins([&tool.address]).unwrap();

    let refused = error(crm.get(format!("{}/customers/42", stranger.address)).send().await);
    let Error::OriginRefused { origin, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*origin, stranger.address);
    assert!(stranger.seen("").is_empty());
    assert_eq!(
        world.live_leases("support-bot").await,
        0,
        "nothing was issued for it"
    );

    let answer = crm
        .get(format!("{}/customers/42", tool.address))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);

    // A redirect elsewhere is followed without the token.
    let to: &'static str = format!("location: {}/customers/42\r\n", stranger.address).leak();
    tool.next("GET /moved", Fate::Answered(302, to, String::new()));
    let answer = crm.get(format!("{}/moved", tool.address)).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let seen = stranger.seen("GET /customers/42");
    assert_eq!(
        seen.len(),
        1,
        "and a 401 of somebody else's is no reason for a new token"
    );
    assert_eq!(seen[0].header("authorization"), None);
    assert!(tool.seen("GET /moved")[0].header("authorization").is_some());
    task.complete().await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let world = World::start().await;
    let tool = Way::to(&world.tool).await;
    world.place_crm(&[&tool.address]).await;
    let broker = world.agent("support-bot");
    let task = broker
        .task("p", ["crm:read,comment@customers/42"])
        .open()
        .await
        .unwrap();
    let crm = task.http("crm:comment@customers/42").unwrap();
    let url = format!("{}/customers/42/comments", tool.address);

    tool.next("POST", Fate::Answered(401, "", String::new()));
    let answer = crm
        .post(&url)
        .json(&serde_json::json!({"text": "hello"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let seen = tool.seen("POST");
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].header("authorization"), seen[1].header("authorization"));
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].body, r#"{"text":"hello"}"#);
    broker.drain().await;
    assert_eq!(
        world.live_leases("support-bot").await,
        1,
        "what was refused was ended"
    );

    tool.rule(Fate::Answered(401, "", String::new()));
    let answer = crm.post(&url).send().await.unwrap();
    assert_eq!(answer.status(), 401, "the second answer is the answer");
    assert_eq!(tool.seen("POST").len(), 4);
    tool.rule(Fate::Passed);
    task.complete().await.unwrap();
}

#[tokio::test]
async fn a_replacement_does_not_go_where_the_tool_was_before() {
    let world = World::start().await;
    let before = Way::to(&world.tool).await;
    world.place_crm(&[&before.address]).await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let crm = task.http(READ).unwrap();
    let url = format!("{}/customers/42", before.address);
    assert_eq!(crm.get(&url).send().await.unwrap().status(), 200);
    // It moves, and whoever is at its old place wants another token.
    world.place_crm(&[&world.tool]).await;
    before.rule(Fate::Answered(401, "", String::new()));
    let refused = error(crm.get(&url).send().await);
    assert!(matches!(refused, Error::OriginRefused { .. }), "{refused:?}");
    let seen = before.seen("GET");
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("authorization"), seen[1].header("authorization"));
    broker.drain().await;
    assert_eq!(
        world.live_leases("support-bot").await,
        0,
        "neither the refused one nor the one that was not sent"
    );
    assert_eq!(crm.get(world.customer(42)).send().await.unwrap().status(), 200);
    task.complete().await.unwrap();
}

#[tokio::test]
async fn no_proxy_of_the_environment_sees_what_is_for_this_machine() {
    const TOOLS: &str = "DAYFLY_TEST_TOOLS";
    let name = "tools::no_proxy_of_the_environment_sees_what_is_for_this_machine";
    if let Some(tools) = std::env::var_os(TOOLS) {
        // With the environment that is prepared below.
        let task = Broker::from_env()
            .unwrap()
            .task("p", [READ])
            .open()
            .await
            .unwrap();
        let crm = task.http(READ).unwrap();
        let mut said = Vec::new();
        for tool in tools.to_str().unwrap().split(' ') {
            let answer = crm.get(format!("{tool}/customers/42")).send().await;
            said.push(answer.unwrap().status().as_u16());
        }
        assert_eq!(said, [200, 200, 418], "other machines are behind the proxy");
        task.complete().await.unwrap();
        return;
    }
    let world = World::start().await;
    let (proxy, other) = (Way::to(&world.tool).await, Way::to(&world.tool).await);
    let tools = [&world.tool, &other.address, "http://crm.example.org"];
    world.place_crm(&tools).await;
    proxy.rule(Fate::Answered(418, "", String::new()));
    // The second try goes as the first one.
    other.next("GET", Fate::Answered(401, "", String::new()));
    let ran = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(TOOLS, tools.join(" "))
        .env("DAYFLY_BROKER", &world.broker)
        .env("DAYFLY_EVIDENCE_FILE", world.evidence_file("support-bot"))
        .envs(["http_proxy", "HTTP_PROXY"].map(|variable| (variable, &proxy.address)))
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(proxy.seen("").len(), 1);
}

#[tokio::test]
async fn headers_queries_and_methods_arrive() {
    let world = World::start().await;
    let tool = Way::to(&world.tool).await;
    tool.rule(Fate::Answered(200, "", String::new()));
    world.place_crm(&[&tool.address]).await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    let crm = task.http(READ).unwrap();
    let url = format!("{}/a", tool.address);
    crm.get(&url)
        .query(&[("b", "c d")])
        .header("x-trace", "7")
        .send()
        .await
        .unwrap();
    crm.put(&url).body("text").send().await.unwrap();
    crm.patch(&url).form(&[("a", "b")]).send().await.unwrap();
    crm.delete(&url)
        .header("authorization", "Bearer mine")
        .send()
        .await
        .unwrap();
    let seen = tool.seen("");
    let lines: Vec<_> = seen.iter().map(|seen| seen.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "GET /a?b=c+d HTTP/1.1",
            "PUT /a HTTP/1.1",
            "PATCH /a HTTP/1.1",
            "DELETE /a HTTP/1.1"
        ]
    );
    assert_eq!(seen[0].header("x-trace"), Some("7"));
    assert_eq!((seen[1].body.as_str(), seen[2].body.as_str()), ("text", "a=b"));
    assert!(
        seen.iter()
            .all(|one| one.header("authorization") == seen[0].header("authorization"))
    );
    task.complete().await.unwrap();
}

#[tokio::test]
async fn the_broker_says_where_the_tool_is_and_the_caller_can_only_narrow_that() {
    let world = World::start().await;
    let (tool, stranger) = (Way::to(&world.tool).await, Way::to(&world.tool).await);
    world.place_crm(&[&world.tool, &tool.address]).await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", [READ]).open().await.unwrap();
    assert_eq!(
        task.credential(READ).await.unwrap().origins(),
        [&world.tool, &tool.address].map(Clone::clone)
    );
    let goes = async |client: &dayfly_client::ToolClient, to: &str| match client
        .get(format!("{to}/customers/42"))
        .send()
        .await
    {
        Ok(answer) => answer.status() == 200,
        Err(Error::OriginRefused { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    let crm = task.http(READ).unwrap();
    assert!(goes(&crm, &world.tool).await && goes(&crm, &tool.address).await);
    assert!(!goes(&crm, &stranger.address).await);
    let narrow = crm.clone().origins([&tool.address, &stranger.address]).unwrap();
    assert!(goes(&narrow, &tool.address).await);
    assert!(!goes(&narrow, &world.tool).await && !goes(&narrow, &stranger.address).await);
    assert!(stranger.seen("").is_empty());
    task.complete().await.unwrap();

    // Nobody says where it is.
    world.place_crm(&[]).await;
    let task = broker.task("p", [READ]).open().await.unwrap();
    let crm = task.http(READ).unwrap();
    assert!(!goes(&crm, &world.tool).await);
    assert!(goes(&crm.origins([&world.tool]).unwrap(), &world.tool).await);
    for bad in ["nonsense", "crm.example.org", "ftp://crm.example.org"] {
        assert!(task.http(READ).unwrap().origins([bad]).is_err(), "{bad}");
    }
    task.complete().await.unwrap();
}
