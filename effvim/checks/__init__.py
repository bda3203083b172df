"""Checks of the environment, of datasets and weights, and of what training needs."""
