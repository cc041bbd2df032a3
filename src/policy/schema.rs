//! The Cedar schema and entities, generated from the registry.
