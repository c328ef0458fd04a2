"""CPU seconds of a training step with and without memory that is kept: python benchmarks/allocator.py."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import timm
import torch

from vldistill.runtime.memory import keep_freed_memory


def measure(keep: bool, steps: int = 5) -> dict[str, float]:
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    model = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0).eval()
    images = torch.randn(64, 3, 96, 96).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        model(images).square().sum().backward()
        model.zero_grad()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {"cpu_seconds_per_step": (user + system) / steps, "system_share": system / (user + system)}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == "keep")))
        return
    rows = {}
    for name in ("default", "keep"):  # a process each: the wish cannot be taken back
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout)
    ratio = rows["default"]["cpu_seconds_per_step"] / rows["keep"]["cpu_seconds_per_step"]
    print(json.dumps({**rows, "speedup": ratio}, indent=2))


if __name__ == "__main__":
    main()
