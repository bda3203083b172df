"""The web page's tab for images; needs gradio."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from backbone.errors import UserError
from effvim.images import IMAGE_SUFFIXES, read_image
from effvim.inference.json_results import objects_as_json, regions_as_json
from effvim.inference.prediction import Prediction
from effvim.web_page.inputs import (
    KEEP_SECONDS,
    MAX_MEGAPIXELS,
    checkpoint_input,
    refusal,
    threshold_input,
    tiles_input,
)

if TYPE_CHECKING:
    from effvim.inference.predictor import Predictor


FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')  # no other decoder reads an upload


class Asked(NamedTuple):
    """What a visitor asks for.

    Attributes:
        path: of the image.
        checkpoint: name of the checkpoint.
        tile: side of the tiles in pixels; 0: the image is predicted whole.
    """

    path: str
    checkpoint: str
    tile: int = 0


class Shown(NamedTuple):
    """A result that a visitor looks at.

    Attributes:
        asked: what it is the result of.
        prediction: of that checkpoint for that image.
        seconds: how long reading and the network took.
    """

    asked: Asked
    prediction: Prediction
    seconds: tuple[float, float]


def add(predictors: Mapping[str, Predictor], examples: Sequence[Path], segments: bool) -> None:
    """Add the content of the tab; the arguments are those of `web_page.build`."""

    def predict(
        path: str | None,
        checkpoint: str,
        other: str,
        tile: int,
        before: tuple[Shown, ...] | str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Shown, ...] | str:
        if path is None:
            return ''
        started = time.perf_counter()
        try:
            image = read_image(path, formats=FORMATS, max_megapixels=MAX_MEGAPIXELS)
        except UserError as error:
            return refusal(error, path)
        reading = time.perf_counter() - started
        known = {} if isinstance(before, str) else {shown.asked: shown for shown in before}
        results = []
        for name in filter(None, [checkpoint, other]):
            asked = Asked(path, name, tile)
            if asked not in known:
                started = time.perf_counter()
                predictor = predictors[name].in_tiles(tile or None)
                watch = _watch(progress, name)
                ((_, prediction),) = predictor.stream([(0, image)], watch)
                known[asked] = Shown(asked, prediction, (reading, time.perf_counter() - started))
            results.append(known[asked])
        return tuple(results)

    names = list(predictors)
    state = gr.State('', time_to_live=KEEP_SECONDS)
    gr.Markdown('Drop an image, or choose one of the examples.')
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.File(label='Image', file_types=list(IMAGE_SUFFIXES), height=140)
            choice = checkpoint_input(names)
            other = gr.Dropdown(
                [('nothing', ''), *names], value='', label='Compare with', visible=len(names) > 1
            )
            tile = tiles_input()
            threshold = threshold_input(segments)
            offered = gr.Dataset(
                components=[gr.Image(visible=False)],
                samples=[[str(p)] for p in examples],
                type='index',
                label='Examples',
            )
        with gr.Column(scale=5, min_width=320), gr.Row():
            with gr.Column(min_width=280):
                first = _result_outputs('result')
            with gr.Column(min_width=280, visible=False) as second_column:
                second = _result_outputs('compared')
    outputs = [*first, second_column, *second]
    gr.on(
        [upload.change, choice.change, other.change, tile.change],
        predict,
        [upload, choice, other, tile, state],
        state,
        show_progress_on=first[0],
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


def _watch(progress: gr.Progress, name: str) -> Any:
    """Shows how far a checkpoint is with the tiles of an image."""
    return lambda _, done: progress(done, desc=f'{name}: tiles')


def _result_outputs(name: str) -> list[Any]:
    """The image of a result, the text about it, and both downloads."""
    image = gr.Image(
        label='Result',
        interactive=False,
        elem_id=name,
        buttons=['fullscreen'],
        height='60vh',
    )
    with gr.Row():  # above the text, whose height differs
        downloads = [
            gr.DownloadButton(f'Download {what}', size='sm', interactive=False, min_width=130)
            for what in ('image (PNG)', 'result (JSON)')
        ]
    summary = gr.Markdown()
    return [image, summary, *downloads]


def show(results: tuple[Shown, ...] | str, score_thr: float) -> list[Any]:
    """Draw one or two results; returns the outputs of the first, a column, those of the second.

    Args:
        results: the results, or why there is none.
        score_thr: objects that score lower are dropped.
    """
    if isinstance(results, str):
        return [*_nothing(results), gr.update(visible=False), *_nothing('')]
    if len(results) == 1:
        shown = _show_one(results[0], score_thr, 'Result', '_prediction')
        return [*shown, gr.update(visible=False), *_nothing('')]
    first, second = (
        _show_one(one, score_thr, one.asked.checkpoint, f'_{_as_file_name(one.asked.checkpoint)}')
        for one in results
    )
    return [*first, gr.update(visible=True), *second]


def _as_file_name(checkpoint: str) -> str:
    """The name of a checkpoint, which may hold directories, as a part of a file name."""
    return re.sub(r'[\\/]', '_', os.path.splitext(checkpoint)[0])


def _nothing(why: str) -> list[Any]:
    """The outputs of no result."""
    png, results = (gr.update(value=None, interactive=False) for _ in range(2))
    return [gr.update(value=None, label='Result'), why, png, results]


def _show_one(shown: Shown, score_thr: float, label: str, ending: str) -> list[Any]:
    """The outputs of a result: the image's file, the text about it, and both downloads."""
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
    stem = Path(shown.asked.path).stem + ending
    drawn = folder / f'{stem}.png'
    shown.prediction.draw(score_thr).save(drawn, compress_level=1)
    drawing = time.perf_counter() - started
    content = as_dict(shown, score_thr)
    written = folder / f'{stem}.json'
    written.write_text(json.dumps(content))
    times = ' · '.join(
        f'{what} {1000 * seconds:.0f} ms'
        for what, seconds in zip(('reading', 'network', 'drawing'), (*shown.seconds, drawing))
    )
    height, width = shown.prediction.image.shape[:2]
    png, results = (gr.update(value=str(path), interactive=True) for path in (drawn, written))
    text = f'**{headline(content)}**  \n{width} × {height} pixels · {times}'
    return [gr.update(value=str(drawn), label=label), text, png, results]


def as_dict(shown: Shown, score_thr: float) -> dict[str, Any]:
    """A result as JSON: boxes as x y width height; masks and regions as COCO's RLE."""
    prediction = shown.prediction
    height, width = prediction.image.shape[:2]
    content: dict[str, Any] = {
        'image': Path(shown.asked.path).name,
        'width': width,
        'height': height,
        'checkpoint': shown.asked.checkpoint,
    }
    if shown.asked.tile:
        content['tile'] = shown.asked.tile
    if prediction.label_map is not None:
        return {**content, 'regions': regions_as_json(prediction)}
    return {
        **content,
        'score_threshold': score_thr,
        'objects': objects_as_json(prediction.above(score_thr)),
    }


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
