"""Your own data: detect, read and write its formats, split it, describe it, fit a config to it."""
