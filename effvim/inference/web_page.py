"""The web page of `effvim demo` and its server; needs gradio."""

from __future__ import annotations

import html
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

from backbone.errors import UserError
from effvim.images import IMAGE_SUFFIXES, read_image
from effvim.inference.coco_results import encode_mask
from effvim.inference.prediction import Prediction

if TYPE_CHECKING:
    from effvim.inference.predictor import Predictor


FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')  # no other decoder reads an upload

MAX_MEGAPIXELS = 32

KEEP_SECONDS = 3600  # uploads and results

MAX_VISITORS = 16  # whose last result is kept in memory

# The browser may load from this server only.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Shown(NamedTuple):
    """The result that a visitor looks at.

    Attributes:
        name: file name of the image.
        checkpoint: name of the checkpoint.
        prediction: of that checkpoint for that image.
        seconds: how long reading and the network took.
    """

    name: str
    checkpoint: str
    prediction: Prediction
    seconds: tuple[float, float]


def build(
    predictors: Mapping[str, Predictor], examples: Sequence[Path], title: str, segments: bool
) -> gr.Blocks:
    """Build the page.

    Args:
        predictors: by the name that the visitor chooses from.
        examples: images to offer; not in gradio's directory, which is emptied.
        title: heading of the page.
        segments: the predictors are segmentors: no score threshold.
    """
    names = list(predictors)

    def predict(path: str | None, checkpoint: str) -> Shown | str:
        if path is None:
            return ''
        name = Path(path).name
        started = time.perf_counter()
        try:
            image = read_image(path, formats=FORMATS, max_megapixels=MAX_MEGAPIXELS)
        except UserError as error:
            why = html.escape(str(error).replace(path, name))
            gr.Warning(why)
            return why
        read_at = time.perf_counter()
        prediction = predictors[checkpoint](image)
        seconds = read_at - started, time.perf_counter() - read_at
        return Shown(name, checkpoint, prediction, seconds)

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as page:
        gr.Markdown(f'# {title}\nDrop an image, or choose one of the examples.')
        state = gr.State('', time_to_live=KEEP_SECONDS)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                upload = gr.File(label='Image', file_types=list(IMAGE_SUFFIXES), height=140)
                choice = gr.Dropdown(
                    names, value=names[0], label='Checkpoint', visible=len(names) > 1
                )
                threshold = gr.Slider(
                    0, 1, 0.3, step=0.01, label='Score threshold', visible=not segments
                )
                offered = gr.Dataset(
                    components=[gr.Image(visible=False)],
                    samples=[[str(p)] for p in examples],
                    type='index',
                    label='Examples',
                )
            with gr.Column(scale=5, min_width=320):
                result = gr.Image(
                    label='Result',
                    interactive=False,
                    elem_id='result',
                    buttons=['fullscreen'],
                    height='60vh',
                )
                summary = gr.Markdown()
                with gr.Row():
                    as_png, as_json = (
                        gr.DownloadButton(f'Download {what}', size='md', interactive=False)
                        for what in ('image (PNG)', 'result (JSON)')
                    )
        outputs = [result, summary, as_png, as_json]
        gr.on(
            [upload.change, choice.change],
            predict,
            [upload, choice],
            state,
            show_progress_on=result,
            api_name='predict',
        ).then(
            # with the threshold as it is by now
            show,
            [state, threshold],
            outputs,
            api_name=False,
        )
        threshold.change(
            show,
            [state, threshold],
            outputs,
            trigger_mode='always_last',
            show_progress='hidden',
            api_name='show',
        )
        offered.click(lambda index: str(examples[index]), offered, upload, api_name='example')
    page.state_session_capacity = MAX_VISITORS
    return page


def show(shown: Shown | str, score_thr: float) -> tuple[str | None, str, Any, Any]:
    """Draw a result; returns the image's file, the text below it, and both downloads.

    Args:
        shown: the result, or why there is none.
        score_thr: objects that score lower are dropped.
    """
    if isinstance(shown, str):
        png, results = (gr.update(value=None, interactive=False) for _ in range(2))
        return None, shown, png, results
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
    stem = Path(shown.name).stem
    drawn = folder / f'{stem}_prediction.png'
    shown.prediction.draw(score_thr).save(drawn, compress_level=1)
    drawing = time.perf_counter() - started
    content = as_dict(shown, score_thr)
    written = folder / f'{stem}_prediction.json'
    written.write_text(json.dumps(content))
    times = ' · '.join(
        f'{what} {1000 * seconds:.0f} ms'
        for what, seconds in zip(('reading', 'network', 'drawing'), (*shown.seconds, drawing))
    )
    height, width = shown.prediction.image.shape[:2]
    png, results = (gr.update(value=str(path), interactive=True) for path in (drawn, written))
    text = f'**{headline(content)}**  \n{width} × {height} pixels · {times}'
    return str(drawn), text, png, results


def as_dict(shown: Shown, score_thr: float) -> dict[str, Any]:
    """A result as JSON: boxes as x y width height; masks and regions as COCO's RLE."""
    prediction = shown.prediction
    height, width = prediction.image.shape[:2]
    content: dict[str, Any] = {
        'image': shown.name,
        'width': width,
        'height': height,
        'checkpoint': shown.checkpoint,
    }
    if prediction.label_map is not None:
        counts = np.bincount(prediction.label_map.ravel())
        return {
            **content,
            'regions': [
                {
                    'class': prediction.classes[label],
                    'pixels': int(counts[label]),
                    'segmentation': encode_mask(prediction.label_map == label),
                }
                for label in np.argsort(-counts, kind='stable')
                if counts[label]
            ],
        }
    prediction = prediction.above(score_thr)
    objects: list[dict[str, Any]] = [
        {'class': prediction.classes[label], 'score': score, 'bbox': [x1, y1, x2 - x1, y2 - y1]}
        for label, score, (x1, y1, x2, y2) in zip(
            prediction.labels, prediction.scores.tolist(), prediction.boxes.tolist()
        )
    ]
    for one, mask in zip(objects, () if prediction.masks is None else prediction.masks):
        one['segmentation'] = encode_mask(mask)
    return {**content, 'score_threshold': score_thr, 'objects': objects}


def headline(content: Mapping[str, Any]) -> str:
    """A result in one line."""
    if 'regions' in content:
        pixels = content['width'] * content['height']
        return ', '.join(f'{r["class"]} {r["pixels"] / pixels:.0%}' for r in content['regions'])
    counts = Counter(one['class'] for one in content['objects'])
    number = counts.total()
    if not number:
        return f'no object with a score of at least {content["score_threshold"]:.2f}'
    each = ', '.join(f'{count} {name}' for name, count in counts.most_common())
    return f'{number} object{"s" if number > 1 else ""}: {each}'


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
