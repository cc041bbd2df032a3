//! Floor 3, the broker: the use-cases. Knows traits, no technology.
