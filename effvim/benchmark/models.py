"""Benchmark of whole detectors and segmentors, stage by stage."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.utils.benchmark import timer

from backbone.errors import UserError
from effvim.benchmark import timing
from effvim.benchmark.backbones import build, set_mode
from effvim.benchmark.cases import (
    CHANNELS_LAST,
    FUSED,
    INT8,
    Case,
    baseline_case,
    baseline_of,
    cases_of,
    check_network,
    compile_arguments,
    parse_form,
    run_once,
)
from effvim.benchmark.counting import count_macs, count_parameters
from effvim.benchmark.settings import ModelBenchmark
from effvim.benchmark.stages import StageClock, stage_sampler
from effvim.checkpoints import checkpoint, exported
from effvim.checkpoints.kinds import is_exported
from effvim.config.editing import parse_options, set_classes
from effvim.config.packaged import config_path
from effvim.config.precision import use_float32_rois
from effvim.config.prepare import prepare
from effvim.config.reading import import_plugins
from effvim.config.run_spec import RunSpec
from effvim.config.runtime import RUNTIMES, RuntimeChoices
from effvim.config.validation import maps_of
from effvim.console import quiet
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.folding import fuse

OWN = 'own'  # in the place of a timm name: the config's own backbone


class TimmBackbone(nn.Module):
    """A network of timm in the place of a config's backbone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network: Any = build(name)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x))


@dataclasses.dataclass
class Source:
    """What a model is built from.

    Attributes:
        cfg: its config.
        weights: state dict of the checkpoint, None for random weights.
        path: of the checkpoint, for messages.
    """

    cfg: Config
    weights: dict[str, Tensor] | None = None
    path: str | None = None


def read_source(settings: ModelBenchmark) -> Source:
    """Read the config and the checkpoint.

    Without a checkpoint the score threshold becomes 0: scores of random weights are low, and
    post-processing then handles as many boxes as the test settings allow.

    Raises:
        UserError: a mistake in the config, the options or the checkpoint.
    """
    asked = RunSpec.asked(settings.config, options=parse_options(list(settings.options)))
    loaded = checkpoint.load(settings.checkpoint) if settings.checkpoint else None
    if loaded and loaded.export:
        raise UserError(
            f'{settings.checkpoint} is an exported file: pass its config or checkpoint, and the '
            f'file as a case: --cases own {settings.checkpoint}'
        )
    prepared = prepare(settings.config, asked, loaded, draw=False)
    cfg = prepared.cfg
    if loaded:
        if prepared.spec.classes:
            set_classes(cfg, prepared.spec.classes)
        return Source(cfg, loaded.content['state_dict'], settings.checkpoint)
    test_cfg = cfg.model.get('test_cfg', {})
    for thresholds in (test_cfg, test_cfg.get('rcnn', {})):
        if 'score_thr' in thresholds:
            thresholds.score_thr = 0.0
    return Source(cfg)


def assemble(source: Source, name: str) -> Any:
    """The model of a source in evaluation mode, with the named backbone.

    Args:
        source: see `Source`; its weights are loaded unless the backbone is replaced.
        name: 'own' or the config's name for the config's own backbone, else a name of timm's.

    Raises:
        UserError: the backbone's maps have other strides than the config's, or other channels and
            the config has no neck; or the weights do not fit.
    """
    from mmengine.registry import MODELS

    cfg = source.cfg.copy()
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    if name == OWN or is_config(name):
        model = MODELS.build(cfg.model)
        try:
            model.load_state_dict(model.state_dict() if source.weights is None else source.weights)
        except RuntimeError as error:
            raise UserError(f'{source.path} does not fit the config: {error}') from error
        return model.eval()
    backbone = TimmBackbone(name)
    own = maps_of(cfg.model.backbone)
    strides = backbone.network.feature_info.reduction()
    needed = [info.stride for info in own]
    if strides != needed:
        known = ', e.g. efficientvim_m4 or shvit_s4' if needed == [16, 32, 64] else ''
        raise UserError(
            f'{name} returns maps of strides {strides}, the config needs {needed}: use a network '
            f'with these strides{known}'
        )
    channels, own_channels = backbone.network.feature_info.channels(), [m.channels for m in own]
    if cfg.model.get('neck'):
        cfg.model.neck.in_channels = channels
    elif channels != own_channels:
        raise UserError(
            f'{name} returns maps of {channels} channels, the config needs {own_channels}, since '
            f'it has no neck: use a network with these channels, or a config with a neck'
        )
    model = MODELS.build(cfg.model)
    model.backbone = backbone
    return model.eval()


def apply_form(model: Any, form: str, device: torch.device) -> Any:
    """Bring the model into a form; only its backbone is compiled."""
    if FUSED in form:
        if isinstance(model.backbone, TimmBackbone):
            reparameterize_model(model.backbone, inplace=True)
        else:
            fuse(model)
    model.to(device)
    if CHANNELS_LAST in form:
        model.to(memory_format=torch.channels_last)
    arguments = compile_arguments(form)
    if arguments is not None:
        model.backbone = torch.compile(model.backbone, **arguments)
    return model


def write_image(directory: Path, height: int, width: int) -> Path:
    """Write a random JPEG of that aspect ratio, with a short side of 480 pixels as COCO's."""
    scale = 480 / min(height, width)
    size = round(width * scale), round(height * scale)
    coarse = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path = directory / f'{height}x{width}.jpg'
    Image.fromarray(coarse).resize(size).save(path, quality=90)
    return path


def build_pipeline(cfg: Config, height: int, width: int) -> Callable[[dict[str, Any]], Any]:
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
    """Autocast to the precision of a case; disabled for float32."""
    dtype = timing.DTYPES[case.dtype]
    device = next(model.parameters(), torch.empty(0)).device.type  # an exported file has none
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def make_prediction(
    model: Any, cfg: Config, case: Case, image: Path, clock: StageClock
) -> Callable[[], None]:
    """A function that predicts the image file, from loading to results."""
    from mmengine.dataset import pseudo_collate

    pipeline = build_pipeline(cfg, case.height, case.width)

    @torch.inference_mode()
    def predict() -> None:
        with clock('loading'):
            data = pseudo_collate(
                [pipeline(dict(img_path=str(image), img_id=0)) for _ in range(case.batch)]
            )
        with clock('pre-processing'):
            data = model.data_preprocessor(data, False)
        with clock('post-processing'), autocast(model, case):
            model(**data, mode='predict')

    return predict


def random_batch(model: Any, case: Case) -> dict[str, Any]:
    """Random images with ten objects of one class each, or with a random label map."""
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


def make_training_step(
    model: Any, case: Case, clock: StageClock
) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    """A function from a batch to gradients, and one for its forward pass alone."""
    batch = random_batch(model, case)
    if hasattr(model, 'decode_head'):
        model.data_preprocessor.size = (case.height, case.width)  # else padded to the crop size

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


def prepare_model(
    source: Source, first: Case, device: torch.device, directory: Path
) -> tuple[float, Callable[[Case], tuple[Callable[[], dict[str, float]], dict[str, Any]]]]:
    """Bring the model of a case into its form, see `cases.run_once`.

    Args:
        source: what the model is built from.
        first: the case.
        device: where the model runs.
        directory: where test images are written.
    """
    if first.dtype != 'float32' and not is_exported(first.network):
        source = dataclasses.replace(source, cfg=source.cfg.copy())
        use_float32_rois(source.cfg)
    began = timer()
    if is_exported(first.network):
        exported.check_config(source.cfg, exported.content(first.network)['export'], first.network)
        precision = first.dtype if first.form == 'openvino' else None
        model: Any = EffViMExportedModel(first.network, runtime=first.form, precision=precision)
        seconds = timer() - began
    else:
        model = assemble(source, first.network)
        began = timer()
        model = apply_form(model, first.form, device)
        seconds = timer() - began
        model.train(first.mode == 'train')
        set_mode(model.backbone, first.mode)
    clock = StageClock()
    clock.watch(model)

    def start(case: Case) -> tuple[Callable[[], dict[str, float]], dict[str, Any]]:
        began = timer()
        if case.mode == 'train':
            run, forward = make_training_step(model, case, clock)
        else:
            image = write_image(directory, case.height, case.width)
            run = make_prediction(model, source.cfg, case, image, clock)
        run()
        countable = not is_exported(case.network)
        passes, counted = (3, forward) if case.mode == 'train' else (1, run)  # as `macs_of` does
        return stage_sampler(run, clock), dict(
            first_s=timer() - began,
            macs=passes * count_macs(counted) if countable else None,
            parameters=count_parameters(model) if countable else None,
            peak_bytes=timing.peak_bytes(run, device) if countable else None,
            saved_bytes=timing.saved_bytes(forward, model) if case.mode == 'train' else None,
        )

    return seconds, start


def is_config(name: str) -> bool:
    """Whether a case is another config, which is measured with random weights."""
    return config_path(name).endswith('.py')


def expand(settings: ModelBenchmark, device: torch.device) -> Iterator[list[Case]]:
    """The cases of the settings, in groups of one model in one form.

    Each of `settings.cases` is NAME or NAME:FORM, where NAME is 'own' (the config's backbone), a
    name of timm's (in the place of that backbone) or another config; or an exported file, whose
    form is the runtime that it is run in.

    Raises:
        UserError: an unknown backbone, form or size; a file without its checkpoint.
    """
    for entry in settings.cases:
        file, _, runtime = entry.rpartition(':')
        if is_exported(entry):
            file, runtime = entry, RuntimeChoices().runtime_of(entry)
        if is_exported(file):
            if not settings.checkpoint or device.type != 'cpu':
                raise UserError(
                    f'{entry} is measured on a CPU and compared with its checkpoint: add --device '
                    f'cpu, and after the config the checkpoint that it was exported from'
                )
            RuntimeChoices(runtime=runtime).check(file)
            fixed = dataclasses.replace(settings, modes=['forward'])
            yield from cases_of(file, runtime, fixed)
            continue
        name, _, form = entry.partition(':')
        if form in RUNTIMES:
            raise UserError(
                f'{entry}: a whole model is exported first, with effvim export: pass the file '
                f'as a case'
            )
        if not is_config(name):
            check_network(name, [OWN])
        yield from cases_of(name, parse_form(form or 'plain', device), settings)


def measure(settings: ModelBenchmark, device: torch.device) -> dict[str, Any]:
    """Run the benchmark; returns the content of its JSON file.

    Raises:
        UserError: as `expand` and `read_source`, no C++ compiler, or a baseline that is not among
            the cases.
    """
    from mmengine.registry import init_default_scope

    if INT8 in settings.dtypes:
        raise UserError(
            f'--dtypes {INT8} is for backbones; of a whole model pass the file that effvim export '
            f'--int8 wrote as a case'
        )
    groups = list(expand(settings, device))
    baseline = baseline_of(settings.baseline, groups)
    main = read_source(settings)
    others = {
        name: read_source(dataclasses.replace(settings, config=config_path(name), checkpoint=None))
        for name in {group[0].network for group in groups}
        if is_config(name)
    }
    for other in others.values():
        if other.cfg.default_scope != main.cfg.default_scope:
            raise UserError(
                f'--cases: {other.cfg.filename} is not a {main.cfg.default_scope} config like '
                f'{main.cfg.filename}: measure it in a run of its own'
            )
    import_plugins(main.cfg)
    init_default_scope(main.cfg.default_scope)
    with (
        timing.compiling(any(compile_arguments(group[0].form) for group in groups)),
        tempfile.TemporaryDirectory() as directory,
    ):
        runs = run_once(
            groups,
            lambda case: prepare_model(
                others.get(case.network, main), case, device, Path(directory)
            ),
        )
        rounds = timing.interleave(runs.samplers, settings.rounds, settings.seconds)
    return dict(
        kind='model',
        config=Path(main.cfg.filename).name,
        weights='weights of a checkpoint (other backbones: randomly initialised)'
        if settings.checkpoint
        else 'randomly initialised, all scores counted',
        rounds=len(next(iter(rounds.values()))),
        baseline=baseline,
        cases=[
            summarize(record, rounds[case], rounds.get(baseline_case(case, baseline)))
            for case, record in runs.records.items()
        ],
        failed=runs.failed,
    )


def summarize(
    record: dict[str, Any],
    rounds: list[dict[str, float]],
    baseline: list[dict[str, float]] | None,
) -> dict[str, Any]:
    """The record of a case with its results by stage; `rounds`: seconds by stage, in each round."""
    seconds = {stage: [each[stage] for each in rounds] for stage in rounds[0]}
    return dict(
        record,
        seconds=seconds,
        latency_s={stage: timing.spread(values) for stage, values in seconds.items()},
        ratio=baseline
        and {
            stage: timing.ratio([each[stage] for each in baseline], seconds[stage])
            for stage in ('network', 'total')
            if stage in seconds
        },
    )
