//! Agents and tools, for whoever may see them.

use crate::broker::error::BrokerError;
use crate::model::name::{AgentName, ToolName};

use super::extract::{Authenticated, Id, Named};
use super::problem::Problem;
use super::wire::registry::{AgentAnswer, Agents, ToolAnswer, Tools};

/// List agents
///
/// Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/agents", tag = "registry", operation_id = "inspect_agents", responses((status = 200, body = Agents)))]
pub(super) async fn agents(call: Authenticated) -> Result<axum::Json<Agents>, Problem> {
    call.broker().inspect_registry(&call.caller, call.request).await?;
    let (rules, now) = (call.broker().rules().current(), call.broker().now());
    let agents = rules.registry.agents().map(|agent| AgentAnswer::of(agent, now));
    Ok(axum::Json(Agents {
        agents: agents.collect(),
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
) -> Result<axum::Json<AgentAnswer>, Problem> {
    if name != call.caller.agent().name {
        see::<AgentName>(&call).await?;
    }
    let rules = call.broker().rules().current();
    let agent = rules.registry.agent(&name).ok_or_else(AgentName::unknown)?;
    Ok(axum::Json(AgentAnswer::of(agent, call.broker().now())))
}

/// List tools
///
/// Takes a permit for `dayfly:inspect`.
#[utoipa::path(get, path = "/v1/tools", tag = "registry", operation_id = "inspect_tools", responses((status = 200, body = Tools)))]
pub(super) async fn tools(call: Authenticated) -> Result<axum::Json<Tools>, Problem> {
    call.broker().inspect_registry(&call.caller, call.request).await?;
    let rules = call.broker().rules().current();
    let tools = rules.registry.tools().map(|tool| ToolAnswer::from(&**tool));
    Ok(axum::Json(Tools {
        tools: tools.collect(),
    }))
}

/// Look at a tool
///
/// Takes a permit for `dayfly:inspect`; without it no tool exists.
#[utoipa::path(get, path = "/v1/tools/{name}", tag = "registry", operation_id = "inspect_tool", params(("name" = String, Path)),
    responses((status = 200, body = ToolAnswer)))]
pub(super) async fn tool(
    call: Authenticated,
    Id(name): Id<ToolName>,
) -> Result<axum::Json<ToolAnswer>, Problem> {
    see::<ToolName>(&call).await?;
    let rules = call.broker().rules().current();
    let tool = rules.registry.tool(&name).ok_or_else(ToolName::unknown)?;
    Ok(axum::Json(ToolAnswer::from(&**tool)))
}

/// Whether the caller may see one entry. What it may not see does not exist.
async fn see<T: Named>(call: &Authenticated) -> Result<(), Problem> {
    match call.broker().inspect_registry(&call.caller, call.request).await {
        Err(BrokerError::Denied { .. }) => Err(T::unknown()),
        answer => Ok(answer?),
    }
}
