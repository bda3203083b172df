"""Prediction with trained or exported networks, in Python, for files and on a web page."""
