"""Training and evaluation: the Runner, its hooks, and what resuming and several ranks need."""
