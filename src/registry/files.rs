//! Agents and tools as files: read, checked, and built into one registry.
