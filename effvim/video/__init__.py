"""Predict videos, cameras and streams: reading, tracking, counting, annotated copies."""
