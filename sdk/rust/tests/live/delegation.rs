//! Work that is handed on.

use dayfly_client::Error;

use crate::world::{READ, World, error};

#[tokio::test]
async fn a_part_of_the_work_has_a_life_of_its_own_within_the_whole() {
    let world = World::start().await;
    let broker = world.agent("support-bot");
    let task = broker.task("p", ["crm:read@customers"]).open().await.unwrap();
    let token = task
        .delegate("look up", [READ])
        .run(async |part| {
            assert_eq!(part.parent(), Some(task.id()));
            Ok::<_, Error>(part.credential(READ).await?.token()?.clone())
        })
        .await
        .unwrap();
    world.until_dead(token.reveal()).await;
    let part = task.delegate("look up", [READ]).open().await.unwrap();
    task.complete().await.unwrap();
    let refused = error(part.credential(READ).await);
    assert!(matches!(refused, Error::TaskEnded { .. }), "{refused:?}");
    assert_eq!(world.outcome(part.id()).await, "parent_ended");
}

#[tokio::test]
async fn another_agent_joins_what_was_handed_to_it() {
    let world = World::start().await;
    world
        .change("agents/support-bot.toml", |text| {
            text.replace("roles = [\"support\"]", "roles = [\"support\", \"delegator\"]")
        })
        .await;
    // Both have to be permitted what is got with it.
    world
        .change("agents/report-bot.toml", |text| {
            text.replace("roles = [\"reporting\"]", "roles = [\"reporting\", \"support\"]")
        })
        .await;
    let planner = world.agent("support-bot");
    let task = planner.task("p", ["crm:read@customers"]).open().await.unwrap();
    let handover = task
        .delegate("look up", [READ])
        .hand_to("report-bot")
        .await
        .unwrap();
    assert_eq!(handover.agent(), "report-bot");
    let [(name, id), (_, address)] = handover.env();
    assert_eq!((name, address.as_str()), ("DAYFLY_TASK", world.broker.as_str()));

    assert!(matches!(
        error(world.agent("crm-server").join(&id).await),
        Error::NotFound(_)
    ));
    let other = world.agent("report-bot");
    let joined = other.join(&id).await.unwrap();
    assert_eq!((joined.agent(), joined.parent()), ("report-bot", Some(task.id())));
    let token = joined.credential(READ).await.unwrap().token().unwrap().clone();
    assert_eq!(world.asked_with(token.reveal()).await, 200);

    let conclusion = handover.cancel().await.unwrap();
    assert_eq!(conclusion.leases.len(), 1);
    world.until_dead(token.reveal()).await;
    assert!(matches!(error(joined.complete().await), Error::TaskEnded { .. }));
    assert!(matches!(error(other.join(&id).await), Error::TaskEnded { .. }));
    task.complete().await.unwrap();
}

#[tokio::test]
async fn handing_on_takes_a_permit() {
    let world = World::start().await;
    let task = world.agent("support-bot").task("p", [READ]).open().await.unwrap();
    let refused = error(task.delegate("q", [READ]).hand_to("report-bot").await);
    assert!(matches!(refused, Error::Denied(_)), "{refused:?}");
    task.cancel().await.unwrap();
}
