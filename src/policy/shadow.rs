//! A set of policies in the shadow of another: asked every question that the other is asked, and heard by
//! nobody but the record. What it would have said otherwise is noted in the grounds.

use std::fmt;

use super::affected::Outline;
use super::{PolicyEngine, Question};
use crate::model::decision::{Decision, Obligations};

/// Decides by one set, and notes what another would say.
pub struct Shadowed {
    engine: Box<dyn PolicyEngine>,
    shadow: Box<dyn PolicyEngine>,
}

impl Shadowed {
    /// An engine that decides, and one that does not.
    pub fn new(engine: Box<dyn PolicyEngine>, shadow: Box<dyn PolicyEngine>) -> Self {
        Self { engine, shadow }
    }
}

impl fmt::Debug for Shadowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadowed").finish_non_exhaustive()
    }
}

impl PolicyEngine for Shadowed {
    fn outline(&self) -> Option<Outline<'_>> {
        self.engine.outline()
    }

    fn answer(&self, question: &Question<'_>) -> Decision {
        let mut decided = self.engine.answer(question);
        let said = differs(&decided, &self.shadow.answer(question));
        if let Some(said) = said {
            let (Decision::Permit { grounds, .. } | Decision::Deny { grounds, .. }) = &mut decided;
            grounds.shadow = Some(Box::new(said));
        }
        decided
    }
}

/// What the shadow says, where that is something else. Other reasons or policies for the same are not.
fn differs(decided: &Decision, shadow: &Decision) -> Option<String> {
    match (decided, shadow) {
        (Decision::Deny { .. }, Decision::Deny { .. }) => None,
        (Decision::Permit { obligations: is, .. }, Decision::Permit { obligations, .. })
            if is == obligations =>
        {
            None
        }
        (_, Decision::Deny { reason, .. }) => Some(format!("denied: {reason}")),
        (_, Decision::Permit { obligations, .. }) => Some(permitted(obligations)),
    }
}

fn permitted(terms: &Obligations) -> String {
    let mut said = "permitted".to_owned();
    if let Some(ttl) = terms.max_ttl {
        said.push_str(&format!(" for {ttl} at most"));
    }
    if let Some(role) = &terms.approval {
        said.push_str(&format!(" once `{role}` approved"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Asked, engine, registry};
    use super::*;

    #[test]
    fn the_shadow_is_noted_where_it_differs_and_decides_nothing() {
        let registry = registry();
        let asked = Asked::new(&registry, "support-bot", "crm:read", &[]);
        let all = "@max_ttl(\"5m\") permit(principal, action, resource);";
        let none = "@reason(\"not today\") forbid(principal, action, resource);";
        for (decides, shadow, permits, said) in [
            (all, all, true, None),
            (all, none, true, Some("denied: not today")),
            (none, all, false, Some("permitted for 5m at most")),
            (none, none, false, None),
            (
                all,
                "@approval(\"boss\") permit(principal, action, resource);",
                true,
                Some("permitted once `boss` approved"),
            ),
        ] {
            let engine = Shadowed::new(
                Box::new(engine(&registry, decides)),
                Box::new(engine(&registry, shadow)),
            );
            let (decided, grounds) = match engine.answer(&asked.question()) {
                Decision::Permit { grounds, .. } => (true, grounds),
                Decision::Deny { grounds, .. } => (false, grounds),
            };
            assert_eq!(decided, permits, "{decides} {shadow}");
            assert_eq!(grounds.shadow.as_deref().map(String::as_str), said);
        }
    }
}
