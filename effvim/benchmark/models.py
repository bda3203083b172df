"""`tools/benchmark.py model`: a whole detector or segmentor, part by part."""

from __future__ import annotations

import contextlib
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.utils.benchmark import timer

from backbone import feature_info
from backbone.errors import UserError
from effvim.benchmark import timing
from effvim.benchmark.backbones import build, set_mode
from effvim.benchmark.cases import (
    CHANNELS_LAST,
    FUSED,
    Case,
    baseline_of,
    cases_of,
    check_network,
    collect,
    compilation,
    parse_form,
    reference,
)
from effvim.benchmark.counting import macs, parameters
from effvim.checkpoints import checkpoint, exported
from effvim.config.editing import apply_options, parse_options, set_classes
from effvim.config.packaged import config_path
from effvim.config.precision import use_float32_rois
from effvim.config.prepare import apply_spec
from effvim.config.reading import import_plugins, load_config
from effvim.config.run_spec import adopt
from effvim.config.validation import check_model
from effvim.config.weights import check_variant
from effvim.console import quiet
from effvim.inference.exported_model import EffViMExportedModel

OWN = 'own'  # stands for the config's backbone among names of timm's

# What is the network in a detector or segmentor; all else of a prediction is post-processing.
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

# In the order in which a picture, or a training batch, goes through them.
PARTS = (
    'loading',
    'pre-processing',
    *MODULES,
    'exported file',
    'post-processing',
    'losses',
    'backward',
)

AROUND = {'post-processing', 'losses'}  # timed with the network, or the file, inside


class Clock:
    """Adds up the seconds that parts take, until they are read."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = timer()
        yield
        self.seconds[part] += timer() - start

    def watch(self, model: Any) -> None:
        """Time the modules of `MODULES` from now on.

        Their `forward` is wrapped, since a segmentor does not call its head through hooks.
        """
        for part, names in MODULES.items():
            for name in names:
                with contextlib.suppress(AttributeError):  # no model has all of them
                    module = model.get_submodule(name)
                    module.forward = self.timed(part, module.forward)
        if isinstance(model, EffViMExportedModel):
            model.run = self.timed('exported file', model.run)  # type: ignore[method-assign]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose time counts for `part`."""

        def inner(*args: Any, **kwargs: Any) -> Any:
            with self(part):
                return function(*args, **kwargs)

        return inner

    def read(self) -> dict[str, float]:
        """Seconds by part, then those of the `network`, if it is no file, and the `total`."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        network = sum(seconds[part] for part in MODULES if part in seconds)
        for part in AROUND & seconds.keys():
            seconds[part] -= network + seconds.get('exported file', 0)
        parts = {part: seconds[part] for part in PARTS if part in seconds}
        sums = {'network': network} if network else {}
        return {**parts, **sums, 'total': sum(parts.values())}


class TimmMaps(nn.Module):
    """A network of timm in the place of a config's backbone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network: Any = build(name)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x))


def settle(args: Namespace) -> tuple[Config, dict[str, Tensor] | None]:
    """The config, as its checkpoint says if there is one, and the weights.

    Without a checkpoint nothing is sure of itself; the score threshold is then 0, so that the steps
    behind the network have as much to do as the test settings allow.

    Raises:
        UserError: a mistake in the config, the options or the checkpoint.
    """
    cfg = load_config(args.config)
    args.mini, args.from_scratch, args.data_root = False, False, None
    if not args.checkpoint:
        apply_options(cfg, parse_options(args.cfg_options))
        check_model(cfg)
        test = cfg.model.get('test_cfg', {})
        for part in (test, test.get('rcnn', {})):
            if 'score_thr' in part:
                part.score_thr = 0.0
        return cfg, None
    content = checkpoint.read(args.checkpoint)
    about = adopt(args, content, args.checkpoint)
    apply_spec(cfg, about)
    if about['classes']:
        set_classes(cfg, about['classes'])
    check_model(cfg)
    check_variant(cfg, content, args.checkpoint)
    return cfg, content['state_dict']


def assemble(cfg: Config, name: str, weights: dict[str, Tensor] | None, path: str) -> Any:
    """The model with the backbone of that name, in evaluation mode.

    Raises:
        UserError: the backbone's maps have other strides than the config's, or the weights, read
            from `path`, do not fit.
    """
    from mmengine.registry import MODELS

    cfg = cfg.copy()
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    if name == OWN or is_config(name):
        model = MODELS.build(cfg.model)
        try:
            model.load_state_dict(weights or model.state_dict())
        except RuntimeError as error:
            raise UserError(f'{path} does not fit the config: {error}') from error
        return model.eval()
    backbone = TimmMaps(name)
    own = feature_info(
        cfg.model.backbone.get('arch', 'm4'), cfg.model.backbone.get('out_indices', (0, 1, 2))
    )
    strides = backbone.network.feature_info.reduction()
    if strides != [info.stride for info in own]:
        raise UserError(
            f'{name} gives maps of strides {strides}, the config needs '
            f'{[info.stride for info in own]}: take one that gives these, such as '
            f'efficientvim_m4 or shvit_s4'
        )
    cfg.model.neck.in_channels = backbone.network.feature_info.channels()
    model = MODELS.build(cfg.model)
    model.backbone = backbone
    return model.eval()


def form_of(model: Any, form: str, device: torch.device) -> Any:
    """The model in a form; compiled is its backbone alone."""
    if FUSED in form:
        if isinstance(model.backbone, TimmMaps):
            reparameterize_model(model.backbone, inplace=True)
        else:
            from effvim.inference.folding import fuse

            fuse(model)
    model.to(device)
    if CHANNELS_LAST in form:
        model.to(memory_format=torch.channels_last)
    how = compilation(form)
    if how is not None:
        model.backbone = torch.compile(model.backbone, **how)
    return model


def picture(folder: Path, height: int, width: int) -> Path:
    """A made-up photograph of that shape, its short side 480 pixels as COCO's."""
    scale = 480 / min(height, width)
    size = round(width * scale), round(height * scale)
    coarse = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path = folder / f'{height}x{width}.jpg'
    Image.fromarray(coarse).resize(size).save(path, quality=90)
    return path


def pipeline(cfg: Config, height: int, width: int) -> Callable[[dict[str, Any]], Any]:
    """The config's test pipeline without annotations, resizing to at most that size."""
    from mmengine.dataset import Compose

    steps = [
        step.copy()
        for step in cfg.test_dataloader.dataset.pipeline
        if step.type != 'LoadAnnotations'
    ]
    for step in steps:
        if step.type == 'Resize':
            step.scale = (max(height, width), min(height, width))
        if 'size' in step:  # of padding
            step.size = (width, height)
    return Compose(steps)


def autocast(model: Any, case: Case) -> torch.autocast:
    """Lower precision, if the case asks for it."""
    dtype = timing.DTYPES[case.dtype]
    device = next(model.parameters(), torch.empty(0)).device.type  # an exported file has none
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def predicting(model: Any, cfg: Config, case: Case, path: Path, clock: Clock) -> Callable[[], None]:
    """From the picture at `path` to results."""
    from mmengine.dataset import pseudo_collate

    steps = pipeline(cfg, case.height, case.width)

    @torch.inference_mode()
    def predict() -> None:
        with clock('loading'):
            data = pseudo_collate(
                [steps(dict(img_path=str(path), img_id=0)) for _ in range(case.batch)]
            )
        with clock('pre-processing'):
            data = model.data_preprocessor(data, False)
        with clock('post-processing'), autocast(model, case):
            model(**data, mode='predict')

    return predict


def made_up_batch(model: Any, case: Case) -> dict[str, Any]:
    """Pictures of noise with ten objects of one class each, or a label map of noise."""
    shape = (3, case.height, case.width)
    if not hasattr(model, 'decode_head'):
        with quiet():
            from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            case.batch, shape, [10] * case.batch, 2, with_mask=getattr(model, 'with_mask', False)
        )
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(2, (1, *shape[1:]))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=shape[1:]))
    images = torch.randint(256, (case.batch, *shape), dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=[sample.clone() for _ in images])


def training(
    model: Any, case: Case, clock: Clock
) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    """From a batch to gradients, and the forward pass alone."""
    batch = made_up_batch(model, case)
    if hasattr(model, 'decode_head'):
        model.data_preprocessor.size = (case.height, case.width)  # else padded to the crop's

    @torch.enable_grad()
    def forward() -> Tensor:
        with clock('pre-processing'):
            data = model.data_preprocessor(batch, True)
        with clock('losses'), autocast(model, case):
            losses = model(**data, mode='loss')
            return model.parse_losses(losses)[0]

    def step() -> None:
        loss = forward()
        with clock('backward'):
            loss.backward()
        model.zero_grad()

    return step, forward


def sampler(run: Callable[[], Any], clock: Clock) -> Callable[[], dict[str, float]]:
    """Gives, when called, the median seconds of each part, after one run that does not count."""

    def sample() -> dict[str, float]:
        run()
        clock.read()
        found: list[dict[str, float]] = []
        start = timer()
        while not found or timer() - start < timing.REPEATED:
            run()
            found.append(clock.read())
        return {part: median(seconds[part] for seconds in found) for part in found[0]}

    return sample


def prepare(
    cfg: Config,
    weights: dict[str, Tensor] | None,
    source: str,
    first: Case,
    device: torch.device,
    folder: Path,
) -> tuple[float, Callable[[Case], tuple[Callable[[], dict[str, float]], dict[str, Any]]]]:
    """A model in its form, see `benchmark_cases.collect`.

    `source`: where the `weights` are from; `folder`: where pictures are put.
    """
    if first.dtype != 'float32':
        cfg = cfg.copy()
        use_float32_rois(cfg)
    began = timer()
    if is_file(first.network):
        exported.check_config(cfg, exported.content(first.network)['export'], first.network)
        model: Any = EffViMExportedModel(first.network)
        seconds = timer() - began
    else:
        model = assemble(cfg, first.network, weights, source)
        began = timer()
        model = form_of(model, first.form, device)
        seconds = timer() - began
        model.train(first.mode == 'train')
        set_mode(model.backbone, first.mode)
    clock = Clock()
    clock.watch(model)

    def start(case: Case) -> tuple[Callable[[], dict[str, float]], dict[str, Any]]:
        began = timer()
        if case.mode == 'train':
            run, forward = training(model, case, clock)
        else:
            run = predicting(model, cfg, case, picture(folder, case.height, case.width), clock)
        run()
        return sampler(run, clock), dict(
            first_s=timer() - began,
            macs=None if is_file(case.network) else macs(run),
            parameters=None if is_file(case.network) else parameters(model),
            peak_bytes=None if is_file(case.network) else timing.peak_bytes(run, device),
            saved_bytes=timing.saved_bytes(forward, model) if case.mode == 'train' else None,
        )

    return seconds, start


def is_file(name: str) -> bool:
    """Whether a case is a file of tools/export.py."""
    return name.endswith('.onnx')


def is_config(name: str) -> bool:
    """Whether a case is another config, with random weights."""
    return config_path(name).endswith('.py')


def expand(args: Namespace, device: torch.device) -> Iterator[list[Case]]:
    """The cases that the command line asks for; those of one model in one form together.

    An exported file has one form and one precision, of its own.

    Raises:
        UserError: an unknown backbone, form or size; a file without the checkpoint behind it.
    """
    for entry in args.cases:
        if is_file(entry):
            if not args.checkpoint or device.type != 'cpu':
                raise UserError(
                    f'{entry} is measured on a CPU, beside the checkpoint that it was '
                    f'made from: give that after the config'
                )
            own = Namespace(**{**vars(args), 'modes': ['forward'], 'dtypes': ['float32']})
            yield from cases_of(entry, 'plain', own)
            continue
        name, _, form = entry.partition(':')
        if not is_config(name):
            check_network(name, [OWN])
        yield from cases_of(name, parse_form(form or 'plain', device), args)


def measure(args: Namespace, device: torch.device) -> dict[str, Any]:
    """Run the cases of the command line; what the JSON holds of them.

    Raises:
        UserError: as `expand` and `settle`, no C++ compiler, or a baseline that is not among the
            cases.
    """
    from mmengine.registry import init_default_scope

    groups = list(expand(args, device))
    baseline = baseline_of(args.baseline, groups)
    cfg, weights = settle(args)
    others = {
        name: settle(Namespace(**{**vars(args), 'config': config_path(name), 'checkpoint': None}))[
            0
        ]
        for name in {group[0].network for group in groups}
        if is_config(name)
    }
    for each in others.values():
        if each.default_scope != cfg.default_scope:
            raise UserError(
                f'--cases: {each.filename} is no {cfg.default_scope} config as '
                f'{args.config}: measure it by itself'
            )
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    with (
        timing.compiling(any(compilation(group[0].form) for group in groups)),
        tempfile.TemporaryDirectory() as folder,
    ):
        ready = collect(
            groups,
            lambda case: prepare(
                others.get(case.network, cfg),
                None if case.network in others else weights,
                args.checkpoint,
                case,
                device,
                Path(folder),
            ),
        )
        found = timing.interleaved(ready.measures, args.rounds, args.seconds)
    return dict(
        kind='model',
        config=Path(args.config).name,
        weights='weights of a checkpoint, of other backbones random'
        if args.checkpoint
        else 'random weights, all scores counted',
        rounds=len(next(iter(found.values()))),
        baseline=baseline,
        cases=[
            summary(about, found[case], found.get(reference(case, baseline)))
            for case, about in ready.abouts.items()
        ],
        failed=ready.failed,
    )


def summary(
    about: dict[str, Any],
    rounds: list[dict[str, float]],
    baseline: list[dict[str, float]] | None,
) -> dict[str, Any]:
    """A case with its results, part by part."""
    seconds = {part: [each[part] for each in rounds] for part in rounds[0]}
    return dict(
        about,
        seconds=seconds,
        latency_s={part: timing.spread(values) for part, values in seconds.items()},
        ratio=baseline
        and {
            part: timing.ratio([each[part] for each in baseline], seconds[part])
            for part in ('network', 'total')
            if part in seconds
        },
    )
