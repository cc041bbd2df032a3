//! Answers of the broker as text: the JSON that came, for people.

use serde_json::Value;

use super::exit::Exit;
use super::terminal::{Terminal, Tone};

/// The text of a value, without the quotes of JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The text of a member; nothing when it is absent.
pub(super) fn field(value: &Value, name: &str) -> String {
    value.get(name).map(text).unwrap_or_default()
}

/// The elements of a member that is a list; none when it is absent.
pub(super) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The object without members that are null: what was not said is not sent.
pub(super) fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// One thing, a member a line, or as it came for programs.
pub(super) fn print(terminal: &Terminal, entry: &Value) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(entry)?;
        return Ok(Exit::Done);
    }
    let members = entry.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(_, value)| !value.is_null()) {
        let label = terminal.paint(Tone::Faint, &format!("{name:<16}"));
        terminal.line(format!("{label} {}", text(value)))?;
    }
    Ok(Exit::Done)
}

/// Prints a list of the answer as a table of these members, or the answer as it is for a program.
pub(super) fn table(
    terminal: &Terminal,
    answer: &Value,
    member: &str,
    columns: &[&str],
) -> anyhow::Result<Exit> {
    if terminal.is_json() {
        terminal.value(answer)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = list(answer, member)
        .iter()
        .map(|entry| columns.iter().map(|name| field(entry, name)).collect())
        .collect();
    let headings: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    terminal.table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &rows)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_absent_is_neither_shown_nor_sent() {
        let answer = json!({"tool": "crm", "actions": ["read", "list"], "granted": 300, "reason": null});
        assert_eq!(field(&answer, "tool"), "crm");
        assert_eq!(field(&answer, "actions"), "read,list");
        assert_eq!(field(&answer, "granted"), "300");
        assert_eq!(field(&answer, "reason"), "");
        assert_eq!(field(&answer, "nothing"), "");
        assert_eq!(list(&answer, "actions").len(), 2);
        assert!(list(&answer, "nothing").is_empty());
        assert!(without_nulls(answer).get("reason").is_none());
    }
}
