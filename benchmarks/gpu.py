"""Frames per second on a GPU, from host uint8 images to host labels, and the share of the card's peak.

    python -m benchmarks.gpu [--deliver PATH] [--json FILE]

CHARM, SegFormer-mean and CMNeXt, MiT-B2, head width 256, four modalities, 1024 x 1024, random weights, fp16, one frame
at a time. With a clone of the public CMNeXt: that one too, eager and in fp32 as its authors run it, on the same images.
All run interleaved in one process; a figure is the median time of a frame.

NOT RUN on a GPU yet. `--device cpu --size 64 --backbone B0` goes through the same lines anywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import public
from mss_models.checkpoint import Checkpoint
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import OptionError, open_runtime
from mss_models.system import System, create

SYSTEMS = ("charm", "segformer_mean", "cmnext")
BACKENDS = ("torch", "torch-graphs", "torch-compile")
TARGET_HZ = {"charm": 60.0, "segformer_mean": 60.0}  # with the fastest backend
TARGET_TIMES_PUBLIC = 4.0  # CMNeXt
PUBLIC = "public CMNeXt, eager fp32"

Frames = dict[str, np.ndarray]


def networks(backbone: str, names: tuple[str, ...] = SYSTEMS) -> dict[str, System]:
    torch.manual_seed(0)
    return {name: create(system=name, modalities=DELIVER_MODALITIES, num_classes=25, backbone=backbone,
                         head_width=256).eval() for name in names}


def ours(model: System, backend: str, device: str, precision: str, size: int) -> Callable[[Frames], np.ndarray]:
    """Host images -> host labels. Raises OptionError."""
    holder = Checkpoint(model, LABEL_SETS["deliver"], {one: DEFAULT_ENCODINGS[one] for one in DELIVER_MODALITIES},
                        (size, size), {}, "random")
    runtime = open_runtime(holder, backend, device, precision)
    present = {name: np.ones(1, bool) for name in DELIVER_MODALITIES}
    return lambda images: runtime(images, present).labels


def theirs(model: torch.nn.Module, device: str) -> Callable[[Frames], np.ndarray]:
    """As their scripts do it: normalised on the host in float32, then the network, then the arg-max on the device."""
    model = model.to(device)
    mean, std = (np.array(one, np.float32) for one in (DEFAULT_ENCODINGS["rgb"].mean, DEFAULT_ENCODINGS["rgb"].std))

    def tensor(image: np.ndarray) -> Tensor:
        return torch.from_numpy((image.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2).to(device)

    @torch.inference_mode()
    def run(images: Frames) -> np.ndarray:
        return model([tensor(images[name]) for name in DELIVER_MODALITIES]).argmax(dim=1).to(torch.uint8).cpu().numpy()

    return run


def interleaved(sides: dict[str, Callable[[Frames], np.ndarray]], frames: list[Frames], runs: int) -> dict[str, float]:
    """The median seconds of each side, after every frame once to warm up. The results are on the host: all is done."""
    for one in frames:
        for run in sides.values():
            run(one)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(runs):
        for name, run in sides.items():
            started = time.perf_counter()
            run(frames[i % len(frames)])
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(one) for name, one in times.items()}


@torch.inference_mode()
def operations(model: System, size: int) -> float:
    """Floating-point operations of a frame (an addition and a multiplication are two) in the form that is executed."""
    images = {name: torch.empty(1, 3, size, size, device="meta") for name in DELIVER_MODALITIES}
    present = {name: torch.ones(1, dtype=torch.bool) for name in DELIVER_MODALITIES}
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(images, present)
    return float(counter.get_total_flops())


def peak(device: str, precision: str) -> float:
    """Floating-point operations per second of the largest matrix product: what the card can be brought to do."""
    dtype, side = {"fp16": torch.float16, "fp32": torch.float32}[precision], 8192 if device != "cpu" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(20):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for it
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliver", metavar="PATH", help=f"a clone of {public.DELIVER}")
    parser.add_argument("--json", metavar="FILE", help="write the rows here too")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--backbone", default="B2", help="default: B2; the public CMNeXt is B2 always")
    parser.add_argument("--size", type=int, default=1024, help="of the square images, pixels (default 1024)")
    parser.add_argument("--runs", type=int, default=50, help="the figure is the median of so many (default 50)")
    parser.add_argument("--backends", nargs="+", metavar="NAME", default=BACKENDS, help=f"of {', '.join(BACKENDS)}")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no CUDA device; --device cpu shows that the script itself works")
    for name in ("size", "runs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    if unknown := set(args.backends) - set(BACKENDS):
        parser.error(f"--backends {sorted(unknown)[0]} is unknown; known: {', '.join(BACKENDS)}")
    precision = "fp16" if args.device == "cuda" else "fp32"
    random = np.random.default_rng(0)
    frames = [{name: random.integers(0, 256, (1, args.size, args.size, 3), np.uint8) for name in DELIVER_MODALITIES}
              for _ in range(4)]
    models = networks(args.backbone)
    sides: dict[str, Callable[[Frames], np.ndarray]] = {}
    for name, model in models.items():
        for backend in args.backends:
            try:
                sides[f"{name}, {backend}"] = ours(model, backend, args.device, precision, args.size)
            except OptionError as error:
                print(f"{name}, {backend}: skipped: {error}")
    try:
        sides[PUBLIC] = theirs(public.cmnext(args.deliver)[0], args.device)
    except public.Skipped as reason:
        print(f"{PUBLIC}: skipped: {reason}")
    if not sides:
        parser.error("nothing is left to measure")
    seconds = interleaved(sides, frames, args.runs)
    card = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    highest = peak(args.device, precision)
    counted = {name: operations(model, args.size) for name, model in models.items()}
    print(f"{card}: {highest / 1e12:.3g} TFLOP/s in a {precision} matrix product. {args.backbone}, {args.size} x "
          f"{args.size}, {precision}")
    rows = []
    for name, one in seconds.items():
        system = name.partition(",")[0]
        row = {"name": name, "card": card, "ms": round(1e3 * one, 3), "hz": round(1 / one, 2),
               "target_hz": TARGET_HZ.get(system), "share_of_peak": None, "times_public": None}
        if system in counted:
            row["share_of_peak"] = round(counted[system] / one / highest, 4)
        if system == "cmnext" and PUBLIC in seconds and args.backbone == "B2":
            row["times_public"] = round(seconds[PUBLIC] / one, 2)
        rows.append(row)
        figures = [f"{row['ms']:9.2f} ms {row['hz']:8.1f} frames/s"]
        figures += [f"target {row['target_hz']:g}"] if row["target_hz"] else []
        figures += [f"{100 * row['share_of_peak']:.1f} % of peak"] if row["share_of_peak"] is not None else []
        if row["times_public"]:
            figures += [f"{row['times_public']:.1f} x public, target {TARGET_TIMES_PUBLIC:g}"]
        print(f"{name:32}{'  '.join(figures)}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
