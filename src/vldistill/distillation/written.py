"""How learned images are written: as they are or as what gives them, for any method with an outer loop.

:class:`Written` stands between the loop and a method. The loop's variables are levels of a pyramid, spectra, or bases
with addresses; the method sees the images that they give, and its gradient to the images goes back to the variables.

=========  =============================================================================================
pyramid    a sum of images of growing side, in decorrelated colours; finer ones begin to move later
           (Linear Gradient Matching, NeurIPS 2025)
fourier    the spectrum of each image, high frequencies weighted by 1 / frequency, in decorrelated colours
bases      X = A B: each image is a mixture of K shared images, enlarged; A are the addresses
           (Remember the Past, Deng and Russakovsky, 2206.02916)
=========  =============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol

import torch

from vldistill.config import ResolvedDistillConfig
from vldistill.config.distill import SMALLEST_SIDE
from vldistill.distillation.method import METHODS, Context, Method, Start, State, T, TrainedMethod, Update
from vldistill.distilled.bases import from_bases
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError

COARSEST = 8  # side of a pyramid's smallest level, pixels
GROWN = 0.3  # part of the distillation after which every level of a pyramid moves

Tensors = dict[str, torch.Tensor]


class Form(Protocol):
    """A way to write images, and texts if it says so."""

    def write(self, plain: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
        """Variables, and what is carried, that give the images (N, 3, S, S) of ``plain``, or come near to them."""
        ...

    def read(self, variables: Mapping[str, torch.Tensor], carried: Mapping[str, torch.Tensor]) -> Tensors:
        """The plain variables that they give, differentiable."""
        ...

    def rests(self, name: str, progress: float) -> bool:
        """Whether a variable does not move yet, when the part ``progress`` of the distillation is done."""
        ...


@dataclass(frozen=True)
class Pyramid:
    """Images as a sum of levels."""

    def write(self, plain: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
        """See :class:`Form`."""
        colour = colour_of(plain["images"])
        left = _coloured(plain["images"], torch.linalg.inv(colour))
        side, sides = left.shape[-1], []
        while side >= COARSEST or not sides:
            sides.append(side)
            side //= 2
        levels: Tensors = {}
        for level, size in enumerate(reversed(sides)):
            shown = torch.nn.functional.interpolate(left, (size, size), mode="area")
            levels[f"images_level{level}"] = shown
            left = left - _enlarged(shown, left.shape[-1])
        return levels, {"colour": colour}

    def read(self, variables: Mapping[str, torch.Tensor], carried: Mapping[str, torch.Tensor]) -> Tensors:
        """See :class:`Form`."""
        levels = [value for name, value in variables.items() if name.startswith("images_level")]
        side = levels[-1].shape[-1]
        summed = torch.stack([_enlarged(level, side) for level in levels]).sum(dim=0)
        return {"images": _coloured(summed, carried["colour"])}

    def rests(self, name: str, progress: float) -> bool:
        """See :class:`Form`."""
        level = int(name.removeprefix("images_level")) if name.startswith("images_level") else 0
        return level > 0 and progress < GROWN * level / (level + 1)


@dataclass(frozen=True)
class Fourier:
    """Images by their spectra, real and imaginary parts (N, 3, S, S/2 + 1, 2)."""

    def write(self, plain: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
        """See :class:`Form`."""
        colour = colour_of(plain["images"])
        spectrum = torch.fft.rfft2(_coloured(plain["images"], torch.linalg.inv(colour)), norm="ortho")
        spectrum = torch.view_as_real(spectrum / _weights(spectrum))
        return {"images_spectrum": spectrum.contiguous()}, {"colour": colour}

    def read(self, variables: Mapping[str, torch.Tensor], carried: Mapping[str, torch.Tensor]) -> Tensors:
        """See :class:`Form`."""
        spectrum = torch.view_as_complex(variables["images_spectrum"])
        side = spectrum.shape[-2]
        images = torch.fft.irfft2(spectrum * _weights(spectrum), s=(side, side), norm="ortho")
        return {"images": _coloured(images, carried["colour"])}

    def rests(self, name: str, progress: float) -> bool:
        """See :class:`Form`."""
        return False


@dataclass(frozen=True)
class Bases:
    """Images, or features, as mixtures of shared ones; with ``texts`` the same addresses mix shared texts.

    While they are learned X = A B / sqrt(K), with A of mean square 1 and B of the size of the images: a step of either
    then changes an image about as much as one of its own, however many bases there are.

    Args:
        count: K bases.
        side: of the images in pixels; 0 where they are features.
        scale: the side of an image over that of a base.
        texts: whether texts are written so too.
    """

    count: int
    side: int
    scale: int = 1
    texts: bool = False

    def write(self, plain: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
        """The best approximation of rank K (Eckart and Young 1936) of the images at the bases' side, and the texts."""
        images = plain["images"]
        if images.ndim == 4:
            size = self.side // self.scale
            images = torch.nn.functional.interpolate(images, (size, size), mode="area")
        parts = {"image": images, **({"text": plain["texts"]} if self.texts else {})}
        flat = {side: part.flatten(1) for side, part in parts.items()}
        weights = {side: part.norm().clamp(min=1e-12).reciprocal() for side, part in flat.items()}
        joined = torch.cat([part * weights[side] for side, part in flat.items()], dim=1)
        left, strength, right = torch.linalg.svd(joined.cpu().double(), full_matrices=False)
        addresses = (left * strength)[:, : self.count]
        size_of = addresses.square().mean().sqrt()
        variables: Tensors = {"images_addresses": (addresses / size_of).to(images)}
        begin = 0
        for side, part in flat.items():
            rows = right[: self.count, begin : begin + part.shape[1]] * size_of / float(weights[side])
            rows = rows * math.sqrt(self.count)
            variables[f"{side}s_bases"] = rows.to(part).reshape(len(rows), *parts[side].shape[1:])
            begin += part.shape[1]
        return variables, {}

    def read(self, variables: Mapping[str, torch.Tensor], carried: Mapping[str, torch.Tensor]) -> Tensors:
        """See :class:`Form`."""
        addresses = self.addresses(variables)
        found = {"images": from_bases(addresses, variables["images_bases"], self.side)}
        return found | ({"texts": from_bases(addresses, variables["texts_bases"])} if self.texts else {})

    def addresses(self, variables: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weights (N, K) of the bases, as a set stores them."""
        return variables["images_addresses"] / math.sqrt(self.count)

    def rests(self, name: str, progress: float) -> bool:
        """See :class:`Form`."""
        return False


def form_of(config: ResolvedDistillConfig, side: int) -> Form | None:
    """How ``distill.pixels`` and ``distill.bases`` write images of ``side`` pixels; None for as they are."""
    if config.bases:
        return Bases(config.bases, 0 if config.space == "features" else side, config.base_scale, config.base_texts)
    return {"plain": None, "pyramid": Pyramid(), "fourier": Fourier()}[config.pixels]


def written(method: Method[T], config: ResolvedDistillConfig, tower_side: int, setting: str) -> Method[T]:
    """``method`` with its images written as the configuration says.

    Raises:
        ConfigError: the method trains nothing that could be written so, or bases that do not fit.
    """
    form = form_of(config, config.size or tower_side)
    if form is None:
        return method
    if isinstance(form, Bases):
        _check_bases(form, config, setting)
    if not METHODS.find(config.method).trains(config.space) or not isinstance(method, TrainedMethod):
        asked = "distill.bases" if config.bases else f"distill.pixels {config.pixels}"
        raise ConfigError(
            f"{config.method} trains no images by gradients, so {asked} has nothing to write. Leave it out."
        )
    return Written(method, form)


def _check_bases(form: Bases, config: ResolvedDistillConfig, setting: str) -> None:
    if form.count >= config.pairs:
        raise ConfigError(f"distill.bases is {form.count}; expected fewer than distill.pairs, {config.pairs}.")
    if form.side and form.side // form.scale < SMALLEST_SIDE:
        raise ConfigError(
            f"distill.base_scale is {form.scale}: bases of images of {form.side} px would be smaller than "
            f"{SMALLEST_SIDE} px. Use a smaller one."
        )
    if form.texts and setting == "both":
        raise ConfigError("distill.base_texts mixes sentence vectors; texts of setting both are tokens. Leave it out.")


@dataclass(frozen=True)
class Written(Generic[T]):
    """A method whose images are written in a form."""

    method: TrainedMethod[T]
    form: Form

    def check(self, context: Context[T]) -> None:
        """See :class:`~vldistill.distillation.method.Method`."""
        self.method.check(context)

    def setup(self, start: Start, context: Context[T]) -> State:
        """The method's state, with what gives its images in their place."""
        state = self.method.setup(start, context)
        variables, carried = self.form.write(state.variables)
        replaced = self.form.read(variables, carried)
        others = {name: value for name, value in state.variables.items() if name not in replaced}
        rates = {name: "text_lr" if name.startswith("texts") else "image_lr" for name in variables}
        return State({**variables, **others}, {**state.carried, **carried}, {**state.rates, **rates})

    def step(self, state: State, context: Context[T]) -> Update:
        """The method's update, its gradient to the images taken back to what gives them."""
        leaves = {name: value.detach().requires_grad_() for name, value in self._own(state).items()}
        with torch.enable_grad():
            given = self.form.read(leaves, state.carried)
        plain = self._plain(state, {name: value.detach() for name, value in given.items()})
        update = self.method.step(plain, context)
        back = {name: update.gradients[name] for name in given if name in update.gradients}
        gradients = {name: value for name, value in update.gradients.items() if name not in given}
        if back:
            pulled = torch.autograd.grad(
                [given[name] for name in back], list(leaves.values()), list(back.values()), allow_unused=True
            )
            found = {name: value for name, value in zip(leaves, pulled) if value is not None}
            gradients |= {k: v for k, v in found.items() if not self.form.rests(k, context.progress)}
        return replace(update, gradients=gradients)

    def export(self, state: State, context: Context[T]) -> DistilledSet:
        """The method's set; one of bases keeps these."""
        own = {name: value.detach().cpu() for name, value in self._own(state).items()}
        carried = {name: value.cpu() for name, value in state.carried.items()}
        device = next(iter(state.variables.values())).device
        given = {name: value.to(device) for name, value in self.form.read(own, carried).items()}
        made = self.method.export(self._plain(state, given), context)
        if not isinstance(self.form, Bases):
            return made
        bases = {name: value for name, value in own.items() if name != "images_addresses"}
        return made.with_bases({"addresses": self.form.addresses(own), **bases})

    def plain(self, state: State) -> State:
        """The state as the method knows it."""
        with torch.no_grad():
            return self._plain(state, self.form.read(self._own(state), state.carried))

    def _own(self, state: State) -> Tensors:
        return {name: v for name, v in state.variables.items() if name.startswith(("images_", "texts_"))}

    def _plain(self, state: State, given: Mapping[str, torch.Tensor]) -> State:
        own = self._own(state)
        others = {name: value for name, value in state.variables.items() if name not in own}
        return State({**given, **others}, state.carried, state.rates)


def colour_of(images: torch.Tensor) -> torch.Tensor:
    """(3, 3), the root of the colours' covariance, of largest singular value 1: it correlates colours."""
    colours = images.transpose(0, 1).flatten(1).cpu().double()
    values, vectors = torch.linalg.eigh(torch.cov(colours) + 1e-6 * torch.eye(3, dtype=colours.dtype))
    root = vectors * values.clamp(min=1e-4 * float(values.max())).sqrt() @ vectors.T
    return (root / torch.linalg.matrix_norm(root, 2)).to(images)


def _coloured(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ck,nkhw->nchw", colour, images)


def _enlarged(images: torch.Tensor, side: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def _weights(spectrum: torch.Tensor) -> torch.Tensor:
    """1 / frequency of each coefficient (S, S/2 + 1), mean square 1: an outer step changes pixels as usual."""
    side = spectrum.shape[-2]
    rows = torch.fft.fftfreq(side, device=spectrum.device)[:, None]
    columns = torch.fft.rfftfreq(side, device=spectrum.device)[None, : spectrum.shape[-1]]
    weights = 1 / (rows.square() + columns.square()).sqrt().clamp(min=1 / side)
    return weights / weights.square().mean().sqrt()
