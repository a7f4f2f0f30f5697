"""The program: from the command line to the trained model."""
import argparse
import shlex
import sys
import time
from collections.abc import Sequence

from demos.pretrain import processes
from demos.pretrain.arguments import PATHS, PROG, make_parser, parse, run_settings
from demos.pretrain.checkpoints import Checkpoints
from demos.pretrain.corpus import Batches, load_corpus
from demos.pretrain.models import MASKED, capture
from demos.pretrain.processes import is_leader, is_single, print_once
from demos.pretrain.report import report
from demos.pretrain.sampling import sample
from demos.pretrain.training import Trainer, train


def pretrain(args: argparse.Namespace) -> None:
    """Trains a model, from the newest checkpoint if there is one, and reports the results.

    Raises:
      ImportError, OSError, ValueError: invalid arguments or files; MupError is a ValueError.
    """
    start, masked = time.perf_counter(), args.model in MASKED
    corpus = load_corpus(args.text, args.level, masked)
    batches = Batches(corpus=corpus, rows=args.batch, length=args.length, masked=masked, seed=args.seed)
    batches.check()
    mup = capture(args, corpus.size)
    if not is_single():
        processes.check_same([run_settings(args, corpus, without=PATHS), mup.state_dict()])
    if args.save_base and is_leader():
        mup.save(args.save_base)
    args.out.mkdir(parents=True, exist_ok=True)
    print_once(f"data: {corpus.source}, {len(corpus.train):,} ids")
    trainer = Trainer(args, corpus.size, mup)
    checkpoints = Checkpoints(args.out / "checkpoints", run_settings(args, corpus), mup)
    try:
        state, curve = train(args, trainer, batches, checkpoints)
    finally:
        checkpoints.close()
    if not masked:
        ids = sample(args, trainer, state.params, prompt=corpus.valid[:args.length // 4])
        print_once(f"\n{corpus.decode(ids)}\n")
    if is_leader():
        report(args, corpus, state.params, curve, time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns its exit code, or exits with an error of one line."""
    args = parse(argv)
    with processes.end_together():
        try:
            processes.join()
            pretrain(args)
        except KeyboardInterrupt:
            typed = sys.argv[1:] if argv is None else argv
            print(f"\ninterrupted; to go on: {shlex.join([*PROG.split(), *typed])}", file=sys.stderr)
            sys.exit(130)
        except processes.ONE_LINE_ERRORS as error:
            make_parser().error(str(error))
    return 0
