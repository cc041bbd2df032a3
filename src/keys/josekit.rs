//! What ring lacks, on josekit: ES512 verification and JWE sealing. Never on the hot path.
