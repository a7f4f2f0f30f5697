"""The command line, and the settings that a run keeps in its checkpoints."""
import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import demos.pretrain
from demos.common import flags
from demos.pretrain.corpus import Corpus
from demos.pretrain.models import MODELS

PROG = "python -m demos.pretrain"
# May change when a run continues. Bases are compared by their content, and texts by their checksum.
CHANGEABLE = ("out", "base", "save_base", "parametrization", "save_every", "eval_every", "text", "command")
PATHS = ("out", "base", "save_base", "text", "command")     # may differ between the processes of a run


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """A formatter of `--help` that shows the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def make_parser() -> flags.Parser:
    """Returns the parser of the command line."""
    parser = flags.Parser(prog=PROG, description=demos.pretrain.__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--model", choices=MODELS, default="gpt2", help="what is trained")
    add("--width", type=flags.positive_int, default="128", help="of the residual stream")
    add("--layers", type=flags.positive_int, default="4", help="blocks")
    add("--head-size", type=flags.positive_int, default="32", help="a wider model has more heads")
    add("--text", type=pathlib.Path, metavar="FILE", help="in UTF-8; without, the King James Bible")
    add("--level", choices=("byte", "word"), default="byte", help="what an id stands for")
    add("--base", type=pathlib.Path, metavar="FILE",
        help="in μP relative to the base in this file; without, the model is itself the base")
    add("--save-base", type=pathlib.Path, metavar="FILE", help="writes this model as a base")
    add("--parametrization", choices=("mup", "sp"), default="mup", help="sp: standard")
    add("--steps", type=flags.positive_int, default="600", help="updates")
    add("--batch", type=flags.positive_int, default="16", help="rows, of all devices together")
    add("--length", type=flags.positive_int, default="128", help="ids of a row")
    add("--lr", type=flags.positive_float, default="0.004", help="the highest learning rate")
    add("--schedule", choices=("cosine", "constant"), default="cosine", help="behind the warm-up")
    add("--warmup", type=int, default="50", help="steps up to that rate")
    add("--decay", type=flags.fraction, default="0.1", help="AdamW's, of matrices")
    add("--dropout", type=flags.fraction, default="0", help="rate of all of them")
    add("--seed", type=int, default="0", help="of parameters, batches and masks")
    add("--eval-every", type=flags.positive_int, default="100", help="steps, held-out loss")
    add("--save-every", type=flags.positive_int, default="100", help="steps, checkpoints")
    add("--temperature", type=flags.positive_float, default="0.8", help="of the sample that is written")
    add("--out", type=pathlib.Path, help="folder for the results; an interrupted run goes on where it was; "
        "results/pretrain-MODEL, if not given")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; `args.command` is what was typed."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.base and args.parametrization == "sp":
        parser.error("argument --base: it puts the model in μP; leave it out with --parametrization sp")
    if args.base and args.save_base:
        parser.error("argument --save-base: with --base, the base is in a file already")
    if args.warmup < 0 or args.seed < 0:
        parser.error("arguments --warmup and --seed: give whole numbers from 0 on")
    args.out = args.out or pathlib.Path("results", f"pretrain-{args.model}")
    args.command = flags.typed_command(PROG, argv)
    return args


def run_settings(args: argparse.Namespace, corpus: Corpus,
                 without: Sequence[str] = CHANGEABLE) -> dict[str, Any]:
    """Returns the flags and the text's checksum; without CHANGEABLE flags, those that a checkpoint keeps."""
    settings = {name: value for name, value in vars(args).items() if name not in without}
    return settings | {"checksum": corpus.checksum}
