"""How long does a training step of GPT-2 take, and how much memory, beside transformers in PyTorch?

python -m benchmarks.gpt2 [--torch PYTHON] [--vocab 50257] [--blocks 6] [--width 384] [--heads 6] [--rounds 5]

PYTHON is one that has torch and transformers, in an environment of its own; without it, ours alone is measured:
plain (the model and the optimizer as they are) and wrapped (in μP, from a base of half the width). Each is a
process of its own; they take turns, a few steps each, so that a busy machine slows all alike. A step is forward
pass, backward pass and AdamW, in float32, without dropout. Memory is what the process has beyond what it had
with its libraries loaded, at its peak: while stepping, and with the start and XLA's compiling.
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
    """A function that makes one step, and returns the loss."""
    import haiku as hk
    import jax
    import jax.numpy as jnp
    import optax

    import haiku_mup
    from haiku_mup import models

    def made(width):
        config = models.GPT2Config(
            vocab_size=args.vocab, n_positions=LENGTH, n_embd=width, n_layer=args.blocks, n_head=args.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_stack=args.layer_stack)

        def fn(ids):
            with haiku_mup.apply_mup():
                return models.GPT2LMHeadModel(config)(ids)

        return hk.without_apply_rng(hk.transform(fn))

    ids = jnp.asarray(tokens(args))
    base, model = made(args.width // 2), made(args.width)
    optimizer, key = optax.adamw(LR, weight_decay=DECAY), jax.random.key(0)
    if wrapped:
        mup = haiku_mup.Mup()
        with mup.init_base():
            jax.eval_shape(base.init, key, ids)
        with mup.init_target():
            jax.eval_shape(model.init, key, ids)
        model, optimizer = mup.wrap_model(model), mup.wrap_optimizer(optimizer)

    def step(params, state):
        def loss_of(params):
            return models.cross_entropy(model.apply(params, ids), models.next_tokens(ids))

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.jit(model.init)(key, ids)
    state = jax.jit(optimizer.init)(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    carry = [params, state]
    del params, state

    def one():
        *carry[:], loss = compiled(*carry)
        return float(loss)

    return one


def theirs(args):
    """The same of transformers' model."""
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

    def one():
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    return one


def tokens(args):
    import numpy as np

    return np.random.default_rng(0).integers(0, args.vocab, (BATCH, LENGTH))


def worker(args):
    """Makes steps as it is told to by lines of input; prints seconds for each, and its memory at the end."""
    if args.worker == "torch":
        import torch  # noqa: F401
        import transformers

        transformers.GPT2LMHeadModel    # noqa: B018  loads it
    else:
        import haiku_mup.models  # noqa: F401
    before = memory("VmRSS")
    one = theirs(args) if args.worker == "torch" else ours(args, args.worker == "wrapped")
    losses, most = [one(), one()], memory("VmHWM") - before
    pathlib.Path("/proc/self/clear_refs").write_text("5")      # the peak from here on
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(one())
            seconds.append(time.perf_counter() - start)
        print(*seconds, flush=True)
    stepping = memory("VmHWM") - before
    print(stepping, max(most, stepping), losses[0], losses[-1], flush=True)


def memory(what):
    """MiB of this process, as the kernel counts them."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def started(name, args, argv):
    python = args.torch if name == "torch" else sys.executable
    return subprocess.Popen([python, "-W", "ignore", __file__, *argv, "--worker", name], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])})


def measured(args, argv):
    """{name: (seconds of its steps, MiB while stepping, MiB, first loss, last loss)}, all taking turns."""
    names = ["plain", "wrapped", *(["torch"] if args.torch else [])]
    workers = {name: started(name, args, argv) for name in names}
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
    it = argparse.ArgumentParser(prog="python -m benchmarks.gpt2", description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--torch", help="a Python with torch and transformers")
    it.add_argument("--worker", help=argparse.SUPPRESS)
    for name, default in {"vocab": 50257, "blocks": 6, "width": 384, "heads": 6, "rounds": 5}.items():
        it.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    it.add_argument("--layer-stack", action="store_true", help="ours with its blocks in one layer_stack")
    return it.parse_args(argv)


def main(argv=None):
    """Prints a row for each."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.worker:
        return worker(args)
    found = measured(args, argv)
    plain = [statistics.median(turn) for turn in found["plain"][0]]
    print(f"{args.blocks} blocks, width {args.width}, vocabulary {args.vocab}, batch {BATCH} x {LENGTH}; "
          f"{os.cpu_count()} cores")
    print(f"{'':8}{'step, ms':>10}{'/ plain':>9}{'(of turns)':>15}{'memory, MiB':>13}{'/ plain':>9}"
          f"{'with start':>12}{'losses':>16}")
    for name, (seconds, mib, most, first, last) in found.items():
        ratios = [statistics.median(turn) / one for turn, one in zip(seconds, plain)]
        step = 1e3 * statistics.median(sum(seconds, []))
        print(f"{name:8}{step:>10.1f}{statistics.median(ratios):>9.3f}{f'({min(ratios):.2f}-{max(ratios):.2f})':>15}"
              f"{mib:>13.0f}{mib / found['plain'][1]:>9.2f}{most:>12.0f}{first:>9.3f} {last:.3f}")


if __name__ == "__main__":
    main()
