"""A checkpoint as a file for another runtime, compared with PyTorch before it gets its name."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from effvim.checkpoints.kinds import weights_of
from effvim.config.editing import parse_options, set_classes
from effvim.config.machine import fit_to_machine
from effvim.config.packaged import published_or_given
from effvim.config.prepare import PreparedRun, check_data, prepare
from effvim.config.reading import import_plugins
from effvim.config.structure import pair
from effvim.export import (
    fixed_size,
    onnx_file,
    openvino_file,
    parity,
    quantization,
    supported,
    tensorrt_file,
)
from effvim.export.settings import SMALLEST, ExportSettings
from effvim.files import atomic_directory, ensure_writable, write_atomic
from effvim.images import IMAGE_SUFFIXES, is_hidden, read_image
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.preprocessing import Prepare
from effvim.inference.runtimes import last_line

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
    """Export a checkpoint for onnxruntime or OpenVINO, from the raw image to the final result.

    The file is run there and compared with PyTorch; it is written only if both agree.

    Examples:
        >>> import effvim
        >>> effvim.export_model('run/epoch_12.pth', 'model.onnx')  # doctest: +SKIP
        PosixPath('model.onnx')

    Args:
        checkpoint: the checkpoint; the name of a packaged config means its published weights,
            which are downloaded once.
        out: the file to write: *.onnx, or *.xml for OpenVINO, with its weights in *.bin next to it;
            or for images of one size and without NMS *.ncnn.param, *.tflite, *.pte, *.mlpackage or
            *.trt.onnx, see docs/deployment.md.
        config: path or name of a config (default: the one it was trained with).
        size: height and width of the only images that the file takes, one at a time (default: any
            number of images of any one size; where a format takes only one size, that which the
            config gives to all images).
        normalised: the file takes float32 as the network does; channel order, mean, standard
            deviation and padding are left to the caller.
        backbone_only: the feature maps of the backbone instead of results.
        images: directory of images to compare on (default: the first validation images).
        int8: directory of images that calibrate 8-bit integers; the file is written if it loses
            at most 0.02 of mAP or 2 points of mIoU on the test data.
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
    out, content = Path(settings.out), b''
    if not settings.is_fixed_size:
        content = onnx_file.write(
            model,
            cfg,
            spec,
            kind,
            settings.size,
            settings.normalised,
            settings.options,
            settings.runtime,
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / out.name

        def compare(file: Path, half_size: bool = False) -> None:
            what = 'with weights of half size, ' * half_size + 'compared with PyTorch'
            try:
                predicted = parity.predict(EffViMExportedModel(str(file)), images, kind)
            except UserError as error:  # of the runtime, about a file that gets another name
                raise UserError(str(error).replace(str(file), str(out))) from error
            except Exception as error:  # those of the runtimes have no type in common
                raise onnx_file.unsupported(cfg, error) from error
            accept(predicted, what, half_size)

        def accept(predicted: list[Any], what: str, half_size: bool = False) -> None:
            slack = parity.HALF_SIZE if half_size else 1
            tolerated = parity.HALF_SIZE_FAULTS if half_size else 0.0
            outcome = parity.compare(kind, expected, predicted, exported.settings(cfg), slack)
            console.say('\n  '.join([f'{what} on {len(images)} images:', *outcome.lines]))
            if outcome.faults and tolerated:
                console.say(f'  {len(outcome.faults)} differences that are larger')
            if len(outcome.faults) > tolerated * outcome.boxes:
                reason = f'{out} is not written, it would differ from {settings.checkpoint}:'
                raise ExportRejected('\n  '.join([reason, *outcome.faults[:SHOWN]]))

        if settings.is_fixed_size:
            assert settings.size
            given = settings.size, settings.normalised
            network, example = fixed_size.build(model, cfg, kind, *given, settings.runtime)
            about = onnx_file.metadata(cfg, spec, kind, *given, settings.options)
            about = fixed_size.extended(about, network, cfg, settings.runtime)
            if settings.runtime == 'coreml':
                in_pytorch = EffViMExportedModel.around(fixed_size.InPyTorch(network), about)
                predicted = parity.predict(in_pytorch, images, kind)
                accept(predicted, 'before its conversion, compared with PyTorch')

            def make(half_size: bool) -> Path:
                file = Path(directory) / ('half_size' if half_size else 'full_size') / out.name
                file.parent.mkdir()
                fixed_size.write(network, example, file, about, cfg, settings.runtime, half_size)
                if settings.runtime != 'coreml':
                    compare(file, half_size)
                if settings.runtime == 'tensorrt' and half_size:
                    # onnxruntime rounds only the weights
                    rounding = EffViMExportedModel.around(tensorrt_file.Rounding(file), about)
                    predicted = parity.predict(rounding, images, kind)
                    accept(predicted, 'rounded after each layer, compared with PyTorch', True)
                return file

            path = smallest(make, fixed_size.WRITERS[settings.runtime].HALF_SIZE)
        elif settings.runtime == 'openvino':
            try:
                converted = openvino_file.read(content)
            except RuntimeError as error:
                raise onnx_file.unsupported(cfg, RuntimeError(last_line(error))) from error

            def make(half_size: bool) -> Path:
                file = Path(directory) / ('half_size' if half_size else 'full_size') / out.name
                file.parent.mkdir()
                openvino_file.write(converted, file, half_size)
                compare(file, half_size)
                return file

            path = smallest(make, (False, True))
        else:
            path.write_bytes(content)
            compare(path)
        if settings.int8:
            path = in_integers(content, path, prepared, settings)
        size = keep_files(path, out)
    console.say(f'exported: {out}, {size / 2**20:.1f} MiB')
    if settings.runtime == 'coreml':
        console.say('not verified: Core ML runs on a Mac only; compare its results there')
    if settings.runtime == 'tensorrt':
        console.say(
            f'not verified in TensorRT, latency not measured; on the machine with the GPU:\n'
            f'  {tensorrt_file.command(out)}'
        )
    return out


def smallest(make: Callable[[bool], Path], sizes: Sequence[bool]) -> Path:
    """The file with weights of half size; where it is rejected, that with weights of full size.

    Args:
        make: writes and compares a file, with weights of half size or not.
        sizes: what it is called with, in this order.

    Raises:
        ExportRejected: no file is accepted.
    """
    made: Path | None = None
    for half_size in sizes:
        try:
            made = make(half_size)
        except ExportRejected:
            if made is None:
                raise
            console.note('weights of half size change the results too much: they stay in full size')
    assert made
    return made


def keep_files(made: Path, out: Path) -> int:
    """Write an exported file, and those that belong to it, to their place; returns the size.

    Raises:
        UserError: they cannot be written, e.g. on a full disk; new files are removed again.
    """
    if made.is_dir():
        return keep_folder(made, out)
    parts = {weights_of(str(out)): weights_of(str(made))}
    if Path(f'{made}.json').exists():
        parts[Path(f'{out}.json')] = Path(f'{made}.json')
    # last: without the others it is worth nothing
    parts.pop(out, None)
    parts[out] = made
    contents = {target: source.read_bytes() for target, source in parts.items()}
    new = [target for target in contents if not target.exists()]
    try:
        for target, content in contents.items():
            write_atomic(target, content)
    except OSError as error:
        for target in new:
            target.unlink(missing_ok=True)
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    return sum(map(len, contents.values()))


def keep_folder(made: Path, out: Path) -> int:
    """Write a package of Core ML, a directory, to its place; returns the size of its files.

    Raises:
        UserError: it cannot be written, e.g. on a full disk; what was there stays.
    """
    try:
        with atomic_directory(out, lambda: False) as folder:
            shutil.copytree(made, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    except OSError as error:  # shutil's have no strerror
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    return sum(path.stat().st_size for path in out.rglob('*') if path.is_file())


def require_packages(settings: ExportSettings) -> None:
    """Check that the packages that write and run the file are installed.

    Raises:
        UserError: one is not.
    """
    if settings.is_fixed_size:
        fixed_size.WRITERS[settings.runtime].require()
    else:
        onnx_file.require()
    if settings.runtime == 'openvino':
        openvino_file.require(integers=bool(settings.int8))


def prepare_export(settings: ExportSettings) -> PreparedRun:
    """Read and check everything that an export needs, without importing mmdet.

    Raises:
        UserError: as `export_model`.
    """
    settings.check()
    require_packages(settings)
    for flag, folder in (('--images', settings.images), ('--int8', settings.int8)):
        if folder:
            images_in(folder, flag)
    given = settings.checkpoint, settings.config
    settings.checkpoint, settings.config = published_or_given(*given)
    prepared = prepare(
        settings.config,
        settings.asked(),
        ckpt.LoadedCheckpoint(settings.checkpoint, ckpt.read(settings.checkpoint)),
        check=lambda cfg: check_model(cfg, settings),
    )
    cfg = prepared.cfg
    if settings.is_fixed_size and not settings.size:
        settings.size = supported.size_of(cfg.test_dataloader.dataset.pipeline, str(settings.out))
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


def check_model(cfg: Config, settings: ExportSettings) -> None:
    """Check that the model of a config can be exported as it is asked for.

    Raises:
        UserError: it cannot; names the key.
    """
    if not settings.backbone_only:
        supported.check(cfg.model, settings.size)
        if settings.is_fixed_size:
            supported.check_fixed_size(cfg.model, str(settings.out))
    if settings.is_fixed_size and not settings.size:
        supported.size_of(cfg.test_dataloader.dataset.pipeline, str(settings.out))


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


def in_integers(
    content: bytes, path: Path, prepared: PreparedRun, settings: ExportSettings
) -> Path:
    """Write the file in 8-bit integers, and return its path.

    Args:
        content: the graph as an ONNX file.
        path: the file in float32; the new one is put next to it.
        prepared: the config and the run.
        settings: of the export.

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
    images = [example_image(path, cfg, settings, 0) for path in paths]  # as large as in the test
    integers = path.parent / 'int8' / path.name
    integers.parent.mkdir()
    if settings.runtime == 'openvino':
        quantised, in_float = openvino_file.quantise(
            openvino_file.read(content), images, preprocess
        )
        openvino_file.write(quantised, integers)
    else:
        content, in_float = quantization.quantise(content, images, preprocess)
        integers.write_bytes(content)
    layers = Counter(name.rpartition('/')[0] for name in in_float)
    console.say(
        '\n  '.join(
            [
                'products that stay in float32:',
                *(f'{layer}: {count}' for layer, count in layers.items()),
            ]
        )
    )
    before = quantization.measured(cfg, spec, path)
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
            image = mmcv.imrescale(image, pair(scales[0]))
        shrink = SHRINK[number % len(SHRINK)]
        height, width = (max(SMALLEST, round(side * shrink)) for side in image.shape[:2])
    if settings.normalised:  # boxes end where the file's image does, padding included
        divisor = exported.preparation(cfg.model.data_preprocessor)['divisor']
        height, width = (side + -side % divisor for side in (height, width))
    image = mmcv.imresize(image, (width, height))
    if cfg.model.backbone.get('in_channels', 3) == 1:
        image = mmcv.bgr2gray(image, keepdim=True)
    return torch.from_numpy(image).permute(2, 0, 1)
