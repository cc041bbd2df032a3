//! JSON Web Keys (RFC 7517) and key sets, parsed once into keys that verify.
