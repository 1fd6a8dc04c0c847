"""Time, extra peak memory and accuracy of the fused attention loss against the reference's formula, term by term.

    python benchmarks/loss.py [--taps 8 --tokens 512 --channels 3072 --batch 1 --dtype bfloat16 --device cpu --json]

Three ways to the same loss and gradient: `fused` is `x2i_platform.training.losses.attention_kl`; `term-by-term (input
dtype)` evaluates the released formula tap by tap in the features' own dtype, adds the terms up in Python and leaves the
gradient to autograd; `term-by-term (float32)` does so on features cast to float32.

Time: the three run in turn, forward and backward, `--repeats` rounds in one process, after one round of warming up. The
table has the median and the median over rounds of the ratio to `fused` in the same round, which stays comparable while
other work shares the machine. On a CPU it is the process's CPU time, on CUDA wall time between synchronisations.

Memory: what forward and backward add, at their peak, to features and targets already there; the students' gradients
are part of it. On CUDA `max_memory_allocated`; on a CPU the high-water mark of the resident set (VmHWM in
/proc/self/status, reset through /proc/self/clear_refs). Each way has a process of its own, whose allocator returns
freed blocks at once.

Accuracy: cosine between one tap's gradient and the float64 gradient, for a student whose features correlate with the
teacher's at `--correlation`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from x2i_platform.training.losses import attention_kl

TEMPERATURE = 3.0
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def term_by_term(students: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The released formula in the dtype of its inputs."""
    terms = []
    for student, target in zip(students, targets, strict=True):
        log_target = F.log_softmax(zscore(target) / TEMPERATURE, dim=-1)
        terms.append(F.kl_div(log_target, F.softmax(zscore(student) / TEMPERATURE, dim=-1), reduction="batchmean"))
    return torch.stack(terms).sum()


def zscore(features: Tensor) -> Tensor:
    return (features - features.mean(-1, keepdim=True)) / (features.std(-1, keepdim=True) + 1e-7)


def term_by_term_float32(students: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    return term_by_term([student.float() for student in students], [target.float() for target in targets])


WAYS: dict[str, Loss] = {
    "fused": attention_kl,
    "term-by-term (input dtype)": term_by_term,
    "term-by-term (float32)": term_by_term_float32,
}


def make_features(options: argparse.Namespace, *, taps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Students that need gradients, and targets, in the asked dtype on the asked device."""
    shape = (options.batch, options.tokens, options.channels)
    dtype, noise_share = getattr(torch, options.dtype), (1 - options.correlation**2) ** 0.5
    students, targets = [], []
    for tap in range(taps):
        generator = torch.Generator(options.device).manual_seed(tap)
        target = torch.randn(shape, generator=generator, device=options.device)
        noise = torch.randn(shape, generator=generator, device=options.device)
        students.append((options.correlation * target + noise_share * noise).to(dtype).requires_grad_())
        targets.append(target.to(dtype))
    return students, targets


def forward_backward(loss: Loss, students: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for student in students:
        student.grad = None
    loss(students, targets).backward()  # type: ignore[no-untyped-call]


def measure_times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every way in every round."""
    students, targets = make_features(options, taps=options.taps)
    on_cuda = options.device.startswith("cuda")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_number in range(options.repeats + 1):
        for name, loss in WAYS.items():
            clock = time.perf_counter if on_cuda else time.process_time
            start = clock()
            forward_backward(loss, students, targets)
            if on_cuda:
                torch.cuda.synchronize()
            if round_number:  # the first round warms up
                seconds[name].append(clock() - start)
    return seconds


def measure_memory(options: argparse.Namespace) -> int:
    """Peak bytes that one way adds, in this process."""
    loss = WAYS[options.measure_memory]
    tiny = argparse.Namespace(**{**vars(options), "tokens": 2, "channels": 8})
    forward_backward(loss, *make_features(tiny, taps=1))  # libraries and thread pools load before the baseline
    students, targets = make_features(options, taps=options.taps)
    if options.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        forward_backward(loss, students, targets)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from what is resident now
    before = resident_peak()
    forward_backward(loss, students, targets)
    return resident_peak() - before


def resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory_in_a_process_of_its_own(name: str) -> int:
    """Run this file again with the same options for one way's memory alone."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--measure-memory", name],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(done.stdout)


def measure_cosine(name: str, options: argparse.Namespace) -> float:
    students, targets = make_features(options, taps=1)
    (gradient,) = torch.autograd.grad(WAYS[name](students, targets), students)
    exact = [student.detach().double().requires_grad_() for student in students]
    (wanted,) = torch.autograd.grad(term_by_term(exact, [target.double() for target in targets]), exact)
    return float(F.cosine_similarity(gradient.double().flatten(), wanted.flatten(), dim=0))


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    seconds = measure_times(options)
    peaks = {name: memory_in_a_process_of_its_own(name) for name in WAYS}
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "times_fused": statistics.median(a / b for a, b in zip(seconds[name], seconds["fused"], strict=True)),
            "peak_bytes": peaks[name],
            "peak_over_fused": peaks[name] / peaks["fused"],
            "gradient_cosine": measure_cosine(name, options),
        }
        for name in WAYS
    }


def machine(options: argparse.Namespace) -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if options.device.startswith("cuda"):
        name = torch.cuda.get_device_name(options.device)
    elif cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} CPUs, {options.threads} torch threads, torch {torch.__version__}"


def markdown(results: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    size = f"{options.taps} taps of ({options.batch}, {options.tokens}, {options.channels}) {options.dtype}"
    lines = [
        f"{size}, correlation {options.correlation}, {options.repeats} rounds; {machine(options)}",
        "",
        "| loss and gradient | seconds | time / fused | extra peak MiB | memory / fused | gradient cosine |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['seconds']:.4f} | {row['times_fused']:.1f} | {row['peak_bytes'] / 2**20:.0f} "
            f"| {row['peak_over_fused']:.1f} | {row['gradient_cosine']:.4f} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--taps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--channels", type=int, default=3072)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--correlation", type=float, default=0.999, help="of student and teacher features")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="one JSON line in place of the table")
    parser.add_argument("--measure-memory", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    torch.set_num_threads(options.threads)
    if options.measure_memory:
        print(measure_memory(options))
        return
    results = measure(options)
    if options.json:
        print(json.dumps({"machine": machine(options), "options": vars(options), "results": results}))
    else:
        print(markdown(results, options))


if __name__ == "__main__":
    main()
