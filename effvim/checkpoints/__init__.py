"""Checkpoints: file format, matching with models, conversion of published weights."""
