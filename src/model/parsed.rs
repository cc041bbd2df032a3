//! Values that are written as text, read where the text lies.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};

/// Reads a value by its `FromStr`. To read a `String` first, or a `Cow`, which is always owned here, would copy each
/// name and each id of a request.
pub(crate) fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    struct Text<T>(PhantomData<T>);

    impl<T: FromStr<Err: Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(PhantomData))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::model::name::ToolName;

    #[test]
    fn reads_text_however_it_is_written_and_nothing_else() {
        for json in [r#""crm""#, r#""c\u0072m""#] {
            assert_eq!(serde_json::from_str::<ToolName>(json).unwrap().as_str(), "crm");
        }
        let owned = serde_json::Value::from("crm");
        assert_eq!(ToolName::deserialize(owned).unwrap().as_str(), "crm");
        for (json, says) in [
            ("1", "expected a string"),
            (r#""CRM""#, "`CRM` is not a valid tool name"),
        ] {
            let error = serde_json::from_str::<ToolName>(json).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
