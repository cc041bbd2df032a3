//! Agents and tools, for whoever may see them.

use crate::model::name::{AgentName, ToolName};

use super::answer::Answer;
use super::extract::{Authenticated, Id};
use super::problem::Problem;
use super::wire::registry::{AgentAnswer, Agents, ToolAnswer, Tools};

/// List agents
///
/// Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/agents", tag = "registry", operation_id = "inspect_agents", responses((status = 200, body = Agents)))]
pub(super) async fn agents(call: Authenticated) -> Result<Answer<Agents>, Problem> {
    let agents = call.broker().inspect_agents(&call.caller, call.request).await?;
    let now = call.broker().now();
    Ok(Answer(Agents {
        agents: agents.iter().map(|agent| AgentAnswer::of(agent, now)).collect(),
    }))
}

/// Look at an agent
///
/// One's own entry always; others take a permit for `dayfly:inspect`, and without it do not exist.
#[utoipa::path(get, path = "/v1/agents/{name}", tag = "registry", operation_id = "inspect_agent", params(("name" = String, Path)),
    responses((status = 200, body = AgentAnswer)))]
pub(super) async fn agent(
    call: Authenticated,
    Id(name): Id<AgentName>,
) -> Result<Answer<AgentAnswer>, Problem> {
    let agent = call
        .broker()
        .inspect_agent(&call.caller, &name, call.request)
        .await?;
    Ok(Answer(AgentAnswer::of(&agent, call.broker().now())))
}

/// List tools
///
/// Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/tools", tag = "registry", operation_id = "inspect_tools", responses((status = 200, body = Tools)))]
pub(super) async fn tools(call: Authenticated) -> Result<Answer<Tools>, Problem> {
    let tools = call.broker().inspect_tools(&call.caller, call.request).await?;
    Ok(Answer(Tools {
        tools: tools.iter().map(|tool| ToolAnswer::from(&**tool)).collect(),
    }))
}

/// Look at a tool
///
/// Takes a permit for `dayfly:inspect`; without it no tool exists.
#[utoipa::path(get, path = "/v1/tools/{name}", tag = "registry", operation_id = "inspect_tool", params(("name" = String, Path)),
    responses((status = 200, body = ToolAnswer)))]
pub(super) async fn tool(call: Authenticated, Id(name): Id<ToolName>) -> Result<Answer<ToolAnswer>, Problem> {
    let tool = call
        .broker()
        .inspect_tool(&call.caller, &name, call.request)
        .await?;
    Ok(Answer(ToolAnswer::from(&*tool)))
}
