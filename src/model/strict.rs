//! JSON from somebody else: no member twice, no deeper than messages are, and no value in an error.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep a message may nest. The deepest that is understood here takes 6; what it may add has some room.
pub const DEEPEST: u8 = 8;

/// What the bytes say, or what is wrong with them in words that quote nothing.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(DEEPEST).deserialize(&mut reader);
    value
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| {
            let place = format!("at line {} column {}", error.line(), error.column());
            match error.classify() {
                // Only ours are of this class here, and they quote nothing.
                serde_json::error::Category::Data => error.to_string(),
                serde_json::error::Category::Eof => "it ends too early".into(),
                _ => format!("it is no JSON {place}"),
            }
        })
}

/// How deep the value nests: 0 for a text, 1 for a flat object.
pub fn depth(value: &Value) -> u8 {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0).saturating_add(1)
}

#[derive(Clone, Copy)]
struct Strict(u8);

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom("it nests too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.insert(name, map.next_value_seed(inner)?).is_some() {
                return Err(de::Error::custom("a member comes twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_json_is() {
        let text = r#"{"a":[1,-2,0.5,null,true,"b"],"c":{"d":{}}}"#;
        assert_eq!(
            read(text.as_bytes()).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
        assert_eq!(depth(&read(text.as_bytes()).unwrap()), 3);
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways_or_without_end() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(read(deep(DEEPEST.into()).as_bytes()).is_ok());
        for (bad, says) in [
            (deep(usize::from(DEEPEST) + 1), "it nests too deep"),
            ("[".repeat(1_000_000), "it nests too deep"),
            (r#"{"a":1,"a":2}"#.into(), "a member comes twice"),
            (r#"{"x":{"a":1,"\u0061":2}}"#.into(), "a member comes twice"),
            ("{} {}".into(), "it is no JSON"),
            ("<html>".into(), "it is no JSON"),
            (String::new(), "it ends too early"),
            (r#"{"token":"s3cret"#.into(), "it ends too early"),
            (r#"{"token":"s3cret"]"#.into(), "it is no JSON"),
        ] {
            let problem = read(bad.as_bytes()).unwrap_err();
            assert!(problem.starts_with(says), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
