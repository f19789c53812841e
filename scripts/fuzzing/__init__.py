"""Hostile inputs for every reader of files that strangers may have written; see scripts/fuzz_readers.py."""
