"""Benchmark of EfficientViM and timm's networks as backbones or classifiers, in every form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.utils.benchmark import timer

from backbone import ARCHS, EfficientViM, EfficientViMClassifier
from backbone.errors import UserError
from effvim.benchmark import timing
from effvim.benchmark.cases import (
    CHANNELS_LAST,
    FUSED,
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
from effvim.benchmark.settings import BackboneBenchmark
from effvim.config.runtime import RUNTIMES

# For each variant: timm's port of it, then from other families of timm the models with about as
# many multiply-accumulates.
PEERS = {
    'm1': (
        'efficientvim_m1',
        'shvit_s1',
        'efficientvit_m3',
        'fasternet_t0',
        'starnet_s1',
        'mobilenetv4_conv_small',
    ),
    'm2': (
        'efficientvim_m2',
        'shvit_s2',
        'efficientvit_m4',
        'fasternet_t0',
        'starnet_s1',
        'mobilenetv4_conv_small',
        'mobilenetv3_large_100',
    ),
    'm3': (
        'efficientvim_m3',
        'shvit_s3',
        'efficientvit_m5',
        'fastvit_t8',
        'starnet_s2',
        'swiftformer_xs',
        'repvit_m0_9',
        'mobilenetv4_conv_medium',
    ),
    'm4': (
        'efficientvim_m4',
        'shvit_s4',
        'efficientvit_m4',
        'efficientvit_m5',
        'repvit_m1_1',
        'fastvit_t12',
        'starnet_s4',
        'swiftformer_s',
        'fasternet_t1',
        'poolformer_s12',
        'mobilenetv4_conv_medium',
        'lowformer_b0',
    ),
}


def networks_and_forms(
    settings: BackboneBenchmark, device: torch.device
) -> Iterator[tuple[str, str, bool]]:
    """Each network with each of its forms, and whether the form was given as NETWORK:FORM.

    Raises:
        UserError: an unknown network or form.
    """
    forms = [parse_form(form, device) for form in settings.forms]
    names = {network.partition(':')[0] for network in settings.networks}
    peers = [peer for arch in PEERS if settings.peers and arch in names for peer in PEERS[arch]]
    for network in dict.fromkeys([*settings.networks, *peers]):
        name, _, form = network.partition(':')
        check_network(name, ARCHS)
        if form:
            yield name, parse_form(form, device), True
        else:
            yield from ((name, form, False) for form in forms)


def build(name: str, classifier: bool = False) -> nn.Module:
    """A randomly initialised network.

    Args:
        name: one of `ARCHS`, or a name of timm's.
        classifier: return logits instead of feature maps.

    Raises:
        UserError: timm cannot build it with feature maps.
    """
    torch.manual_seed(0)
    if name in ARCHS:
        return EfficientViMClassifier(name) if classifier else EfficientViM(name)
    try:
        return timm.create_model(name, features_only=not classifier)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(f'timm cannot build {name}: {error}') from error


def can_fuse(network: nn.Module) -> bool:
    """Whether the network has a folded form, which timm calls re-parameterised."""
    return any(
        hasattr(module, method)
        for module in network.modules()
        for method in ('fuse', 'reparameterize', 'switch_to_deploy')
    )


def set_mode(network: nn.Module, mode: str) -> nn.Module:
    """Set evaluation mode, or training mode with frozen BN statistics as published detectors use.

    Args:
        network: changed in place and returned.
        mode: 'forward' or 'train'.
    """
    network.train(mode == 'train')
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return network


def apply_form(
    network: nn.Module, form: str, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Fold the network and set its precision, device and memory format; does not compile it."""
    if FUSED in form:
        network = (
            network.fuse()
            if isinstance(network, EfficientViM)
            else reparameterize_model(network, inplace=True)
        )
    network = network.to(device, dtype)
    return network.to(memory_format=torch.channels_last) if CHANNELS_LAST in form else network


def make_runs(
    network: nn.Module, case: Case, device: torch.device
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The function that is timed for a case, and its forward pass alone.

    Training is a forward pass and a backward pass from fixed gradients of the maps, without an
    optimiser. In lower precision, training uses autocast and inference converts the weights.
    """
    dtype = timing.DTYPES[case.dtype]
    layout = torch.channels_last if CHANNELS_LAST in case.form else torch.contiguous_format
    images = torch.randn(case.batch, 3, case.height, case.width, device=device)
    images = images.contiguous(memory_format=layout)

    if case.mode == 'forward':
        images = images.to(dtype)
        forward = torch.inference_mode()(lambda: network(images))
        return forward, forward

    @torch.enable_grad()
    def train_forward() -> list[Tensor]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = network(images)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    gradients: list[Tensor] = []

    def step() -> None:
        maps = train_forward()
        if not gradients:
            gradients.extend(torch.randn_like(output) for output in maps)
        torch.autograd.backward(maps, gradients)
        network.zero_grad()

    return step, train_forward


def macs_of(network: nn.Module, case: Case, device: torch.device) -> int:
    """Multiply-accumulates of a case; for a training step three times those of its forward pass.

    PyTorch counts backward passes too, but grouped convolutions as if they were dense.
    """
    if case.mode == 'train':
        forward = case._replace(mode='forward', dtype='float32')  # the dtype of the weights
        return 3 * macs_of(network, forward, device)
    return count_macs(make_runs(network, case, device)[0])


def prepare(
    first: Case, device: torch.device, classifier: bool
) -> tuple[float, Callable[[Case], tuple[Callable[[], float], dict[str, Any]]]]:
    """Bring the network of a case into its form, see `cases.run_once`."""
    network = set_mode(build(first.network, classifier), first.mode)
    if first.form in RUNTIMES:
        from effvim.benchmark import runtimes

        return runtimes.prepare(network, first)
    parameters = count_parameters(network)
    dtype = torch.float32 if first.mode == 'train' else timing.DTYPES[first.dtype]
    began = timer()
    eager = apply_form(network, first.form, dtype, device)
    arguments = compile_arguments(first.form)
    network = eager if arguments is None else cast(nn.Module, torch.compile(eager, **arguments))
    seconds = timer() - began

    def start(case: Case) -> tuple[Callable[[], float], dict[str, Any]]:
        began = timer()
        run, forward = make_runs(network, case, device)
        run()
        return timing.seconds_sampler(run), dict(
            first_s=timer() - began,
            parameters=parameters,
            macs=macs_of(eager, case, device),
            peak_bytes=timing.peak_bytes(run, device),
            saved_bytes=timing.saved_bytes(forward, network) if case.mode == 'train' else None,
        )

    return seconds, start


def expand(settings: BackboneBenchmark, device: torch.device) -> Iterator[list[Case]]:
    """The cases of the settings, in groups of one network in one form.

    Forms that a network does not have are skipped, unless they were given as NETWORK:FORM.

    Raises:
        UserError: an unknown network, form or size, or a form that the network lacks.
    """
    for name, form, explicit in networks_and_forms(settings, device):
        available = FUSED not in form or can_fuse(build(name, settings.classifier))
        if explicit and not available:
            raise UserError(f'{name}:{form}: timm has no re-parameterised form of {name}')
        if available:
            yield from cases_of(name, form, settings)


def measure(settings: BackboneBenchmark, device: torch.device) -> dict[str, Any]:
    """Run the benchmark; returns the content of its JSON file.

    Raises:
        UserError: as `expand`, no C++ compiler, or a baseline that is not among the cases.
    """
    groups = list(expand(settings, device))
    baseline = baseline_of(settings.baseline, groups)
    with timing.compiling(any(compile_arguments(group[0].form) for group in groups)):
        runs = run_once(groups, lambda case: prepare(case, device, settings.classifier))
        seconds = timing.interleave(
            {**runs.samplers, 'matmul': timing.matmul_sampler(device)},
            settings.rounds,
            settings.seconds,
        )
    return dict(
        kind='backbone',
        rounds=len(seconds['matmul']),
        baseline=baseline,
        matmul=dict(timing.spread(seconds['matmul']), rounds=seconds['matmul']),
        cases=[
            summarize(
                record,
                seconds[case],
                seconds.get(baseline_case(case, baseline)),
                seconds['matmul'],
            )
            for case, record in runs.records.items()
        ],
        failed=runs.failed,
    )


def summarize(
    record: dict[str, Any],
    seconds: list[float],
    baseline: list[float] | None,
    matmul_rate: list[float],
) -> dict[str, Any]:
    """The record of a case with its results.

    Args:
        record: see `cases.FirstRuns`.
        seconds: latency by round.
        baseline: latency of the baseline by round, None without one.
        matmul_rate: FLOP/s of a matrix product by round.
    """
    latency = timing.spread(seconds)
    return dict(
        record,
        seconds=seconds,
        latency_s=latency,
        ratio=timing.ratio(baseline, seconds) if baseline else None,
        throughput=record['batch'] / latency['median'],
        share=timing.spread(2 * record['macs'] / s / rate for s, rate in zip(seconds, matmul_rate)),
    )
