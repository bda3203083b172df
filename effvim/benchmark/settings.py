"""The settings of each benchmark. Imports neither PyTorch nor timm, so that `--help` is instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# FORM of a network, see `cases.parse_form`.
FORMS = (
    'plain',
    'channels-last',
    'fused',
    'fused+channels-last',
    'compiled',
    'fused+channels-last+compiled',
)


@dataclass(kw_only=True)
class Budget:
    """How long to measure.

    Attributes:
        rounds: number of rounds, at most; each runs every case once.
        seconds: time limit; no round starts that would probably end later.
    """

    rounds: int = 20
    seconds: float = 120


@dataclass(kw_only=True)
class NetworkBenchmark(Budget):
    """What the benchmarks of backbones and of whole models have in common.

    Attributes:
        sizes: input sizes, each 'HEIGHTxWIDTH' or one number for both, in pixels.
        batch: images in a batch.
        modes: 'forward', 'train' (forward and backward pass, BN frozen).
        dtypes: 'float32', 'bfloat16', 'float16'; of exported backbones also 'int8'.
        baseline: NETWORK:FORM that the others are compared with; None: the first case.
    """

    sizes: Sequence[str] = ('800x1344',)
    batch: int = 1
    modes: Sequence[str] = ('forward',)
    dtypes: Sequence[str] = ('float32',)
    baseline: str | None = None


@dataclass(kw_only=True)
class BackboneBenchmark(NetworkBenchmark):
    """Networks as backbones or classifiers.

    Attributes:
        networks: each NETWORK:FORM, or NETWORK for all `forms`; m1 to m4, or names of timm.
        forms: forms of the networks that are given without one.
        peers: add timm's models of the size of each EfficientViM in `networks`.
        classifier: measure with the classification head instead of as feature pyramids.
    """

    networks: Sequence[str]
    forms: Sequence[str] = FORMS
    peers: bool = False
    classifier: bool = False


@dataclass(kw_only=True)
class ModelBenchmark(NetworkBenchmark):
    """Whole detectors or segmentors.

    Attributes:
        config: path of the config; None: the one that the checkpoint was trained with.
        checkpoint: path of the checkpoint; None: random weights.
        cases: BACKBONE:FORM, CONFIG:FORM or exported files, see `models.expand`.
        options: changes of the config, 'KEY=VALUE' each.
    """

    config: str | None = None
    checkpoint: str | None = None
    cases: Sequence[str] = ('own:channels-last',)
    options: Sequence[str] = ()


@dataclass(kw_only=True)
class EvaluationBenchmark(Budget):
    """COCO evaluation of generated detections.

    Attributes:
        images: number of images.
        detections: detections in each image, at most 100.
    """

    rounds: int = 1
    images: int = 5000
    detections: int = 50
