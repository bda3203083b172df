"""Predict several videos, cameras and streams one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvim import console
from effvim.inference.sources import file_name, output_stems
from effvim.video.predicting import VideoResult, predict_video, refuse_to_replace
from effvim.video.reading import UnreadableVideo
from effvim.video.settings import VideoSettings

if TYPE_CHECKING:
    import numpy as np

    from effvim.inference.predictor import Predictor


def predict_videos(
    predictor: Predictor,
    videos: Sequence[Path],
    live: Sequence[str],
    out: Path,
    settings: VideoSettings,
    *,
    show: Callable[[np.ndarray], None] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[str]:
    """Predict videos as `predict_video` does, in the directory tree of the videos.

    Args:
        predictor: the network.
        videos: files.
        live: numbers of cameras and addresses.
        out: the output directory.
        settings: see there.
        show: called with each annotated frame.
        rank: of this process; each predicts every `world_size`-th video.
        world_size: number of processes. All call this function with the same videos.

    Returns:
        What could not be read, with the name of the video.

    Raises:
        UserError: a setting does not fit, or a file cannot be written or would replace a video.
    """
    names = output_names(videos, live)
    for path in videos:
        for name in names:
            refuse_to_replace(path, out, name, settings)
    named = list(zip([*map(str, videos), *live], names))
    problems = []
    for source, name in named[rank::world_size]:
        try:
            result = predict_video(
                predictor, source, out, settings, name=name, progress=rank == 0, show=show
            )
        except UnreadableVideo as error:
            problems.append(str(error))
            console.error(f'skipped: {error}')
            continue
        problems += [f'{result.name}: {problem}' for problem in result.problems]
        report(result, out)
    if world_size > 1:
        from mmengine.dist import all_gather_object

        problems = [problem for every in all_gather_object(problems) for problem in every]
    return problems


def output_names(videos: Sequence[Path], live: Sequence[str] = ()) -> list[str]:
    """Paths of the output files, without suffix, relative to the output directory; all differ.

    A video keeps its suffix where two would get the same name; streams are numbered then.
    """
    names = output_stems(videos)
    for source in live:
        name = file_name(source)
        numbered = (f'{name}-{number}' for number in itertools.count(2))
        names.append(next(one for one in itertools.chain([name], numbered) if one not in names))
    return names


def report(result: VideoResult, out: Path) -> None:
    """Print what became of a video."""
    counts = f'; {result.counts}' if result.counts else ''
    frames = f'{result.frames} frame{"s" * (result.frames != 1)}'
    console.say(
        f'{result.name}: {frames} done, {result.rate:.1f} per second{counts}; results: {out}'
    )
    for problem in result.problems:
        console.error(f'{result.name}: {problem}')
