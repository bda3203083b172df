"""A checkpoint as a file for another runtime, compared with PyTorch before it gets its name."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints import exported
from effvim.config.editing import apply_options, parse_options, set_classes
from effvim.config.machine import fit_to_machine
from effvim.config.packaged import published_or_given
from effvim.config.prepare import PreparedRun, check_data, prepare
from effvim.config.reading import import_plugins
from effvim.export import (
    fixed_size,
    onnx_file,
    openvino_file,
    quantization,
    sizes,
    supported,
    tensorrt_file,
)
from effvim.export.acceptance import Comparison, ExportRejected, example_image, smallest
from effvim.export.keeping import keep_files
from effvim.export.metadata import metadata
from effvim.export.settings import ExportSettings
from effvim.files import ensure_writable
from effvim.images import IMAGE_SUFFIXES, is_hidden
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.preprocessing import Prepare
from effvim.inference.runtimes import last_line

COMPARED = 8  # validation images to compare on
CALIBRATION = 128  # images at most, spread over the directory; so many of --images, too


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
    import_plugins(prepared.cfg)
    model, paths = trained_model(prepared, settings)
    kind = 'Backbone' if settings.backbone_only else prepared.cfg.model.type
    comparison = Comparison(model, paths, kind, prepared.cfg, settings)  # before it is folded
    out, write = Path(settings.out), one_size if settings.is_fixed_size else any_size
    with tempfile.TemporaryDirectory() as folder:
        size = keep_files(write(model, prepared, comparison, Path(folder)), out)
    console.say(f'exported: {out}, {size / 2**20:.1f} MiB')
    if settings.runtime == 'coreml':
        console.say('not verified: Core ML runs on a Mac only; compare its results there')
    if settings.runtime == 'tensorrt':
        console.say(
            f'not verified in TensorRT, latency not measured; on the machine with the GPU:\n'
            f'  {tensorrt_file.command(out)}'
        )
    return out


def any_size(model: Any, prepared: PreparedRun, comparison: Comparison, folder: Path) -> Path:
    """Write and check a file for onnxruntime or OpenVINO.

    Args:
        model: of mmdet or mmseg, which is folded.
        prepared: the config and the run.
        comparison: with the model.
        folder: in which files are tried.

    Raises:
        UserError: the model cannot be exported, or the runtime cannot run the file.
        ExportRejected: the file differs from the model.
    """
    settings, cfg = comparison.settings, prepared.cfg
    content = onnx_file.write(
        model,
        cfg,
        prepared.spec,
        comparison.kind,
        settings.size,
        settings.normalised,
        settings.options,
        settings.runtime,
    )
    path = folder / Path(settings.out).name
    if settings.runtime == 'openvino':
        try:
            converted = openvino_file.read(content)
        except RuntimeError as error:
            raise onnx_file.unsupported(cfg, RuntimeError(last_line(error))) from error

        def make(file: Path, half_size: bool) -> None:
            openvino_file.write(converted, file, half_size)
            comparison.check_file(file, half_size)

        path = smallest(make, path, (False, True))
    else:
        path.write_bytes(content)
        comparison.check_file(path)
    return in_integers(content, path, prepared, settings) if settings.int8 else path


def one_size(model: Any, prepared: PreparedRun, comparison: Comparison, folder: Path) -> Path:
    """Write and check a file for one of the other runtimes; arguments as of `any_size`.

    Raises:
        UserError: as `any_size`.
        ExportRejected: as `any_size`.
    """
    settings, cfg, kind = comparison.settings, prepared.cfg, comparison.kind
    runtime = settings.runtime
    assert settings.size
    given = settings.size, settings.normalised
    network, example = fixed_size.build(model, cfg, kind, *given, runtime)
    about = metadata(cfg, prepared.spec, kind, *given, settings.options)
    about = fixed_size.extended(about, network, cfg, runtime)
    if runtime == 'coreml':
        in_pytorch = EffViMExportedModel.around(fixed_size.InPyTorch(network), about)
        comparison.check(in_pytorch, 'before its conversion, compared with PyTorch')

    def make(file: Path, half_size: bool) -> None:
        fixed_size.write(network, example, file, about, cfg, runtime, half_size)
        if runtime != 'coreml':
            comparison.check_file(file, half_size)
        if runtime == 'tensorrt' and half_size:  # of which onnxruntime rounds only the weights
            rounding = EffViMExportedModel.around(tensorrt_file.Rounding(file), about)
            comparison.check(rounding, 'rounded after each layer, compared with PyTorch', True)

    return smallest(make, folder / Path(settings.out).name, fixed_size.WRITERS[runtime].HALF_SIZE)


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
        settings.size = sizes.size_of(cfg.test_dataloader.dataset.pipeline, str(settings.out))
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
    if settings.size and not settings.backbone_only:
        fit_images(prepared, settings)
    return prepared


def fit_images(prepared: PreparedRun, settings: ExportSettings) -> None:
    """Make the test pipeline resize images to what fits into the file, as an option of the export.

    Args:
        prepared: changed in place.
        settings: changed in place; with `size`.
    """
    assert settings.size
    prefix = 'test_dataloader.dataset.pipeline'
    changes = sizes.fitting_options(prepared.cfg.test_dataloader.dataset.pipeline, settings.size)
    options: dict[str, Any] = {f'{prefix}.{key}': value for key, value in changes.items()}
    apply_options(prepared.cfg, options)
    for key, (width, height) in options.items():
        console.note(f'--size {settings.size[0]} {settings.size[1]}: {key}=({width},{height})')
    if options and prefix in prepared.spec.options:  # the pipeline as a whole, changed
        options = {prefix: prepared.cfg.to_dict()['test_dataloader']['dataset']['pipeline']}
    # last, since a later option replaces an earlier one
    others = {key: value for key, value in prepared.spec.options.items() if key not in options}
    prepared.spec.options = {**others, **options}
    settings.options = {**settings.options, **options}


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
        sizes.size_of(cfg.test_dataloader.dataset.pipeline, str(settings.out))


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
        paths = paths[:: -(-len(paths) // CALIBRATION)]
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
    if not all(before[name] >= 0 for name in losses):  # -1 or NaN: nothing was measured
        raise ExportRejected(
            f'{settings.out} is not written: the validation set has nothing to measure its loss by'
        )
    worst = max(losses.values())
    if not worst <= quantization.LOSS:
        raise ExportRejected(
            f'{settings.out} is not written: in integers it loses {worst:.4f} of 1, more than '
            f'{quantization.LOSS}'
        )
    return integers
