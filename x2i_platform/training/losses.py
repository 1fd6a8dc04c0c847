"""The attention distillation loss: maps student and teacher attention outputs of all taps to a scalar and its gradient.

Shape suffixes: B batch, n tokens of one tap, N = B * n tokens of a tap, D channels, 1 a kept axis.

Invariants: all computation is in float32 (float64 for float64 inputs); the gradient is computed in the forward pass,
one chunk of tokens at a time, and kept in the student's dtype, so a tap needs one tensor of its size beyond its inputs;
no gradient is computed for a student that needs none; the host never waits for the device.

The formula (X2I, released training code). With mean m, unbiased standard deviation s and r = s + 1e-7 of one token x,
the logits are a = (x - m) / (r T), and the loss of a token is KL(p || q) of the two softmaxes over channels.

The textbook expression sum p (log p - log q) suffers from cancellation. Late in a training, at a correlation of 0.999,
its relative error in float32 is 9e-5 (measured). Let d = log p - log q, so q = p exp(-d). Adding sum (q - p) = 0 gives
KL = sum p (d + expm1(-d)). All its terms are >= 0, and to first order an error in the normalisation has no effect: its
relative error is 8e-8 at every correlation (measured).

The gradient, per token:
  logits of p     dKL/da_j = p_j (d_j - sum p d)
  logits of q     dKL/da_j = q_j - p_j = p_j expm1(-d_j)
  through z-score, with g = dKL/da and c = x - m = a r T:
    ds/dx_j = c_j / ((D - 1) s),  so  dKL/dx_j = 1/(r T) (g_j - mean g) - (sum g a) / r * c_j / ((D - 1) s)
                                               = 1/(r T) [g_j - a_j (sum g a) T^2 r / ((D - 1) s)]
  where mean g = 0 for both forms of g. A constant token has a = 0 and s = 0: the second term is 0, the gradient finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from x2i_platform.errors import TrainingError

Direction = Literal["student_teacher", "teacher_student"]

STD_EPS = 1e-7
"""Added to the standard deviation, not to the variance, as the released code does."""

CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**23}
"""Elements of one float32 buffer: 2 MiB fit into a CPU's cache, 32 MiB keep a GPU busy."""


def attention_kl(
    students: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    weights: Sequence[Tensor | None] | None = None,
    temperature: float = 3.0,
    direction: Direction = "student_teacher",
) -> Tensor:
    """Compute the X2I distillation loss: the sum of all taps' KL divergences, divided by the batch size only.

    `students[i]` and `targets[i]` are `(B, n_i, D_i)` attention outputs of any float dtype; both are z-scored here.
    `weights[i]` multiplies each token's divergence and broadcasts to `(B, n_i)`; None means 1. `student_teacher` is
    KL(student || teacher), as in the reference; `teacher_student` is the forward KL. There is no factor T^2.

    Returns a scalar, float32 unless a student is float64. Only `students` get gradients, in their own dtype (float16
    underflows: prefer bfloat16). It can be differentiated once. Raises TrainingError if the taps don't match.
    """
    weights = [None] * len(students) if weights is None else weights
    _check_taps(students, targets, weights)
    needs_grad = tuple(torch.is_grad_enabled() and student.requires_grad for student in students)
    terms = _Terms(tuple(targets), tuple(weights), temperature, direction == "student_teacher", needs_grad)
    return cast(Tensor, _AttentionKL.apply(terms, *students))  # type: ignore[no-untyped-call]


def require_finite(value: Tensor, *, what: str, step: int) -> float:
    """Return the scalar as a float; this waits for the device. Raises TrainingError if it is NaN or infinite.

    Call it on the loss and the gradient norm before the update.
    """
    number = float(value.detach())
    if not math.isfinite(number):
        raise TrainingError(
            f"step {step}: {what} is {number}; nothing was updated. Lower the learning rate, use "
            "train.precision=float32, or look for a damaged sample in the store"
        )
    return number


@dataclass(frozen=True)
class _Terms:
    """All arguments of the loss that get no gradient."""

    targets: tuple[Tensor, ...]
    weights: tuple[Tensor | None, ...]
    temperature: float
    student_first: bool
    """True for KL(student || teacher), False for KL(teacher || student)."""
    needs_grad: tuple[bool, ...]


class _AttentionKL(torch.autograd.Function):
    """The loss of all taps as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, terms: _Terms, *students: Tensor) -> Tensor:
        total = torch.zeros((), dtype=_compute_dtype(*students), device=students[0].device)
        gradients = []
        for index, student in enumerate(students):
            loss, gradient = _tap_kl(student, terms=terms, index=index)
            total += loss
            if gradient is not None:
                gradients.append(gradient)
        ctx.needs_grad = terms.needs_grad
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients = list(ctx.saved_tensors)
        # Drop the graph's references (unless it is retained). Each unscaled tensor is then freed once its scaled one
        # exists, so the peak is one set of gradients plus one tap, not two sets.
        ctx.maybe_clear_saved_tensors()
        for index, gradient in enumerate(gradients):
            gradients[index] = gradient * scale
            del gradient
        remaining = iter(gradients)
        return (None, *(next(remaining) if needed else None for needed in ctx.needs_grad))


def _tap_kl(student_BnD: Tensor, *, terms: _Terms, index: int) -> tuple[Tensor, Tensor | None]:
    """Return one tap's weighted divergence over the batch size, and its gradient in the student's dtype if needed."""
    batch, _, channels = student_BnD.shape
    # (B, n, D) -> (N, D): z-score, softmax and KL work on each token by itself.
    student_ND = student_BnD.detach().reshape(-1, channels)
    target_ND = terms.targets[index].detach().reshape(-1, channels)
    dtype = _compute_dtype(student_ND, target_ND)
    weight_N1 = _token_weights(terms.weights[index], like=student_BnD, dtype=dtype) / batch
    total = torch.zeros((), dtype=dtype, device=student_ND.device)
    gradient_ND = torch.empty_like(student_ND) if terms.needs_grad[index] else None
    chunk = max(1, CHUNK_ELEMENTS.get(student_ND.device.type, CHUNK_ELEMENTS["cpu"]) // channels)
    # One set of buffers for all chunks: on a CPU, page faults of fresh memory would cost as much as the arithmetic.
    buffers_ND = torch.empty(5, min(chunk, len(student_ND)), channels, dtype=dtype, device=student_ND.device)
    for start in range(0, len(student_ND), chunk):
        part = slice(start, min(start + chunk, len(student_ND)))
        work = _Workspace(*buffers_ND[:, : part.stop - part.start])
        # Cast this chunk to float32.
        work.student_ND.copy_(student_ND[part])
        work.target_ND.copy_(target_ND[part])
        # Features -> logits, in place.
        std_N1 = _zscore_to_logits(work.student_ND, temperature=terms.temperature)
        _zscore_to_logits(work.target_ND, temperature=terms.temperature)
        # (N, 1): the KL of each token, times its weight.
        total += (_divergence(work, student_first=terms.student_first) * weight_N1[part]).sum()
        if gradient_ND is not None:
            # Chain rule: from the logits through the z-score. All constant factors are in `scale_N1`.
            slope_ND = _slope(work, student_first=terms.student_first)
            scale_N1 = weight_N1[part] / ((std_N1 + STD_EPS) * terms.temperature)
            gradient_ND[part] = _through_zscore(slope_ND, work, std_N1=std_N1, terms=terms).mul_(scale_N1)
    return total, None if gradient_ND is None else gradient_ND.view(student_BnD.shape)


class _Workspace(NamedTuple):
    """Buffers of one chunk of tokens, `(N, D)` each. The functions below say what they leave in them."""

    student_ND: Tensor
    target_ND: Tensor
    p_ND: Tensor
    expm1_ND: Tensor
    spare_ND: Tensor


def _zscore_to_logits(features_ND: Tensor, *, temperature: float) -> Tensor:
    """Turn features into logits `(x - mean) / ((std + eps) T)` in place and return the unbiased std, `(N, 1)`.

    Two passes are 15 times faster than `torch.std_mean` on a CPU, and as exact because the mean is removed first.
    """
    features_ND.sub_(features_ND.mean(-1, keepdim=True))
    norm_N1: Tensor = torch.linalg.vector_norm(features_ND, dim=-1, keepdim=True)
    std_N1 = norm_N1 / math.sqrt(features_ND.shape[-1] - 1)
    features_ND.div_((std_N1 + STD_EPS) * temperature)
    return std_N1


def _divergence(work: _Workspace, *, student_first: bool) -> Tensor:
    """Compute KL(p || q) of every token, `(N, 1)`, from the two logits.

    Leaves p in `p`, d = log p - log q in `target` (overwriting its logits), and exp(-d) - 1 in `expm1`.
    """
    first_ND, second_ND = (work.student_ND, work.target_ND) if student_first else (work.target_ND, work.student_ND)
    torch.softmax(first_ND, -1, out=work.p_ND)
    torch.softmax(second_ND, -1, out=work.spare_ND)
    # A row's log-partition is its largest logit minus the log of its largest probability. Their difference, (N, 1),
    # turns the difference of the logits into log p - log q.
    log_ratio_N1 = (work.spare_ND.amax(-1, keepdim=True) / work.p_ND.amax(-1, keepdim=True)).log_()
    log_ratio_N1 += first_ND.amax(-1, keepdim=True) - second_ND.amax(-1, keepdim=True)
    log_ratio_ND = torch.sub(first_ND, second_ND, out=work.target_ND).sub_(log_ratio_N1)
    # KL = sum p (d + expm1(-d)): no cancellation.
    torch.neg(log_ratio_ND, out=work.expm1_ND).expm1_()
    return torch.add(log_ratio_ND, work.expm1_ND, out=work.spare_ND).mul_(work.p_ND).sum(-1, keepdim=True)


def _slope(work: _Workspace, *, student_first: bool) -> Tensor:
    """Compute the gradient at the student's logits from the buffers that `_divergence` filled; overwrite them."""
    # In exact arithmetic the mean is the divergence (for KL(student || teacher)) or 0. Subtracting the computed mean
    # cancels rounding errors of the normalisation: without it the gradient's error at a correlation of 0.999 is twice
    # as large (for KL(student || teacher)) or ten times as large.
    if student_first:  # p_j (d_j - sum p d)
        mean_N1 = torch.mul(work.p_ND, work.target_ND, out=work.spare_ND).sum(-1, keepdim=True)
        return work.target_ND.sub_(mean_N1).mul_(work.p_ND)
    # p_j expm1(-d_j)
    slope_ND = work.expm1_ND.mul_(work.p_ND)
    return slope_ND.addcmul_(work.p_ND, slope_ND.sum(-1, keepdim=True), value=-1)


def _through_zscore(slope_ND: Tensor, work: _Workspace, *, std_N1: Tensor, terms: _Terms) -> Tensor:
    """Compute the bracket of the derivation at the top of the file, overwriting the gradient at the logits."""
    # r / s. A constant token has logits 0 and std 0: any finite divisor gives the right product, 0.
    ratio_N1 = (std_N1 + STD_EPS) / std_N1.clamp_min(torch.finfo(std_N1.dtype).tiny)
    # (N, 1): (sum g a) T^2 r / ((D - 1) s)
    along_N1 = torch.mul(slope_ND, work.student_ND, out=work.spare_ND).sum(-1, keepdim=True)
    along_N1.mul_(ratio_N1).mul_(terms.temperature**2 / (slope_ND.shape[-1] - 1))
    return slope_ND.addcmul_(work.student_ND, along_N1, value=-1)


def _token_weights(weight: Tensor | None, *, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights of all tokens of a tap, `(N, 1)`."""
    batch, tokens, _ = like.shape
    if weight is None:
        return torch.ones(batch * tokens, 1, dtype=dtype, device=like.device)
    return weight.detach().to(like.device, dtype).expand(batch, tokens).reshape(-1, 1)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _check_taps(students: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor | None]) -> None:
    if not students or not len(students) == len(targets) == len(weights):
        raise TrainingError(
            f"the loss needs as many targets and weights as student taps, at least one: got {len(students)} taps, "
            f"{len(targets)} targets, {len(weights)} weights"
        )
    for index, (student, target) in enumerate(zip(students, targets, strict=True)):
        if student.dim() != 3 or student.shape != target.shape or student.shape[0] != students[0].shape[0]:
            raise TrainingError(
                f"tap {index}: student is {tuple(student.shape)} and target {tuple(target.shape)}; both must be "
                f"(B, tokens, channels) with B = {students[0].shape[0]}"
            )
