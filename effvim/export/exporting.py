"""A checkpoint as an ONNX file, compared with PyTorch before it gets its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmengine.config import Config
from torch import Tensor, nn

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints import exported
from effvim.config.editing import parse_options, set_classes
from effvim.config.machine import fit_to_machine
from effvim.config.prepare import PreparedRun, check_data, prepare
from effvim.config.reading import import_plugins
from effvim.export import graph, onnx_file, parity, quantization
from effvim.export.settings import SMALLEST, ExportSettings
from effvim.files import ensure_writable, write_atomic
from effvim.images import IMAGE_SUFFIXES, is_hidden, read_image
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.preprocessing import Prepare

COMPARED = 8  # validation images to compare on
CALIBRATION = 128  # images at most, spread over the directory
SHOWN = 5  # differences
SHRINK = (1.0, 0.83, 0.61, 0.47)  # in turn, of the images for a file of any size


class ExportRejected(Exception):
    """The exported file differs from PyTorch, or lost too much in integers; it was not written."""


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    config: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    normalised: bool = False,
    backbone_only: bool = False,
    images: str | Path | None = None,
    int8: str | Path | None = None,
    data_root: str | Path | None = None,
    mini: bool = False,
    from_scratch: bool = False,
    work_dir: str | Path | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
) -> Path:
    """Export a checkpoint to an ONNX file, from the raw image to the final result.

    The file is run in onnxruntime and compared with PyTorch; it is written only if both agree.

    Examples:
        >>> import effvim
        >>> effvim.export_model('run/epoch_12.pth', 'model.onnx')  # doctest: +SKIP
        PosixPath('model.onnx')

    Args:
        checkpoint: the checkpoint.
        out: the file to write, *.onnx.
        config: path or name of a config (default: the one it was trained with).
        size: height and width of the only images that the file takes, one at a time (default: any
            number of images of any one size).
        normalised: the file takes float32 as the network does; channel order, mean, standard
            deviation and padding are left to the caller.
        backbone_only: the feature maps of the backbone instead of results.
        images: directory of images to compare on (default: the first validation images).
        int8: directory of images that calibrate 8-bit integers; the file is written if it loses
            at most 0.02 of mAP or mIoU on the test data.
        data_root: root directory of the dataset (default: as in training).
        mini: as in training; a checkpoint of this project knows it.
        from_scratch: as in training; a checkpoint of this project knows it.
        work_dir: working directory, in which `export/` holds the logs.
        options: overrides of the config, by dotted key or as 'KEY=VALUE' strings.

    Returns:
        `out`.

    Raises:
        UserError: a mistake in the arguments, the config, the data or the checkpoint.
        ExportRejected: the file would differ from PyTorch.
    """
    return run_export(
        ExportSettings(
            checkpoint=str(checkpoint),
            out=out,
            config=config,
            size=size,
            normalised=normalised,
            backbone_only=backbone_only,
            images=images,
            int8=int8,
            data_root=data_root,
            mini=mini,
            from_scratch=from_scratch,
            work_dir=work_dir,
            options=options if isinstance(options, Mapping) else parse_options(options),
        )
    )


def run_export(settings: ExportSettings) -> Path:
    """Export as `export_model` does.

    Raises:
        UserError: as `export_model`.
        ExportRejected: as `export_model`.
    """
    prepared = prepare_export(settings)
    cfg, spec = prepared.cfg, prepared.spec
    import_plugins(cfg)
    model, paths = trained_model(prepared, settings)
    images = [example_image(path, cfg, settings, i) for i, path in enumerate(paths)]
    kind = 'Backbone' if settings.backbone_only else cfg.model.type
    expected = parity.predict(model, images, kind)  # before it is folded
    content = onnx_file.write(
        model, cfg, spec, kind, settings.size, settings.normalised, settings.options
    )
    try:
        predicted = parity.predict(EffViMExportedModel(content), images, kind)
    except Exception as error:  # onnxruntime's have no type in common
        raise onnx_file.unsupported(cfg, error) from error
    outcome = parity.compare(kind, expected, predicted, exported.settings(cfg))
    console.say('\n  '.join([f'compared with PyTorch on {len(images)} images:', *outcome.lines]))
    if outcome.faults:
        raise ExportRejected(
            '\n  '.join(
                [
                    f'{settings.out} is not written, it would differ from {settings.checkpoint}:',
                    *outcome.faults[:SHOWN],
                ]
            )
        )
    if settings.int8:
        content = in_integers(content, prepared, settings)
    write_atomic(settings.out, content)
    console.say(f'exported: {settings.out}, {len(content) / 2**20:.1f} MiB')
    return Path(settings.out)


def prepare_export(settings: ExportSettings) -> PreparedRun:
    """Read and check everything that an export needs, without importing mmdet.

    Raises:
        UserError: as `export_model`.
    """
    onnx_file.require()
    settings.check()
    for flag, folder in (('--images', settings.images), ('--int8', settings.int8)):
        if folder:
            images_in(folder, flag)
    prepared = prepare(
        settings.config,
        settings.asked(),
        ckpt.LoadedCheckpoint(settings.checkpoint, ckpt.read(settings.checkpoint)),
        check=None if settings.backbone_only else lambda cfg: graph.check(cfg.model),
    )
    cfg = prepared.cfg
    channels = cfg.model.backbone.get('in_channels', 3)
    if channels not in (1, 3):
        raise UserError(
            f'model.backbone.in_channels={channels}: an export is compared with PyTorch on images '
            f'of 3 channels, or of 1: use torch.onnx.export on the model'
        )
    divisor = exported.preparation(cfg.model.data_preprocessor)['divisor']
    if settings.normalised and settings.size and any(side % divisor for side in settings.size):
        raise UserError(
            f'--size {settings.size[0]} {settings.size[1]}: with --normalised images come padded, '
            f'to multiples of {divisor}'
        )
    if settings.images and prepared.spec.classes and not settings.int8:  # no dataset is needed
        set_classes(cfg, prepared.spec.classes)
    else:
        check_data(prepared, ['test_dataloader'])
    ensure_writable(Path(settings.out).parent, '--out')
    folder = prepared.work_directory(settings.work_dir) / 'export'
    cfg.work_dir = str(ensure_writable(folder, '--work-dir'))
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    fit_to_machine(cfg)
    return prepared


def trained_model(prepared: PreparedRun, settings: ExportSettings) -> tuple[Any, list[str]]:
    """Build and load the model on the CPU; also paths of images to compare on.

    Raises:
        UserError: the checkpoint does not fit, or there are no images.
    """
    from effvim.engine.runner import Runner

    running = Runner(prepared.cfg, prepared.spec)
    running.load_checkpoint(settings.checkpoint)
    if settings.images:
        paths = images_in(settings.images, '--images')
    else:
        data = running.test_dataloader.dataset
        paths = [data.get_data_info(i)['img_path'] for i in range(min(COMPARED, len(data)))]
    return running.model.cpu().eval(), paths


def images_in(folder: str | Path, flag: str) -> list[str]:
    """Paths of the images in a directory.

    Raises:
        UserError: there are none; names the flag.
    """
    paths = [
        str(path)
        for path in sorted(Path(folder).glob('*'))
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)
    ]
    if not paths:
        raise UserError(f'{flag} {folder}: no {", ".join(IMAGE_SUFFIXES)} in this directory')
    return paths


def in_integers(content: bytes, prepared: PreparedRun, settings: ExportSettings) -> bytes:
    """The file in 8-bit integers.

    Raises:
        ExportRejected: it loses more than `quantization.LOSS` of mAP or mIoU.
    """
    cfg, spec = prepared.cfg, prepared.spec
    assert settings.int8
    preprocess: nn.Module = nn.Identity()
    if settings.normalised:
        preprocess = Prepare(**exported.preparation(cfg.model.data_preprocessor))
    paths = images_in(settings.int8, '--int8')
    paths = paths[:: -(-len(paths) // CALIBRATION)]
    images = [example_image(path, cfg, settings, i) for i, path in enumerate(paths)]
    integers, in_float = quantization.quantise(content, images, preprocess)
    layers = Counter(name.rpartition('/')[0] for name in in_float)
    console.say(
        '\n  '.join(
            [
                'products that stay in float32:',
                *(f'{layer}: {count}' for layer, count in layers.items()),
            ]
        )
    )
    before = quantization.measured(cfg, spec, content)
    after = quantization.measured(cfg, spec, integers)
    losses = quantization.losses(before, after)
    for name in losses:
        console.say(f'{name}: {before[name]:.4f} in float32, {after[name]:.4f} in integers')
    worst = max(losses.values())
    if worst > quantization.LOSS:
        raise ExportRejected(
            f'{settings.out} is not written: in integers it loses {worst:.4f} of 1, more than '
            f'{quantization.LOSS}'
        )
    return integers


def example_image(path: str, cfg: Config, settings: ExportSettings, number: int) -> Tensor:
    """An image, 3 H W, as OpenCV reads it, at a size to compare at.

    That of the file if it takes only one; else about the size of the test, by number.

    Raises:
        UserError: it cannot be read.
    """
    image = read_image(path)[..., ::-1]
    if settings.size:
        height, width = settings.size
    else:
        scales = [step.scale for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
        if scales:
            image = mmcv.imrescale(image, tuple(scales[0]))
        shrink = SHRINK[number % len(SHRINK)]
        height, width = (max(SMALLEST, round(side * shrink)) for side in image.shape[:2])
    if settings.normalised:  # boxes end where the file's image does, padding included
        divisor = exported.preparation(cfg.model.data_preprocessor)['divisor']
        height, width = (side + -side % divisor for side in (height, width))
    image = mmcv.imresize(image, (width, height))
    if cfg.model.backbone.get('in_channels', 3) == 1:
        image = mmcv.bgr2gray(image, keepdim=True)
    return torch.from_numpy(image).permute(2, 0, 1)
