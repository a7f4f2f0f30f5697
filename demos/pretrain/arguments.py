"""The command line."""
import argparse
import math
import pathlib
from typing import Any

import demos.pretrain
from demos.common import flags
from demos.pretrain import corpus as corpora
from demos.pretrain.model import MODELS

PROG = "python -m demos.pretrain"
# What may change as a run goes on; the rest is in its checkpoints. A base is compared by what it says.
FREE = ("out", "base", "save_base", "parametrization", "save_every", "eval_every", "text", "command")
PATHS = ("out", "base", "save_base", "text", "command")     # may differ between the processes of a run


def rate(text: str) -> float:
    """'0.1' -> 0.1"""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return found


def share(text: str) -> float:
    """'0.1' -> 0.1, '0' -> 0.0"""
    found = 0.0 if text.strip() == "0" else rate(text)
    if found >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to less than 1")
    return found


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def parser() -> flags.Parser:
    it = flags.Parser(prog=PROG, description=demos.pretrain.__doc__, formatter_class=Help)
    it.add_argument("--model", choices=MODELS, default="gpt2", help="what is trained")
    it.add_argument("--width", type=flags.count, default="128", help="of the residual stream")
    it.add_argument("--layers", type=flags.count, default="4", help="blocks")
    it.add_argument("--head-size", type=flags.count, default="32", help="a wider model has more heads")
    it.add_argument("--text", type=pathlib.Path, metavar="FILE", help="in UTF-8; without, the King James Bible")
    it.add_argument("--level", choices=("byte", "word"), default="byte", help="what an id stands for")
    it.add_argument("--base", type=pathlib.Path, metavar="FILE",
                    help="in μP relative to the base in this file; without, the model is itself the base")
    it.add_argument("--save-base", type=pathlib.Path, metavar="FILE", help="writes this model as a base")
    it.add_argument("--parametrization", choices=("mup", "sp"), default="mup", help="sp: standard")
    it.add_argument("--steps", type=flags.count, default="600", help="updates")
    it.add_argument("--batch", type=flags.count, default="16", help="rows, of all devices together")
    it.add_argument("--length", type=flags.count, default="128", help="ids of a row")
    it.add_argument("--lr", type=rate, default="0.004", help="the highest learning rate")
    it.add_argument("--schedule", choices=("cosine", "constant"), default="cosine", help="behind the warm-up")
    it.add_argument("--warmup", type=int, default="50", help="steps up to that rate")
    it.add_argument("--decay", type=share, default="0.1", help="AdamW's, of matrices")
    it.add_argument("--dropout", type=share, default="0", help="rate of all of them")
    it.add_argument("--seed", type=int, default="0", help="of parameters, batches and masks")
    it.add_argument("--eval-every", type=flags.count, default="100", help="steps, held-out loss")
    it.add_argument("--save-every", type=flags.count, default="100", help="steps, checkpoints")
    it.add_argument("--temperature", type=rate, default="0.8", help="of the sample that GPT-2 writes")
    it.add_argument("--out", type=pathlib.Path, help="folder for the results; an interrupted run goes on where "
                    "it was; results/pretrain-MODEL, if not given")
    return it


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, and the command that gave them."""
    it = parser()
    args = it.parse_args(argv)
    if args.base and args.parametrization == "sp":
        it.error("argument --base: it puts the model in μP; leave it out with --parametrization sp")
    if args.base and args.save_base:
        it.error("argument --save-base: with --base, the base is in a file already")
    if args.warmup < 0 or args.seed < 0:
        it.error("arguments --warmup and --seed: give whole numbers from 0 on")
    args.out = args.out or pathlib.Path("results", f"pretrain-{args.model}")
    args.command = flags.command(PROG, argv)
    return args


def settings(args: argparse.Namespace, data: corpora.Corpus, free: tuple[str, ...] = FREE) -> dict[str, Any]:
    """What a run was asked for, that of its checkpoints if no other things are free."""
    return {name: value for name, value in vars(args).items() if name not in free} | {"checksum": data.checksum}
