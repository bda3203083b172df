"""Which configs can be exported whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbone.errors import UserError
from effvim.export.graph import EXPORTABLE, Dense, Queries, Segmentor, TwoStage

NMS = {'nms': {'iou_threshold'}, 'soft_nms': {'iou_threshold', 'sigma', 'min_score', 'method'}}


def check(model: Mapping[str, Any], size: Sequence[int] | None = None) -> None:
    """Check that the model of a config can be exported.

    Args:
        model: of the config.
        size: of the only images that the file takes; None for any size.

    Raises:
        UserError: its type, head or post-processing is not supported; names the key.
    """
    kind = model.get('type')
    if kind not in EXPORTABLE:
        raise UserError(
            f'model.type={kind!r} cannot be exported, only {", ".join(EXPORTABLE)}; add '
            f'--backbone-only to export the backbone of any other model'
        )
    exportable, test_cfg = EXPORTABLE[kind], model['test_cfg']
    if exportable is Segmentor and test_cfg.get('mode', 'whole') == 'slide' and not size:
        raise UserError(
            "model.test_cfg.mode='slide': the number of windows depends on the size of the image; "
            'add --size H W for a file that takes images of one size'
        )
    if exportable is Segmentor and model['decode_head'].get('out_channels') == 1:
        raise UserError(
            'model.decode_head.out_channels=1 cannot be exported, only heads with an output for '
            'each class; add --backbone-only to export the backbone'
        )
    if exportable is Queries:
        check_queries(model)
    for name in ('bbox_head', 'rpn_head'):
        if not model.get(name, {}).get('loss_cls', {}).get('use_sigmoid', True):
            raise UserError(
                f'model.{name}.loss_cls.use_sigmoid=False: only heads without a class for the '
                f'background can be exported'
            )
    if exportable is Dense:
        check_stage('model.test_cfg', test_cfg, has_choice=kind != 'YOLOX')
    elif exportable is TwoStage:
        check_stage('model.test_cfg.rpn', test_cfg['rpn'], has_choice=True)
        check_stage('model.test_cfg.rcnn', test_cfg['rcnn'], has_choice=False)


def check_fixed_size(model: Mapping[str, Any], out: str) -> None:
    """Check that the model of a config can be exported for images of one size, without NMS.

    Args:
        model: of the config; `check` has passed it.
        out: the file to write, for messages.

    Raises:
        UserError: its head or post-processing is not supported.
    """
    kind, test_cfg = model['type'], model['test_cfg']
    whole = 'export to *.onnx or *.xml, which hold it whole, or add --backbone-only'
    masks = model.get('bbox_head', {}).get('type', '').startswith('RTMDetIns')
    if EXPORTABLE[kind] not in (Dense, Segmentor) or masks:
        what = 'detectors with masks' if masks else kind
        raise UserError(
            f'--out {out}: this format takes segmentors and detectors with a box at every anchor '
            f'or point, not {what}: {whole}'
        )
    if test_cfg.get('nms', {}).get('type', 'nms') != 'nms':
        raise UserError(f"--out {out}: this format takes only NMS of type 'nms': {whole}")
    if test_cfg.get('mode', 'whole') == 'slide':
        raise UserError(
            f"--out {out}: this format takes no model.test_cfg.mode='slide': set it to 'whole', "
            f'or {whole}'
        )


def check_queries(model: Mapping[str, Any]) -> None:
    """Check what is special about the config of a detector with queries.

    Raises:
        UserError: it is a variant that cannot be exported.
    """
    if model.get('as_two_stage'):
        raise UserError('model.as_two_stage=True cannot be exported, only queries that are learned')
    divisor = model['data_preprocessor'].get('pad_size_divisor', 1)
    if divisor > 1:  # it would have to be told apart by masks in the attention
        raise UserError(
            f'model.data_preprocessor.pad_size_divisor={divisor}: {model["type"]} can only be '
            f'exported without padding, with 1'
        )


def check_stage(key: str, settings: Mapping[str, Any], has_choice: bool) -> None:
    """Check how boxes are selected.

    Args:
        key: where the settings are in the config.
        settings: e.g. `model.test_cfg`.
        has_choice: whether the highest-scoring boxes of each level are chosen first.

    Raises:
        UserError: they cannot be exported.
    """
    if has_choice and settings.get('nms_pre', -1) <= 0:
        raise UserError(f'{key}.nms_pre: a file needs the number of boxes to choose before NMS')
    nms = settings['nms']
    if (
        nms.keys() - {'type'} - NMS.get(nms.get('type', 'nms'), set())
        or nms.get('type', 'nms') not in NMS
    ):
        raise UserError(
            f'{key}.nms={dict(nms)} cannot be exported, only '
            + ' and '.join(f'type {name!r} with {", ".join(sorted(NMS[name]))}' for name in NMS)
        )
