"""Gradients through an inner SGD run, with respect to the data and the rates it was run with.

Inner SGD on the distilled set s, for t = 0 .. T-1 and parameter groups k with rates eta_k:

    g_t     = d inner(theta_t, s, t) / d theta                                    (1)
    v_{t+1} = mu v_t + g_t + wd theta_t,   v_0 = 0                                (2)
    theta_{t+1} = theta_t - eta v_{t+1}                                           (3)

Wanted: d outer(theta_T) / d s and / d eta. Let lambda be d outer / d theta_t and nu be d outer / d v_{t+1}. At the end
lambda = d outer / d theta_T and nu = 0; then for t = T-1 .. 0:

    nu     <- mu nu - eta lambda             the gradient with respect to v_{t+1}  (4)
    d eta_t = -<v_{t+1}, lambda>             per group                             (5)
    h       = <g_t, nu>                      over all groups together              (6)
    d s    += dh/ds                                                               (7)
    lambda += wd nu + dh/dtheta              to all groups' parameters             (8)

(4) and (5) read lambda before (8) changes it. (6) to (8) are one Hessian-vector product: h is a number, its gradient
costs about two more passes of the inner loss. Memory is theta_0 .. theta_T (tape.py; with momentum v_1 .. v_T too) and
the graph of one step at a time.

Why (4) to (8): a small change of s moves g_t, and with it v_{t+1}, by dg_t; that changes the outer loss by <nu, dg_t>,
which summed over t is (7). A change of theta_t reaches the outer loss along theta itself (lambda), through the decay in
(2) (wd nu) and through g_t (dh/dtheta): that is (8).

Estimators:

- ``unrolled``: autograd through (1) to (3); the reference, memory linear in T.
- ``adjoint``: the sweep (4) to (8); exact, the default.
- ``tesla``: the sweep without (8) (arXiv 2211.10586), so exact only for T = 1; only without momentum.
- ``difference``: dh/ds and dh/dtheta as central differences of g_t along nu: first-order passes only.

Files, in reading order: ``inner.py`` (the run and (1) to (3)), ``tape.py``, ``backward_sweep.py`` ((4) to (8) and
:func:`hypergradient`), ``difference.py``, ``input_span.py`` (first layers that never leave the span of the distilled
rows), ``matching.py`` (an outer loss), ``double_backward.py`` (convolutions that are quick to differentiate twice).

Credit. The backward sweep over training steps for learned data goes back to Wang et al. 2018 (Dataset Distillation,
arXiv 1811.10959); Deng and Russakovsky 2022 (Remember the Past, arXiv 2206.02916) take it through momentum and long
runs. Maclaurin et al. 2015 (arXiv 1502.03492) reverse the training itself, and keep the bits that momentum discards
instead of theta_t. Bi-trajectory matching (arXiv 2308.07545) is the first use for image-text pairs. Libraries do not
serve: TorchOpt and higher unroll, with memory linear in T (and higher is no longer maintained), and betty approximates
by one step.
"""

from vldistill.distillation.metagrad.backward_sweep import Hypergradient, advance, hypergradient
from vldistill.distillation.metagrad.inner import ESTIMATORS, InnerStep
from vldistill.distillation.metagrad.matching import matching_loss

__all__ = ["ESTIMATORS", "Hypergradient", "InnerStep", "advance", "hypergradient", "matching_loss"]
