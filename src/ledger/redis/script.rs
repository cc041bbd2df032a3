//! The steps of the ledger as Lua scripts. Each is one atomic step in one shard.
//!
//! Steps that give something out run by `guard.lua`, which refuses in a ledger that was lost; those that
//! end something run by `count.lua`, which never does. What others rely on is looked at by `still.lua`,
//! which refuses like the first and changes nothing. All put the writer's count behind the word.
//!
//! A script answers an array. Its first element is `ok` or the name of a refusal; a refusal is an
//! answer and never a Lua error, so that errors mean faults only.

use std::sync::LazyLock;

use redis::Script;

/// The text of a script: by itself, or run by another file as `step`.
macro_rules! text {
    ($file:literal) => {
        include_str!($file)
    };
    ($file:literal by $by:literal) => {
        concat!(
            "local function step()\n",
            include_str!($file),
            "\nend\n",
            include_str!($by)
        )
    };
}

/// What scripts share: all of them, or some.
macro_rules! shared {
    () => {
        include_str!("prelude.lua")
    };
    ($with:literal) => {
        concat!(include_str!("prelude.lua"), "\n", include_str!($with))
    };
}

macro_rules! scripts {
    ($($name:ident = $file:literal $(with $with:literal)? $(by $by:literal)?),+ $(,)?) => {
        $(pub(super) static $name: LazyLock<Step> =
            LazyLock::new(|| Step::new($file, shared!($($with)?), text!($file $(by $by)?)));)+

        #[cfg(test)]
        pub(super) fn all() -> Vec<&'static Step> {
            vec![$(&*$name),+]
        }
    };
}

scripts! {
    ACTIVATE = "activate.lua" by "guard.lua",
    ADOPT = "adopt.lua" by "count.lua",
    ADVANCE = "advance.lua" by "count.lua",
    BEGIN = "begin.lua",
    BELOW = "below.lua",
    CARRY = "carry.lua" by "count.lua",
    CLAIM = "claim.lua",
    CURTAIL = "curtail.lua" by "count.lua",
    CUT = "cut.lua",
    DONE = "done.lua" with "context.lua",
    FEED = "feed.lua",
    FIND = "find.lua",
    FORGET = "forget.lua",
    HOURS = "hours.lua" by "still.lua",
    JOIN = "join.lua",
    LAPSE = "lapse.lua" with "context.lua" by "count.lua",
    LIVE = "live.lua" by "still.lua",
    LOOK = "look.lua",
    LOSE = "lose.lua",
    MARK = "mark.lua" by "count.lua",
    NAME = "name.lua" by "guard.lua",
    NEXT = "next.lua" with "context.lua",
    OLD = "old.lua",
    OPEN = "open.lua" by "guard.lua",
    ORDER = "order.lua" with "context.lua" by "count.lua",
    ORDERS = "orders.lua",
    RENEW = "renew.lua" by "guard.lua",
    RESERVE = "reserve.lua" by "guard.lua",
    RETRY = "retry.lua",
    REVOKE = "revoke.lua" by "count.lua",
    SETTLE = "settle.lua",
    STATE = "state.lua" with "context.lua" by "count.lua",
    STRUCK = "struck.lua" by "still.lua",
    TAKE = "take.lua",
    TOLD = "told.lua" with "context.lua",
    USED = "used.lua",
}

/// One script.
#[derive(Debug)]
pub(super) struct Step {
    /// Its file, for faults.
    pub(super) name: &'static str,
    /// What is sent when the server does not have it yet.
    pub(super) code: String,
    /// Its SHA-1, by which the server knows it.
    pub(super) hash: String,
}

impl Step {
    fn new(name: &'static str, shared: &str, text: &str) -> Self {
        let code = with_what_it_uses(shared, text);
        let hash = Script::new(&code).get_hash().to_owned();
        Self { name, code, hash }
    }
}

/// The text behind those declarations of the shared files that it uses, or that one of them uses. Redis runs the whole of
/// it each time, and to declare a function that nobody calls takes as long as half a command.
fn with_what_it_uses(shared: &str, text: &str) -> String {
    let mut code = text.to_owned();
    for declaration in declarations(shared).into_iter().rev() {
        if declares(&declaration).is_none_or(|name| words(&code).any(|word| word == name)) {
            code = declaration + &code;
        }
    }
    code
}

/// Each begins with `local` at the start of a line. Without what is said about them.
fn declarations(shared: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in shared.lines().filter(|line| !line.starts_with("--")) {
        match found.last_mut() {
            Some(last) if !line.starts_with("local ") => last.extend([line, "\n"]),
            _ => found.push(format!("{line}\n")),
        }
    }
    found
}

fn declares(declaration: &str) -> Option<&str> {
    words(declaration).find(|word| !["local", "function"].contains(word))
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_script_asks_the_server_for_the_time_or_for_luck() {
        for step in all() {
            for word in ["'TIME'", "math.random", "'SRANDMEMBER'", "'EXPIRE'"] {
                assert!(!step.code.contains(word), "{} uses {word}", step.name);
            }
        }
    }

    #[test]
    fn a_script_has_what_it_uses_and_nothing_else() {
        let shared = "-- How much.\nlocal MOST = 7\n\nlocal function a(x)\n  return x\nend\n\n\
                      local function b(x)\n  return a(x) + MOST\nend\nlocal function c()\nend\n";
        let alone = with_what_it_uses(shared, "return { 'ok' }");
        assert_eq!(alone, "return { 'ok' }");
        let one = with_what_it_uses(shared, "return a(1)");
        assert_eq!(one, "local function a(x)\n  return x\nend\n\nreturn a(1)");
        let deep = with_what_it_uses(shared, "return b(1)");
        let declared: Vec<_> = declarations(&deep)
            .iter()
            .filter_map(|one| declares(one).map(str::to_owned))
            .collect();
        assert_eq!(declared, ["MOST", "a", "b"]);
    }

    #[test]
    fn each_script_is_its_own() {
        let mut hashes: Vec<_> = all().into_iter().map(|step| step.hash.as_str()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all().len());
    }
}
