//! The environment of the program: what is inherited without ambient credentials, and what is set for it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::scrub::is_ambient_credential;

/// An environment under construction.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    withheld: Vec<String>,
}

impl Environment {
    /// What of `inherited` carries no credential, and what is to be kept whatever it carries.
    pub(super) fn scrubbed(
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
        keep: &[String],
    ) -> Self {
        let (mut variables, mut withheld) = (BTreeMap::new(), Vec::new());
        for (name, value) in inherited {
            let text = name.to_string_lossy();
            let kept = keep.iter().any(|kept| *kept == text);
            if !kept && is_ambient_credential(&text, &value.to_string_lossy()) {
                withheld.push(text.into_owned());
            } else {
                variables.insert(name, value);
            }
        }
        withheld.sort();
        Self { variables, withheld }
    }

    /// The names of what was left out.
    pub(super) fn withheld(&self) -> &[String] {
        &self.withheld
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Takes a variable out.
    pub(super) fn take(&mut self, name: &str) -> Option<OsString> {
        self.variables.remove(OsStr::new(name))
    }

    /// Takes out whatever begins so.
    pub(super) fn drop_beginning(&mut self, beginning: &str) {
        let begins = |name: &OsString| name.as_encoded_bytes().starts_with(beginning.as_bytes());
        self.variables.retain(|name, _| !begins(name));
    }

    /// Names what was left out besides.
    pub(super) fn withhold(&mut self, name: String) {
        self.withheld.push(name);
        self.withheld.sort();
    }

    /// Its value now.
    #[cfg(test)]
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// All of it.
    pub(super) fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_named_and_what_is_kept_is_not() {
        let inherited = [
            ("PATH", "/bin"),
            ("GH_TOKEN", "a"),
            ("AWS_PROFILE", "b"),
            ("MY_TOKEN", "c"),
        ];
        let inherited = inherited.map(|(name, value)| (name.into(), value.into()));
        let mut environment = Environment::scrubbed(inherited, &["MY_TOKEN".to_owned()]);
        assert_eq!(environment.withheld(), ["AWS_PROFILE", "GH_TOKEN"]);
        assert_eq!(environment.get("MY_TOKEN"), Some(OsStr::new("c")));
        environment.set("AWS_PROFILE", "ours");
        assert_eq!(environment.take("PATH"), Some("/bin".into()));
        assert_eq!(environment.variables().len(), 2);
    }
}
