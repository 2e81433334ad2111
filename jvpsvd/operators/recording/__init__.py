"""Recorded derivatives: a function is traced once and its linear parts are replayed."""
