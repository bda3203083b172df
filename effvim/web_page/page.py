"""The web page of `effvim demo` and its server; needs gradio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response

from effvim.web_page import images, video
from effvim.web_page.inputs import KEEP_SECONDS, remove_empty_folders

if TYPE_CHECKING:
    from effvim.inference.predictor import Predictor
    from effvim.web_page.video import VideoJobs


MAX_VISITORS = 16  # whose last results are kept in memory

# The browser may load from this server only.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def build(
    predictors: Mapping[str, Predictor],
    examples: Sequence[Path],
    title: str,
    segments: bool,
    jobs: VideoJobs,
) -> gr.Blocks:
    """Build the page.

    Args:
        predictors: by the name that the visitor chooses from.
        examples: images to offer; not in gradio's directory, which is emptied.
        title: heading of the page.
        segments: the predictors are segmentors: no score threshold, no tracking.
        jobs: the videos in progress; close it when the server has stopped.
    """
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as page:
        gr.Markdown(f'# {title}')
        with gr.Tab('Image'):
            images.add(predictors, examples, segments)
        with gr.Tab('Video'):
            video.add(predictors, segments, jobs)
        page.unload(jobs.leave)
        page.unload(remove_empty_folders)
    page.state_session_capacity = MAX_VISITORS
    return page


def server(page: gr.Blocks, max_megabytes: float) -> uvicorn.Server:
    """The server of the page; its `run` takes the socket."""
    app = FastAPI(openapi_url=None)

    @app.middleware('http')
    async def policy(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers['Content-Security-Policy'] = POLICY
        return response

    gr.mount_gradio_app(
        app,
        page,
        path='/',
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=int(max_megabytes * 2**20),
    )
    return uvicorn.Server(uvicorn.Config(app, log_level='warning'))
