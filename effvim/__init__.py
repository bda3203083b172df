"""What runs around mmengine's Runner: config checks, data, checkpoints, progress, pictures."""

__version__ = '0.1.0'
