"""A rehearsal: real extraction strategies against the operator's own gateway."""
