"""Configs: read, edited, validated; and `prepare`, the one way to something that can run."""
