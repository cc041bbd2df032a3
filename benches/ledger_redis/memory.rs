//! What a Redis server says that it uses.

/// Bytes, of all that it keeps.
pub(crate) fn used_memory(url: &str) -> usize {
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query(&mut connection).unwrap();
    info.get("used_memory").unwrap()
}
