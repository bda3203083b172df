"""The cases of a benchmark: every combination of network, form, precision, mode and size."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Generic, NamedTuple, TypeVar

import timm
import torch
from torch._dynamo.exc import TorchDynamoException

from backbone.errors import UserError
from effvim.benchmark.settings import NetworkBenchmark
from effvim.config.runtime import RUNTIMES, MissingPrecision
from effvim.console import say

Value = TypeVar('Value')

# A form is 'plain' or some of these, joined by '+'.
FUSED, CHANNELS_LAST = 'fused', 'channels-last'
COMPILED: dict[str, dict[str, Any]] = {  # arguments of torch.compile
    'compiled': dict(dynamic=False),  # compiles once for each size
    'dynamic': {},  # compiles for the first size, then, at the second size, for all sizes
    'graphs': dict(dynamic=False, mode='reduce-overhead'),  # CUDA graphs
}
MODIFIERS = (FUSED, CHANNELS_LAST, *COMPILED)
INT8 = 'int8'  # a precision of exported networks


EAGER = ('float32', 'bfloat16', 'float16')
PRECISIONS_OF = {'onnxruntime': ('float32', INT8), 'openvino': (*EAGER, INT8)}


class Case(NamedTuple):
    """One measured combination.

    Attributes:
        network: one of `ARCHS` (this project's), or a name of timm's.
        form: see `parse_form`.
        dtype: 'float32', 'bfloat16', 'float16' or 'int8'.
        mode: 'forward', or 'train' for a forward and a backward pass.
        batch: images in a batch.
        height: of the input, in pixels.
        width: of the input, in pixels.
    """

    network: str
    form: str
    dtype: str
    mode: str
    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return (
            f'{self.network}:{self.form} {self.mode} {self.dtype} '
            f'{self.batch}×{self.height}×{self.width}'
        )


def parse_form(text: str, device: torch.device) -> str:
    """Read a form; returns it with its modifiers in the order of `MODIFIERS`.

    A runtime of exported files, see `config.runtime`, is a form of its own.

    Raises:
        UserError: an unknown modifier, two ways to compile, CUDA graphs without CUDA, or a runtime
            with modifiers or on a GPU.
    """
    if text in RUNTIMES:
        if device.type != 'cpu':
            raise UserError(f'{text} is measured on a CPU: add --device cpu')
        return text
    modifiers = {modifier for modifier in text.split('+') if modifier != 'plain'}
    for runtime in modifiers & set(RUNTIMES):
        raise UserError(f'{text}: {runtime} stands alone, its network is fused anyway')
    for modifier in modifiers - set(MODIFIERS):
        known = ['plain', *MODIFIERS, *RUNTIMES]
        near = difflib.get_close_matches(modifier, known, n=1, cutoff=0)
        raise UserError(
            f'unknown form {modifier!r}, did you mean {near[0]!r}? A form is plain, or some of '
            f'{", ".join(MODIFIERS)} joined by +, or {" or ".join(RUNTIMES)} alone'
        )
    if len(modifiers & COMPILED.keys()) > 1:
        raise UserError(f'{text} is compiled twice: use one of {", ".join(COMPILED)}')
    if 'graphs' in modifiers and device.type != 'cuda':
        raise UserError(f'{text}: CUDA graphs need a GPU; use compiled instead of graphs')
    return '+'.join(modifier for modifier in MODIFIERS if modifier in modifiers) or 'plain'


def compile_arguments(form: str) -> dict[str, Any] | None:
    """The arguments of torch.compile, None for a form that is not compiled."""
    return next((COMPILED[name] for name in form.split('+') if name in COMPILED), None)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from 800x1344, or from one number for both.

    Raises:
        UserError: not numbers, or below 32.
    """
    numbers = text.lower().replace('×', 'x').split('x')
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise UserError(f'--sizes takes HxW, e.g. 800x1344, or one number for both, got {text!r}')
    height, width = int(numbers[0]), int(numbers[-1])
    if min(height, width) < 32:
        raise UserError(f'--sizes: {text} is below the minimum of the networks, 32 pixels')
    return height, width


def check_network(name: str, own_names: Iterable[str]) -> None:
    """Raise unless `name` is one of `own_names` or a model of timm.

    Raises:
        UserError: it is neither; suggests the nearest name.
    """
    own = list(own_names)
    names = [*own, *timm.list_models()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0)
        raise UserError(
            f'unknown network {name!r}, did you mean {near[0]!r}? Pass {" or ".join(own)}, or the '
            f'name of a timm model'
        )


def cases_of(name: str, form: str, settings: NetworkBenchmark) -> Iterator[list[Case]]:
    """The cases of one network in one form, in groups that differ only in size.

    A folded or exported network has no cases in mode 'train', and only an exported one has some
    in 8-bit integers; onnxruntime has none in bfloat16 and float16.

    Raises:
        UserError: a malformed or too small size.
    """
    sizes = [parse_size(size) for size in settings.sizes]
    for dtype, mode in product(settings.dtypes, settings.modes):
        precisions = PRECISIONS_OF.get(form, EAGER)
        if dtype in precisions and not ((FUSED in form or form in RUNTIMES) and mode == 'train'):
            yield [Case(name, form, dtype, mode, settings.batch, *size) for size in sizes]


def baseline_of(given: str | None, groups: Sequence[Sequence[Case]]) -> str:
    """NETWORK:FORM that the others are compared with; default: the first case.

    Raises:
        UserError: it is not one of the cases, or there are no cases.
    """
    labels = dict.fromkeys(f'{group[0].network}:{group[0].form}' for group in groups)
    if not labels:
        raise UserError(
            'no case is left to measure: a folded network cannot be trained, and only exported '
            'ones compute in int8; use --modes forward, other forms or other --dtypes'
        )
    if given and given not in labels:
        raise UserError(f'--baseline {given} is not one of the cases: {", ".join(labels)}')
    return given or next(iter(labels))


def baseline_case(case: Case, baseline: str) -> Case:
    """The baseline at the setting of `case`; it need not have been measured."""
    name, _, form = baseline.partition(':')
    return case._replace(network=name, form=form)


@dataclass
class FirstRuns(Generic[Value]):
    """The outcome of running every case once.

    Attributes:
        records: by case, what is known of it before it is timed, for the JSON file.
        samplers: by case, a function that measures it once.
        failed: the cases that torch.compile gave up on or this machine cannot compute, with the
            error, for the JSON file.
    """

    records: dict[Case, dict[str, Any]] = field(default_factory=dict)
    samplers: dict[Case, Callable[[], Value]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)


def run_once(
    groups: Sequence[Sequence[Case]],
    prepare: Callable[[Case], tuple[float, Callable[[Case], tuple[Callable[[], Value], Any]]]],
) -> FirstRuns[Value]:
    """Run every case once, which compiles it and warms it up.

    Args:
        groups: see `cases_of`.
        prepare: brings the network of a case into its form. Returns the seconds that this took
            and a function that runs a case for the first time; this one returns the sampler and
            the record.

    Raises:
        UserError: no case could be measured.
    """
    runs: FirstRuns[Value] = FirstRuns()

    def give_up(case: Case, error: Exception) -> None:
        name = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
        line = f'{name}{error}'.partition('\n')[0]
        runs.failed.append(dict(case._asdict(), error=line))
        say(f'{case}: {line}')

    for group in groups:
        try:
            seconds, start = prepare(group[0])
        except MissingPrecision as error:
            for case in group:
                give_up(case, error)
            continue
        for case in group:
            try:
                runs.samplers[case], record = start(case)
            except (TorchDynamoException, MissingPrecision) as error:
                give_up(case, error)
                continue
            runs.records[case] = dict(case._asdict(), form_s=seconds, **record)
            say(f'{case}: first result after {seconds + record["first_s"]:.2f} s')
    if not runs.records:
        raise UserError('no case could be measured, see above: use other forms or precisions')
    return runs
