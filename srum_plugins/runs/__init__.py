"""The run directory: content-addressed stages, crash-safe shards, fingerprints.

Everything that is written here is written aside, flushed to the disk and renamed, so that a killed process leaves
either the whole file or none of it.
"""
