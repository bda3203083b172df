"""Training curves, and predictions and ground truth drawn into images."""
