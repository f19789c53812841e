"""Blind rating of features: design, sampling, sealing, the event log, and the statistics; no web code."""
