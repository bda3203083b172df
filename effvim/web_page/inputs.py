"""What both tabs of the web page ask for, and their limits; needs gradio."""

from __future__ import annotations

import contextlib
import html
import os
import time
from collections.abc import Iterable
from pathlib import Path

import gradio as gr

from backbone.errors import UserError
from effvim import console

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
    """Show why an upload is refused; returns the text, without the server's paths."""
    why = str(error).replace(path, Path(path).name)
    if gr.utils.get_upload_folder() in why:
        console.warn(str(error))
        why = 'The result cannot be written on the server: tell whoever runs it.'
    why = html.escape(why)
    gr.Warning(why)
    return why


def remove_empty_folders() -> None:
    """Remove folders of uploads and results whose files gradio has deleted."""
    for parent, names, _ in os.walk(gr.utils.get_upload_folder(), topdown=False):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(OSError):  # it holds files, or another visitor leaves, too
                if time.time() - path.stat().st_mtime > KEEP_SECONDS:  # others may be in use
                    path.rmdir()
