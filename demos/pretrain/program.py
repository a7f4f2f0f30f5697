"""All of it."""
import argparse
import shlex
import sys
import time

from demos.pretrain import corpus as corpora
from demos.pretrain import processes
from demos.pretrain.arguments import PATHS, PROG, parse, parser, settings
from demos.pretrain.checkpoints import Checkpoints
from demos.pretrain.model import captured
from demos.pretrain.processes import alone, leads, say
from demos.pretrain.report import report
from demos.pretrain.sampling import sample
from demos.pretrain.training import Trainer, run


def train(args: argparse.Namespace) -> None:
    """All of it.

    Raises:
      ImportError, OSError, ValueError: what can't be; MupError is a ValueError.
    """
    start, masked = time.perf_counter(), args.model != "gpt2"
    data = corpora.corpus(args.text, args.level, masked)
    batches = corpora.Batches(data, args.batch, args.length, masked, args.seed)
    batches.check()
    mup = captured(args, data.size)
    if not alone():
        processes.agree([settings(args, data, PATHS), mup.state_dict()])
    if args.save_base and leads():
        mup.save(args.save_base)
    args.out.mkdir(parents=True, exist_ok=True)
    say(f"data: {data.source}, {len(data.train):,} ids")
    trainer = Trainer(args, data.size, mup)
    checkpoints = Checkpoints(args.out / "checkpoints", settings(args, data), mup)
    try:
        state, curve = run(args, trainer, batches, checkpoints,
                           ("temperature", *["steps"] * (args.schedule == "constant")))
    finally:
        checkpoints.close()
    if args.model == "gpt2":
        ids = sample(args, trainer, state.params, data.valid[:args.length // 4])
        say(f"\n{data.text(ids)}\n")
    if leads():
        report(args, data, state.params, curve, time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Runs the demo; returns its exit code, or exits with what is wrong."""
    args = parse(argv)
    with processes.together():
        try:
            processes.join()
            train(args)
        except KeyboardInterrupt:
            given = sys.argv[1:] if argv is None else argv
            print(f"\ninterrupted; to go on: {shlex.join([*PROG.split(), *given])}", file=sys.stderr)
            sys.exit(130)
        except processes.SAID as error:
            parser().error(str(error))
    return 0
