"""What both tabs of the web page ask for, and their limits; needs gradio."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

import gradio as gr

from backbone.errors import UserError

KEEP_SECONDS = 3600  # uploads and results

MAX_MEGAPIXELS = 32  # of an image, or of a frame

TILE_SIZES = (320, 640, 1280)


def checkpoint_input(names: Iterable[str]) -> gr.Dropdown:
    """The choice of a checkpoint, hidden if there is one only."""
    names = list(names)
    return gr.Dropdown(names, value=names[0], label='Checkpoint', visible=len(names) > 1)


def tiles_input() -> gr.Dropdown:
    """The choice of a side of tiles; its value is 0 for none."""
    sizes = [(f'{size} × {size} pixels', size) for size in TILE_SIZES]
    return gr.Dropdown([('off', 0), *sizes], value=0, label='Tiles')


def threshold_input(segments: bool) -> gr.Slider:
    """The score threshold, hidden for segmentors."""
    return gr.Slider(0, 1, 0.3, step=0.01, label='Score threshold', visible=not segments)


def refusal(error: UserError, path: str) -> str:
    """Show why an upload is refused; returns the text, without the server's path to it."""
    why = html.escape(str(error).replace(path, Path(path).name))
    gr.Warning(why)
    return why
