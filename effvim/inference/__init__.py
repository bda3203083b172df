"""Prediction with trained or exported networks, in Python and for files."""
