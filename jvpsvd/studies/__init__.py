"""Common questions, each answered by one call."""
