"""Results of a run: summary.json, the figure, and the losses on screen."""
import argparse
import math
from typing import Any

import jax
import numpy as np

from demos.common import report as reports
from demos.pretrain.corpus import Corpus
from demos.pretrain.learning_curve import LearningCurve
from demos.pretrain.training import BETAS, CLIP

LAST = 0.2          # of the steps: the mean of their training losses is the result
FIGURE = "learning_curve.png"


def report(args: argparse.Namespace, corpus: Corpus, params: Any, curve: LearningCurve, seconds: float) -> None:
    """Writes summary.json and the figure, and prints the losses."""
    last = [loss for step, loss in curve.losses("train_loss") if step >= args.steps * (1 - LAST)]
    train, valid = float(np.mean(last)), curve.losses("valid_loss")[-1][1]
    found = {"train_loss": reports.finite_or_none(train), "valid_loss": reports.finite_or_none(valid),
             "parameters": sum(x.size for x in jax.tree.leaves(params))}
    reports.write_summary(args, corpus, seconds, {"clip": CLIP, "betas": BETAS}, {"found": found})
    title = f"{args.model}, width {args.width}, {args.layers} layers, {corpus.source}"
    curve.plot(args.out / FIGURE, title, args.command)
    unit = f"perplexity {math.exp(valid):.1f}" if corpus.words else f"{valid / math.log(2):.3f} bits a byte"
    print(f"loss {train:.4f} in the last fifth of {args.steps} steps, {valid:.4f} held out ({unit})\n"
          f"learning_curve.csv, {FIGURE}, summary.json and checkpoints are in {args.out}")
