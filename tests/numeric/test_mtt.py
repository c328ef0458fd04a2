"""bitraj with one side, on a class set, against MTT's iteration (arXiv 2203.11932) as its published code has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from double import make_bench, prepared
from torch.func import functional_call

from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import prompt_inputs

CLASSES = 8
COUNT = 2 * CLASSES


Ground = tuple[Workbench, list[Trajectory]]


def mtt(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    theta_0: torch.Tensor,
    theta_target: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
    syn_lr: torch.Tensor,
    batches: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Grand loss of MTT and its gradients to images and syn_lr.

    ``distill.py`` of the published code: the student's parameters are one flat vector, each inner step takes cross
    entropy of a minibatch of synthetic images over all classes, and the loss is
    sum (theta_T - theta*)^2 / sum (theta_0 - theta*)^2.
    """
    images, syn_lr = images.clone().requires_grad_(True), syn_lr.clone().requires_grad_(True)
    student_params = [theta_0.clone().requires_grad_(True)]
    for these in batches:
        x = network(student_params[-1], images[these])
        ce_loss = F.cross_entropy(x, labels[these])
        (grad,) = torch.autograd.grad(ce_loss, student_params[-1], create_graph=True)
        student_params.append(student_params[-1] - syn_lr * grad)
    param_loss = F.mse_loss(student_params[-1], theta_target, reduction="sum") / len(theta_0)
    param_dist = F.mse_loss(theta_0, theta_target, reduction="sum") / len(theta_0)
    grand_loss = param_loss / param_dist
    return grand_loss.detach(), *torch.autograd.grad(grand_loss, [images, syn_lr])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_bench(tmp_path_factory.mktemp("mtt"), "scenes:classes=shape,train=80,val=20,test=20")


@pytest.mark.parametrize(("minibatch", "estimator"), [(0, "adjoint"), (5, "adjoint"), (5, "unrolled")])
def test_one_sided_bitraj_on_a_class_set_is_mtt(ground: Ground, minibatch: int, estimator: str) -> None:
    bench, experts = ground
    options = BitrajOptions(sides="image", syn_steps=4, minibatch=minibatch, estimator=estimator)
    method, context, state = prepared(bench, experts, "bitraj", options, pairs=COUNT, learn="image")
    labels = torch.arange(COUNT) % CLASSES
    context = replace(context, text_numbers=labels[:, None])
    assert bench.classes is not None and len(bench.classes) == CLASSES
    prompts = torch.cat(list(prompt_inputs(bench))).double()
    state.variables["texts"] = prompts[labels]

    draw = context.generator("segment")
    expert = experts[int(torch.randint(len(experts), (), generator=draw))]
    begin, target = expert.segment(int(torch.randint(options.max_start_epoch, (), generator=draw)), 1)
    names, shapes = list(begin["image"]), [tensor.shape for tensor in begin["image"].values()]
    ends = [torch.cat([part["image"][name].flatten() for name in names]) for part in (begin, target)]
    with torch.no_grad():  # the classifier: the prompts as the expert's text side embeds them
        weights = F.normalize(functional_call(bench.architecture.text, begin["text"], (prompts,)))

    def network(theta: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        params = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes)}
        features = bench.image_standardisation(bench.image_tower(images))
        embedded = functional_call(bench.architecture.image, params, (features,))
        return F.normalize(embedded) @ weights.T / bench.encoder_config.temperature

    rows = context.generator("rows")
    batches = [
        torch.randperm(COUNT, generator=rows)[:minibatch] if minibatch else torch.arange(COUNT)
        for _ in range(options.syn_steps)
    ]
    rate = state.variables["log_rate_image"].exp()
    loss, to_images, to_rate = mtt(network, ends[0], ends[1], state.variables["images"], labels, rate, batches)

    update = method.step(state, context)
    assert update.value == pytest.approx(float(loss), rel=1e-10)
    assert set(update.logs) == {"matching_image"} and "log_rate_text" not in update.gradients
    torch.testing.assert_close(update.gradients["images"], to_images, rtol=1e-7, atol=1e-13)
    torch.testing.assert_close(update.gradients["log_rate_image"], to_rate * rate, rtol=1e-7, atol=1e-13)


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"bitraj\.sides is 'text'; expected both or image"):
        BitrajOptions(sides="text")
