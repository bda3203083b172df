"""The page of `tools/demo.py`: what it shows, and the server that shows it. Needs gradio."""

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
from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.images import IMAGE_SUFFIXES, read_image
from effvim.inference.prediction import Prediction

if TYPE_CHECKING:
    from effvim.inference.predictor import Predictor


FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')  # no other decoder sees an upload

MAX_MEGAPIXELS = 32

KEPT = 3600  # seconds, uploads and results

MAX_VISITORS = 16  # whose last result is kept in memory

# Everything the page needs comes from this server; the browser asks no other.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Shown(NamedTuple):
    """What a visitor looks at; seconds: of reading and of the network."""

    name: str
    checkpoint: str
    found: Prediction
    seconds: tuple[float, float]


def build(
    predictors: Mapping[str, Predictor], examples: Sequence[Path], title: str, segments: bool
) -> gr.Blocks:
    """The page.

    Args:
        predictors: by the name under which the visitor chooses.
        examples: pictures to offer; not in gradio's folder, which is emptied.
        title: its heading.
        segments: it is about label maps, not objects with scores.
    """
    names = list(predictors)

    def predict(path: str | None, checkpoint: str) -> Shown | str:
        if path is None:
            return ''
        name = Path(path).name
        started = time.perf_counter()
        try:
            picture = read_image(path, formats=FORMATS, max_megapixels=MAX_MEGAPIXELS)
        except UserError as error:
            why = html.escape(str(error).replace(path, name))
            gr.Warning(why)
            return why
        read_at = time.perf_counter()
        found = predictors[checkpoint](picture)
        return Shown(name, checkpoint, found, (read_at - started, time.perf_counter() - read_at))

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.Markdown(f'# {title}\nDrop a picture, or take one of the examples.')
        state = gr.State('', time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picture = gr.File(label='Picture', file_types=list(IMAGE_SUFFIXES), height=140)
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
                        for what in ('picture (PNG)', 'result (JSON)')
                    )
        outputs = [result, summary, as_png, as_json]
        gr.on(
            [picture.change, choice.change],
            predict,
            [picture, choice],
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
        offered.click(lambda index: str(examples[index]), offered, picture, api_name='example')
    page.state_session_capacity = MAX_VISITORS
    return page


def show(shown: Shown | str, score_thr: float) -> tuple[str | None, str, Any, Any]:
    """The drawn picture, what is to be said about it, and both downloads.

    shown: instead of a result, why there is none.
    """
    if isinstance(shown, str):
        png, results = (gr.update(value=None, interactive=False) for _ in range(2))
        return None, shown, png, results
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
    stem = Path(shown.name).stem
    drawn = folder / f'{stem}_found.png'
    shown.found.draw(score_thr).save(drawn, compress_level=1)
    drawing = time.perf_counter() - started
    content = as_dict(shown, score_thr)
    written = folder / f'{stem}_found.json'
    written.write_text(json.dumps(content))
    times = ' · '.join(
        f'{what} {1000 * seconds:.0f} ms'
        for what, seconds in zip(('reading', 'network', 'drawing'), (*shown.seconds, drawing))
    )
    height, width = shown.found.picture.shape[:2]
    png, results = (gr.update(value=str(path), interactive=True) for path in (drawn, written))
    text = f'**{headline(content)}**  \n{width} × {height} pixels · {times}'
    return str(drawn), text, png, results


def as_dict(shown: Shown, score_thr: float) -> dict[str, Any]:
    """What the JSON holds: boxes x y width height, and masks and regions as COCO's RLE."""
    found = shown.found
    height, width = found.picture.shape[:2]
    content: dict[str, Any] = {
        'picture': shown.name,
        'width': width,
        'height': height,
        'checkpoint': shown.checkpoint,
    }
    if found.label_map is not None:
        counts = np.bincount(found.label_map.ravel())
        return {
            **content,
            'regions': [
                {
                    'class': found.classes[label],
                    'pixels': int(counts[label]),
                    'segmentation': encode(found.label_map == label),
                }
                for label in np.argsort(-counts, kind='stable')
                if counts[label]
            ],
        }
    found = found.above(score_thr)
    objects: list[dict[str, Any]] = [
        {'class': found.classes[label], 'score': score, 'bbox': [x1, y1, x2 - x1, y2 - y1]}
        for label, score, (x1, y1, x2, y2) in zip(
            found.labels, found.scores.tolist(), found.boxes.tolist()
        )
    ]
    for entry, mask in zip(objects, () if found.masks is None else found.masks):
        entry['segmentation'] = encode(mask)
    return {**content, 'score_threshold': score_thr, 'objects': objects}


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's RLE of a mask, H W, as JSON takes it."""
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {**code, 'counts': code['counts'].decode()}


def headline(content: Mapping[str, Any]) -> str:
    """The result in one line."""
    if 'regions' in content:
        pixels = content['width'] * content['height']
        return ', '.join(f'{r["class"]} {r["pixels"] / pixels:.0%}' for r in content['regions'])
    counts = Counter(entry['class'] for entry in content['objects'])
    number = counts.total()
    if not number:
        return f'nothing with a score of at least {content["score_threshold"]:.2f}'
    each = ', '.join(f'{count} {name}' for name, count in counts.most_common())
    return f'{number} object{"s" if number > 1 else ""}: {each}'


def server(page: gr.Blocks, max_megabytes: float) -> uvicorn.Server:
    """What serves the page, on the socket that its `run` is given."""
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
