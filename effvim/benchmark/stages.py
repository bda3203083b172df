"""The stages of a whole detector or segmentor, timed one by one."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from torch.utils.benchmark import timer

from effvim.benchmark import timing
from effvim.inference.exported_model import EffViMExportedModel

# The modules of a detector or segmentor whose forward passes are the network; the rest of a
# prediction is post-processing.
MODULES = {
    'backbone': ('backbone',),
    'neck': ('neck',),
    'heads': (
        'rpn_head',
        'bbox_head',
        'decode_head',
        'roi_head.bbox_roi_extractor',
        'roi_head.bbox_head',
        'roi_head.mask_roi_extractor',
        'roi_head.mask_head',
    ),
}

# In the order in which an image, or a training batch, passes through them.
STAGES = (
    'loading',
    'pre-processing',
    *MODULES,
    'exported file',
    'post-processing',
    'losses',
    'backward',
)
ENCLOSING = {'post-processing', 'losses'}  # timed together with the network that they call


class StageClock:
    """Adds up the seconds of each stage until they are read."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = timer()
        yield
        self.seconds[stage] += timer() - start

    def watch(self, model: Any) -> None:
        """Time the modules of `MODULES` from now on.

        Their `forward` is wrapped, since a segmentor does not call its head through hooks.
        """
        for stage, names in MODULES.items():
            for name in names:
                with contextlib.suppress(AttributeError):  # no model has all of them
                    module = model.get_submodule(name)
                    module.forward = self.timed(stage, module.forward)
        if isinstance(model, EffViMExportedModel):
            for name in ('start', 'finish'):
                setattr(model, name, self.timed('exported file', getattr(model, name)))

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time added to `stage`."""

        def inner(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return function(*args, **kwargs)

        return inner

    def read(self) -> dict[str, float]:
        """Seconds by stage, of the `network` (unless it is a file) and in `total`; starts anew."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        network = sum(seconds[stage] for stage in MODULES if stage in seconds)
        for stage in ENCLOSING & seconds.keys():
            seconds[stage] -= network + seconds.get('exported file', 0)
        stages = {stage: seconds[stage] for stage in STAGES if stage in seconds}
        sums = {'network': network} if network else {}
        return {**stages, **sums, 'total': sum(stages.values())}


def stage_sampler(run: Callable[[], Any], clock: StageClock) -> Callable[[], dict[str, float]]:
    """A function that returns the median seconds of each stage, after a warm-up run."""

    def sample() -> dict[str, float]:
        run()
        clock.read()
        repeats: list[dict[str, float]] = []
        start = timer()
        while not repeats or timer() - start < timing.MIN_RUN_TIME:
            run()
            repeats.append(clock.read())
        return {stage: median(seconds[stage] for seconds in repeats) for stage in repeats[0]}

    return sample
