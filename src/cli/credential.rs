//! What a person or a pipe is shown of a credential: each secret of it once, on standard output.

use serde_json::Value;

use super::answer::{field, text};
use super::exit::Exit;
use super::terminal::{Terminal, Tone};

/// Prints a credential that was just issued or renewed. Of a token the token alone, of anything else a line
/// for each of its parts.
pub(super) fn print(terminal: &Terminal, issued: &Value, token_only: bool) -> anyhow::Result<Exit> {
    let credential = issued.get("credential").unwrap_or(&Value::Null);
    if token_only {
        let Some(token) = credential.get("token") else {
            anyhow::bail!(
                "lease {} holds no token but a `{}`: leave out `--token-only`",
                lease(issued),
                field(credential, "type")
            );
        };
        terminal.line(text(token))?;
    } else if terminal.is_json() {
        terminal.value(issued)?;
    } else {
        for line in lines(credential) {
            terminal.line(line)?;
        }
        terminal.note(format!(
            "{} until {}, granted {}s of {}s, bounded by {}, ends {}",
            terminal.paint(Tone::Strong, &lease(issued)),
            field(issued, "expires_at"),
            field(issued, "granted"),
            field(issued, "requested"),
            field(issued, "bounded_by"),
            field(issued, "revocation"),
        ))?;
    }
    Ok(Exit::Done)
}

fn lease(issued: &Value) -> String {
    issued.pointer("/lease/id").map(text).unwrap_or_default()
}

fn lines(credential: &Value) -> Vec<String> {
    if let Some(token) = credential.get("token") {
        return vec![text(token)];
    }
    let parts: Vec<(&String, String)> = credential
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(name, value)| match value {
            Value::Object(fields) => fields.iter().map(|(name, value)| (name, text(value))).collect(),
            value if name != "type" && !value.is_null() => vec![(name, text(value))],
            _ => Vec::new(),
        })
        .collect();
    let width = parts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    parts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_stands_alone_and_everything_else_by_name() {
        let token = json!({"type": "bearer_token", "token": "eyJ"});
        assert_eq!(lines(&token), ["eyJ"]);
        let login = json!({
            "type": "database_login", "host": "db", "port": 5432, "database": "orders",
            "username": "dayfly_01", "password": "p w",
        });
        assert_eq!(
            lines(&login),
            [
                "host      db",
                "port      5432",
                "database  orders",
                "username  dayfly_01",
                "password  p w",
            ]
        );
        let fields = json!({"type": "fields", "fields": {"api_key": "k", "id": "7"}});
        assert_eq!(lines(&fields), ["api_key  k", "id       7"]);
        let session = json!({"type": "aws_session", "access_key_id": "A", "region": null});
        assert_eq!(lines(&session), ["access_key_id  A"]);
    }
}
