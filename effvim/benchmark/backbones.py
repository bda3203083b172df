"""`tools/benchmark.py backbone`: this network and timm's, in every form, at every size."""

from __future__ import annotations

from argparse import Namespace
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
    baseline_of,
    cases_of,
    check_network,
    collect,
    compilation,
    parse_form,
    reference,
)
from effvim.benchmark.counting import macs, parameters

# Of each family in timm the models with about as many multiplications, the port of ours first.
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


def named(args: Namespace, device: torch.device) -> Iterator[tuple[str, str, bool]]:
    """Each network with each form, and whether the form was asked for of this very network.

    Raises:
        UserError: an unknown network or form.
    """
    forms = [parse_form(form, device) for form in args.forms]
    names = {entry.partition(':')[0] for entry in args.networks}
    peers = [peer for arch in PEERS if args.peers and arch in names for peer in PEERS[arch]]
    for entry in dict.fromkeys([*args.networks, *peers]):
        name, _, form = entry.partition(':')
        check_network(name, ARCHS)
        if form:
            yield name, parse_form(form, device), True
        else:
            yield from ((name, form, False) for form in forms)


def build(name: str, classifier: bool = False) -> nn.Module:
    """A network of random weights: images in, feature maps out, or logits.

    Raises:
        UserError: timm cannot make one with feature maps.
    """
    torch.manual_seed(0)
    if name in ARCHS:
        return EfficientViMClassifier(name) if classifier else EfficientViM(name)
    try:
        return timm.create_model(name, features_only=not classifier)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(f'{name} cannot be built in timm: {error}') from error


def can_fuse(network: nn.Module) -> bool:
    """Whether there is a folded, or in timm's words re-parameterised, form."""
    return any(
        hasattr(module, method)
        for module in network.modules()
        for method in ('fuse', 'reparameterize', 'switch_to_deploy')
    )


def set_mode(network: nn.Module, mode: str) -> nn.Module:
    """Evaluation, or training with BN's statistics kept, as the published detectors do."""
    network.train(mode == 'train')
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return network


def placed(network: nn.Module, form: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network in a form, not compiled yet."""
    if FUSED in form:
        network = (
            network.fuse()
            if isinstance(network, EfficientViM)
            else reparameterize_model(network, inplace=True)
        )
    network = network.to(device, dtype)
    return network.to(memory_format=torch.channels_last) if CHANNELS_LAST in form else network


def runs(
    network: nn.Module, case: Case, device: torch.device
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What is measured of a case, and its forward pass alone.

    Training is a forward pass and a backward pass from fixed gradients of the maps, without an
    optimiser; in lower precision under autocast, where inference has the weights in it.
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


def work(network: nn.Module, case: Case, device: torch.device) -> int:
    """Multiply-accumulates of a case; a training step has, as usual, three times its forward pass.

    PyTorch counts backward passes too, but grouped convolutions as if they were dense.
    """
    if case.mode == 'train':
        forward = case._replace(mode='forward', dtype='float32')  # the weights'
        return 3 * work(network, forward, device)
    return macs(runs(network, case, device)[0])


def prepare(
    first: Case, device: torch.device, classifier: bool
) -> tuple[float, Callable[[Case], tuple[Callable[[], float], dict[str, Any]]]]:
    """A network in its form, see `benchmark_cases.collect`."""
    network = set_mode(build(first.network, classifier), first.mode)
    count = parameters(network)
    dtype = torch.float32 if first.mode == 'train' else timing.DTYPES[first.dtype]
    began = timer()
    eager = placed(network, first.form, dtype, device)
    how = compilation(first.form)
    network = eager if how is None else cast(nn.Module, torch.compile(eager, **how))
    seconds = timer() - began

    def start(case: Case) -> tuple[Callable[[], float], dict[str, Any]]:
        began = timer()
        run, forward = runs(network, case, device)
        run()
        return timing.seconds_of(run), dict(
            first_s=timer() - began,
            parameters=count,
            macs=work(eager, case, device),
            peak_bytes=timing.peak_bytes(run, device),
            saved_bytes=timing.saved_bytes(forward, network) if case.mode == 'train' else None,
        )

    return seconds, start


def expand(args: Namespace, device: torch.device) -> Iterator[list[Case]]:
    """The cases that the command line asks for; those of one network in one form together.

    Forms that a network does not have are left out, unless they were asked for by NETWORK:FORM.

    Raises:
        UserError: an unknown network, form or size, or a form that the network lacks.
    """
    for name, form, asked in named(args, device):
        fusible = FUSED not in form or can_fuse(build(name, args.classifier))
        if asked and not fusible:
            raise UserError(f'{name}:{form}: timm has no re-parameterised form of {name}')
        if fusible:
            yield from cases_of(name, form, args)


def measure(args: Namespace, device: torch.device) -> dict[str, Any]:
    """Run the cases of the command line; what the JSON holds of them.

    Raises:
        UserError: as `expand`, no C++ compiler, or a baseline that is not among the cases.
    """
    groups = list(expand(args, device))
    baseline = baseline_of(args.baseline, groups)
    with timing.compiling(any(compilation(group[0].form) for group in groups)):
        ready = collect(groups, lambda case: prepare(case, device, args.classifier))
        found = timing.interleaved(
            {**ready.measures, 'matmul': timing.matmul(device)}, args.rounds, args.seconds
        )
    return dict(
        kind='backbone',
        rounds=len(found['matmul']),
        baseline=baseline,
        matmul=dict(timing.spread(found['matmul']), rounds=found['matmul']),
        cases=[
            summary(about, found[case], found.get(reference(case, baseline)), found['matmul'])
            for case, about in ready.abouts.items()
        ],
        failed=ready.failed,
    )


def summary(
    about: dict[str, Any], seconds: list[float], baseline: list[float] | None, rate: list[float]
) -> dict[str, Any]:
    """A case with its results."""
    latency = timing.spread(seconds)
    return dict(
        about,
        seconds=seconds,
        latency_s=latency,
        ratio=timing.ratio(baseline, seconds) if baseline else None,
        throughput=about['batch'] / latency['median'],
        share=timing.spread(2 * about['macs'] / s / r for s, r in zip(seconds, rate)),
    )
