//! Verifier of Kubernetes projected service-account tokens.
