"""The cases of a benchmark: networks by forms, precisions, modes and sizes."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Generic, NamedTuple, TypeVar

import timm
import torch
from torch._dynamo.exc import TorchDynamoException

from backbone.errors import UserError

Value = TypeVar('Value')

# What a form may be made of; 'plain' is nothing of it.
FUSED, CHANNELS_LAST = 'fused', 'channels-last'

COMPILED: dict[str, dict[str, Any]] = {
    'compiled': dict(dynamic=False),  # for each size anew
    'dynamic': {},  # for the first size, then, with the second, for all
    'graphs': dict(dynamic=False, mode='reduce-overhead'),  # CUDA graphs
}

PARTS = (FUSED, CHANNELS_LAST, *COMPILED)


class Case(NamedTuple):
    """What is measured."""

    network: str  # one of `ARCHS`, ours, or a name of timm's
    form: str
    dtype: str
    mode: str  # forward, or train: a forward and a backward pass
    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return (
            f'{self.network}:{self.form} {self.mode} {self.dtype} '
            f'{self.batch}×{self.height}×{self.width}'
        )


def parse_form(text: str, device: torch.device) -> str:
    """A form, its parts in the order of `PARTS`.

    Raises:
        UserError: an unknown part, two ways to compile, or CUDA graphs without CUDA.
    """
    parts = {part for part in text.split('+') if part != 'plain'}
    for part in parts - set(PARTS):
        near = difflib.get_close_matches(part, ['plain', *PARTS], n=1, cutoff=0)
        raise UserError(
            f'unknown form {part!r}, the nearest is {near[0]!r}; a form is plain, or '
            f'some of {", ".join(PARTS)} joined by +'
        )
    if len(parts & COMPILED.keys()) > 1:
        raise UserError(f'{text} is compiled twice: take one of {", ".join(COMPILED)}')
    if 'graphs' in parts and device.type != 'cuda':
        raise UserError(f'{text}: CUDA graphs need a GPU; take compiled instead of graphs')
    return '+'.join(part for part in PARTS if part in parts) or 'plain'


def compilation(form: str) -> dict[str, Any] | None:
    """The arguments of torch.compile, None for a form that is not compiled."""
    return next((COMPILED[part] for part in form.split('+') if part in COMPILED), None)


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
        raise UserError(f'--sizes: {text} is below the 32 pixels that the networks need')
    return height, width


def check_network(name: str, known: Iterable[str]) -> None:
    """See that `name` is `known` or timm's.

    Raises:
        UserError: it is not; names the nearest that is.
    """
    ours = list(known)
    names = [*ours, *timm.list_models()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0)
        raise UserError(
            f'unknown network {name!r}, the nearest is {near[0]!r}; ours is '
            f"{' or '.join(ours)}, others go by timm's names"
        )


def cases_of(name: str, form: str, args: Namespace) -> Iterator[list[Case]]:
    """The cases of one network in one form; those that differ in size alone together.

    A folded network has none in training.

    Raises:
        UserError: a size that is none or too small.
    """
    sizes = [parse_size(size) for size in args.sizes]
    for dtype, mode in product(args.dtypes, args.modes):
        if not (FUSED in form and mode == 'train'):
            yield [Case(name, form, dtype, mode, args.batch, *size) for size in sizes]


def baseline_of(given: str | None, groups: Sequence[Sequence[Case]]) -> str:
    """NETWORK:FORM that the others are compared with, by default the first.

    Raises:
        UserError: it is none of them, or there are none.
    """
    labels = dict.fromkeys(f'{group[0].network}:{group[0].form}' for group in groups)
    if not labels:
        raise UserError(
            'nothing is left to measure: a folded network is not trained, use '
            '--modes forward or other forms'
        )
    if given and given not in labels:
        raise UserError(f'--baseline {given} is none of the cases: {", ".join(labels)}')
    return given or next(iter(labels))


def reference(case: Case, baseline: str) -> Case:
    """The baseline's case that is like `case`; there may be none."""
    name, _, form = baseline.partition(':')
    return case._replace(network=name, form=form)


@dataclass
class Collected(Generic[Value]):
    """Cases that ran once, and those that could not be compiled."""

    abouts: dict[Case, dict[str, Any]] = field(default_factory=dict)  # for the JSON
    measures: dict[Case, Callable[[], Value]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)


def collect(
    groups: Sequence[Sequence[Case]],
    prepare: Callable[[Case], tuple[float, Callable[[Case], tuple[Callable[[], Value], Any]]]],
) -> Collected[Value]:
    """Run every case once.

    Args:
        groups: see `cases_of`.
        prepare: brings a network into its form. Gives the seconds that this took and a function
            that runs a case, for what to measure of it and what is known of it already.

    Raises:
        UserError: none could be compiled.
    """
    found: Collected[Value] = Collected()
    for group in groups:
        seconds, start = prepare(group[0])
        for case in group:
            try:
                found.measures[case], about = start(case)
            except TorchDynamoException as error:
                line = f'{type(error).__name__}: {error}'.partition('\n')[0]
                found.failed.append(dict(case._asdict(), error=line))
                print(f'{case}: {line}', flush=True)
                continue
            found.abouts[case] = dict(case._asdict(), form_s=seconds, **about)
            print(f'{case}: first result after {seconds + about["first_s"]:.2f} s', flush=True)
    if not found.abouts:
        raise UserError('torch.compile gave up on every case, see above: take other forms')
    return found
