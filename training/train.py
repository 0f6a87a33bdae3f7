"""Trains a recipe: `python -m training.train RECIPE --data DIR --out RUN [--set key=value ...] [--resume]`.

A student (AnySeg, RobustSeg) has its teacher trained first, into RUN/teacher. What RUN holds: training/loop.py.
On several GPUs or machines: `torchrun --nproc-per-node 4 -m training.train ...`, see training/distributed.py.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from mss_models.checkpoint import CheckpointError
from mss_models.modality import ModalityError
from mss_models.runtime import OptionError
from mss_models.teachers import TeacherError
from training.commands import Parser
from training.datasets.sample import DatasetError
from training.distributed import joined
from training.recipe import RecipeError
from training.recipes import PAPERS, find_recipe, listing
from training.run_folder import TrainingError
from training.stages import resolve, train_stages

LOG = logging.getLogger(__name__)


class _List(argparse.Action):
    """Like --help: prints the recipes and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(listing())
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend."""
    parser = Parser(prog="python -m training.train", description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", help="a name from training/recipes.py, see --list")
    parser.add_argument("--list", action=_List, nargs=0, default=argparse.SUPPRESS, help="show the recipes and exit")
    parser.add_argument("--data", type=Path, required=True, help="a data set: see training.datasets.opening")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
                        help="change the recipe, e.g. lr=1e-4 phases.0.batch=4 options.variant=b, or its teacher's: "
                             "teacher.iterations=100")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--init", type=Path, help="start from the weights of this checkpoint, or with the "
                        "published encoder of this torch file (mit_b2.pth); a teacher starts with it, too")
    parser.add_argument("--teacher", type=Path,
                        help="the checkpoint that anyseg or robustseg learns from, instead of training one first")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    args = parser.parse_args(arguments)
    command = "python -m training.train " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        named = find_recipe(args.recipe)
        recipe, first = resolve(named, args.settings)
        if named in PAPERS and not (args.init or args.resume):
            LOG.warning("starting from random weights; the papers start from an encoder trained on ImageNet (--init)")
        with joined(args.device) as device:
            scores = train_stages(recipe, first, args.data, args.out, resume=args.resume, init=args.init,
                                  teacher=args.teacher, device=device, command=command)
    except KeyboardInterrupt as stopped:
        text = str(stopped) or "interrupted; --resume goes on from the last evaluation, if there was one"
        print(f"\n{text}", file=sys.stderr)
        return 130
    except (TrainingError, RecipeError, DatasetError, ModalityError, OptionError, TeacherError,
            CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") != "0":
        return 0
    print("val mIoU (classes present): " + ", ".join(f"{name} {value:.1f}" for name, value in scores.items()))
    print(f"checkpoints: {args.out / 'best.safetensors'}, {args.out / 'last.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
