"""Measures the time and memory of a GPT-2's training step, beside transformers in PyTorch.

python -m benchmarks.gpt2 [--torch PYTHON] [--vocab 50257] [--blocks 6] [--width 384] [--heads 6] [--rounds 5]

PYTHON is one that has torch and transformers, in an environment of its own; without it, only ours are measured:
plain (the model and the optimizer unchanged) and wrapped (in μP, from a base of half the width). Each runs in a
process of its own; they take turns, a few steps each, so that a busy machine slows all alike. A step is forward
pass, backward pass and AdamW, in float32, without dropout. Memory is the process's peak, less what it had with
its libraries loaded: while stepping, and with the start and XLA's compiling.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

BATCH, LENGTH, STEPS, LR, DECAY = 8, 128, 4, 3e-4, 0.1


def ours(args, wrapped):
    """Returns a function that makes one step of our model, and returns the loss."""
    import haiku as hk
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup
    from haiku_mup import models

    def make_model(width):
        config = models.GPT2Config(
            vocab_size=args.vocab, n_positions=LENGTH, n_embd=width, n_layer=args.blocks, n_head=args.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_stack=args.layer_stack)

        def fn(ids):
            with haiku_mup.apply_mup():
                return models.GPT2LMHeadModel(config)(ids)

        return hk.without_apply_rng(hk.transform(fn))

    ids = jnp.asarray(tokens(args))
    base, model = make_model(args.width // 2), make_model(args.width)
    optimizer, key = optax.adamw(LR, weight_decay=DECAY), jax.random.key(0)
    if wrapped:
        mup = haiku_mup.Mup()
        with mup.init_base():
            jax.eval_shape(base.init, key, ids)
        with mup.init_target():
            jax.eval_shape(model.init, key, ids)
        model, optimizer = mup.wrap_model(model), mup.wrap_optimizer(optimizer)

    def step(params, state):
        def loss_fn(params):
            return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.jit(model.init)(key, ids)
    state = jax.jit(optimizer.init)(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    carry = [params, state]
    del params, state           # donated: only `carry` may hold them

    def one_step():
        *carry[:], loss = compiled(*carry)
        return float(loss)

    return one_step


def theirs(args):
    """Returns a function that makes one step of transformers' model, and returns the loss."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=args.vocab, n_positions=LENGTH, n_embd=args.width, n_layer=args.blocks, n_head=args.heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, use_cache=False)
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    ids = torch.from_numpy(tokens(args))

    def one_step():
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    return one_step


def tokens(args):
    import numpy as np

    return np.random.default_rng(0).integers(0, args.vocab, (BATCH, LENGTH))


def worker(args):
    """Makes the number of steps that each input line says; prints their seconds, and the memory at the end."""
    if args.worker == "torch":
        import torch  # noqa: F401
        import transformers

        transformers.GPT2LMHeadModel    # noqa: B018  loads it
    else:
        import haiku_mup.models  # noqa: F401
    before = memory("VmRSS")
    one_step = theirs(args) if args.worker == "torch" else ours(args, args.worker == "wrapped")
    losses, with_start = [one_step(), one_step()], memory("VmHWM") - before
    pathlib.Path("/proc/self/clear_refs").write_text("5")      # resets VmHWM, the peak
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(one_step())
            seconds.append(time.perf_counter() - start)
        print(*seconds, flush=True)
    stepping = memory("VmHWM") - before
    print(stepping, max(with_start, stepping), losses[0], losses[-1], flush=True)


def memory(field):
    """Returns MiB of this process, as the kernel counts them."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def start(name, args, argv):
    """Starts a worker."""
    python = args.torch if name == "torch" else sys.executable
    return subprocess.Popen([python, "-W", "ignore", __file__, *argv, "--worker", name], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])})


def measure(args, argv):
    """Returns {name: (seconds of steps, MiB while stepping, MiB, first loss, last loss)}; they take turns."""
    names = ["plain", "wrapped", *(["torch"] if args.torch else [])]
    workers = {name: start(name, args, argv) for name in names}
    seconds = {name: [] for name in names}
    for name, process in workers.items():
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{name}: it ended before its first step")
    for _ in range(args.rounds):
        for name, process in workers.items():
            print(STEPS, file=process.stdin, flush=True)
            seconds[name].append([float(x) for x in process.stdout.readline().split()])
    found = {}
    for name, process in workers.items():
        out, _ = process.communicate()
        found[name] = seconds[name], *map(float, out.split())
    return found


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpt2", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help="a Python with torch and transformers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name, default in {"vocab": 50257, "blocks": 6, "width": 384, "heads": 6, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--layer-stack", action="store_true", help="ours with its blocks in one layer_stack")
    return parser.parse_args(argv)


def main(argv=None):
    """Prints a row for each side: milliseconds and memory, and their ratios to plain."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.worker:
        return worker(args)
    found = measure(args, argv)
    plain = [statistics.median(turn) for turn in found["plain"][0]]
    print(f"{args.blocks} blocks, width {args.width}, vocabulary {args.vocab}, batch {BATCH} x {LENGTH}; "
          f"{os.cpu_count()} cores")
    print(f"{'':8}{'step, ms':>10}{'/ plain':>9}{'(of turns)':>15}{'memory, MiB':>13}{'/ plain':>9}"
          f"{'with start':>12}{'losses':>16}")
    for name, (seconds, mib, with_start, first, last) in found.items():
        ratios = [statistics.median(turn) / reference for turn, reference in zip(seconds, plain)]
        step = 1e3 * statistics.median(sum(seconds, []))
        print(f"{name:8}{step:>10.1f}{statistics.median(ratios):>9.3f}{f'({min(ratios):.2f}-{max(ratios):.2f})':>15}"
              f"{mib:>13.0f}{mib / found['plain'][1]:>9.2f}{with_start:>12.0f}{first:>9.3f} {last:.3f}")


if __name__ == "__main__":
    main()
