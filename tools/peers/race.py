"""The race itself; run.sh says what it is and starts it. Contestants are processes that wait while another one runs.

    race.py FOLDER_OF_PROGRAMS [--json] [CASE ...]
    race.py --jax                                  the JAX contestant
"""
import contextlib, json, os, subprocess, sys, tempfile, time
import numpy as np

SOFTWARE = "CSMOE_RUNNER" in os.environ   # a GPU of silicon is timed by the wall's clock, and has no vectors to choose
WIDTHS = (256, 512) if SOFTWARE else ("",)   # of llvmpipe's vectors
CLOCK = 0 if SOFTWARE else 1
TOLERANCE = 1e-3      # of a tensor's largest value
BURST, ROUNDS, SLOW = 0.4, 5, 2.0   # seconds; a pass that takes longer than SLOW is timed less often


def linear(m, k, n):
    return [("x", (m, k), 1), ("w", (n, k), 0.1), ("b", (n,), 1)]


def norm(d):
    return [("w", (d,), 1), ("b", (d,), 1)]


def mlp(d):
    return [("w1", (4 * d, d), 0.06), ("b1", (4 * d,), 0.1), ("w2", (d, 4 * d), 0.03), ("b2", (d,), 0.1)]


QKV = [(n, (4, 197, 768), 1.5) for n in "qkv"]
X = ("x", (4, 197, 768), 1)
ATTENTION = [("w" + n, (768, 768), 0.06) for n in "qkv"] + [("b" + n, (768,), 0.1) for n in "qkv"]
BLOCK = [X, *norm(768), *ATTENTION, *linear(1, 768, 768)[1:], *norm(768), *mlp(768)]
HEADS_FLOP = 12 * 4 * 197 * 197 * 768   # two products forward and four backward; what a fused kernel recomputes is not counted

# Name: (what, inputs as (name, shape, largest value), floating-point operations forward and backward).
CASES = {
    "matmul 1024 x 1024 x 1024": ("linear", linear(1024, 1024, 1024), 6 * 1024**3),
    "matmul 4096 x 768 x 3072": ("linear", linear(4096, 768, 3072), 6 * 4096 * 768 * 3072),
    "layer norm 6304 x 768": ("layer_norm", [("x", (6304, 768), 1), *norm(768)], None),
    "perceptron with GELU 788 x 768 x 3072": ("mlp", [("x", (788, 768), 1), *mlp(768)], 12 * 788 * 768 * 3072),
    "attention B 4, 12 heads of 64, N 197": ("attention", QKV, HEADS_FLOP),
    "dispatch + combine B 4, 200 x 197, D 768": (
        "soft_moe", [("slots", (4, 200, 768), 0.35), ("tokens", (4, 197, 768), 0.35)], 18 * 4 * 200 * 197 * 768),
    "ViT block 768, 12 heads, N 197, B 4": ("vit_block", BLOCK, 6 * 788 * 12 * 768**2 + HEADS_FLOP),
}


class Contestant:
    """A process that knows `load` and `burst` (src/main.rs)."""

    def __init__(self, peer, variant, command, **env):
        self.peer, self.name, self.log = peer, f"{peer} {variant}".strip(), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=os.environ | env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log)

    def ask(self, *words):
        answer = []
        with contextlib.suppress(BrokenPipeError):
            print(*words, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline().split()
        if not answer:
            self.log.seek(0)
            raise ChildProcessError(" ".join(self.log.read().split())[-300:] or "it died without a word")
        return answer

    def leave(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def burst(self, seconds=BURST):
        """(CPU seconds, wall seconds) of a pass."""
        times, wall, cpu = map(float, self.ask("burst", seconds))
        return cpu / times, wall / times

    def warm_up(self):
        """Bursts until some in a row gain nothing (three, fewer of the very slow); the best."""
        best, idle = self.burst(), 0
        while idle < (3 if best[1] < SLOW else 1):
            now = self.burst()
            idle = idle + 1 if now[CLOCK] > 0.97 * best[CLOCK] else 0
            best = min(best, now, key=lambda t: t[CLOCK])
        return best


def contestants(folder):
    run = os.environ.get("CSMOE_RUNNER", "").split()
    yield Contestant("csmoe", "", [*run, f"{folder}/fusion", "csmoe"])
    for width in WIDTHS:
        env = {"LP_NATIVE_VECTOR_WIDTH": str(width)} if SOFTWARE else {}
        for build in sorted(os.listdir(folder)):
            yield Contestant("burn", f"{build} {width}".strip(), [*run, f"{folder}/{build}", "burn"], **env)
        yield Contestant("meganeura", str(width), [*run, f"{folder}/fusion", "meganeura"], **env)
    # In f32 like the others, also where a GPU would rather take fewer bits.
    yield Contestant("jax", "", [sys.executable, __file__, "--jax"], JAX_DEFAULT_MATMUL_PRECISION="highest",
                     XLA_PYTHON_CLIENT_PREALLOCATE="false")


def difference(mine, reference, inputs, result):
    """The worst of all tensors: the largest difference as a part of the largest value."""
    worst, at = 0.0, 0
    for name, size in [("y", result)] + [(name, int(np.prod(shape))) for name, shape, _ in inputs]:
        a, b = mine[at:at + size], reference[at:at + size]
        at += size
        # A softmax does not see what all its keys share: that gradient is nothing but rounding.
        if name != "bk":
            worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst if len(mine) == at == len(reference) else float("inf")


def race(case, peers, folder):
    """Rows of one case: everybody's best variant, timed in turns."""
    kind, inputs, flop = CASES[case]
    rng = np.random.default_rng(1)
    source = f"{folder}/inputs"
    np.concatenate([rng.uniform(-most, most, shape).ravel() for _, shape, most in inputs]).astype("f4").tofile(source)
    shapes = ["x".join(map(str, shape)) for _, shape, _ in inputs]
    reference, result, heats, rows = None, 0, [], []
    everybody = list(contestants(peers))
    for c in everybody:
        try:
            c.ask("load", kind, source, f"{folder}/outputs", *shapes)
            values = np.fromfile(f"{folder}/outputs", "f4")
            if reference is None:
                reference, result = values, len(values) - sum(int(np.prod(shape)) for _, shape, _ in inputs)
            off = difference(values, reference, inputs, result)
            if not off <= TOLERANCE:
                raise ChildProcessError(f"its results are {off:.1e} off")
            best = c.warm_up()
        except ChildProcessError as e:
            print(f"{case}: {c.name} is out: {e}", file=sys.stderr)
            continue
        print(f"{case}: {c.name} {best[0] * 1e3:.1f} ms CPU, {best[1] * 1e3:.1f} ms", file=sys.stderr)
        heats.append((best, off, c))
    final = {}
    for best, off, c in sorted(heats, key=lambda h: h[0][CLOCK]):
        final.setdefault(c.peer, (off, c, [best]))
    for turn in range(ROUNDS):
        for _, c, times in final.values():
            if turn < 2 or times[0][1] < SLOW:
                with contextlib.suppress(ChildProcessError):  # who dies now keeps the bursts it had
                    times.append(c.burst())
    for c in everybody:
        c.leave()
    for peer in sorted(final, key=lambda p: p != "csmoe"):
        off, c, times = final[peer]
        cpu, wall = (min(t[i] for t in times) for i in (0, 1))
        ours = rows[0] if rows else {"cpu_s": cpu, "wall_s": wall}
        rows.append({"case": case, "contestant": c.name, "cpu_s": cpu, "wall_s": wall, "difference": off,
                     "gflop_per_cpu_s": flop and flop / cpu * 1e-9, "gflop_per_s": flop and flop / wall * 1e-9,
                     "cpu_ratio": cpu / ours["cpu_s"], "wall_ratio": wall / ours["wall_s"]})
    return rows


def jax_contestant():
    import jax
    import jax.numpy as jnp

    def norm(x, w, b):
        return jax.nn.standardize(x, axis=-1, epsilon=1e-6) * w + b

    def mlp(x, w1, b1, w2, b2):
        return jax.nn.gelu(x @ w1.T + b1, approximate=False) @ w2.T + b2

    def attention(q, k, v):
        q, k, v = (t.reshape(*t.shape[:2], 12, 64) for t in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v).reshape(*q.shape[:2], -1)

    def soft_moe(slots, tokens):
        logits = jnp.einsum("bsd,bnd->bsn", slots, tokens)
        inputs = jax.nn.softmax(logits, 2) @ tokens
        return jnp.einsum("bsn,bsd->bnd", jax.nn.softmax(logits, 1), inputs)

    def vit_block(x, n1, c1, wq, wk, wv, bq, bk, bv, w, b, n2, c2, *p):
        n = norm(x, n1, c1)
        h = x + attention(n @ wq.T + bq, n @ wk.T + bk, n @ wv.T + bv) @ w.T + b
        return h + mlp(norm(h, n2, c2), *p)

    kinds = {"linear": lambda x, w, b: x @ w.T + b, "layer_norm": norm, "mlp": mlp, "attention": attention,
             "soft_moe": soft_moe, "vit_block": vit_block}

    @jax.jit(static_argnums=0)
    def run(kind, seed, *inputs):
        y, pull = jax.vjp(kinds[kind], *inputs)
        return y, *pull(seed)

    for line in sys.stdin:
        match line.split():
            case ["load", kind, source, target, *shapes]:
                shapes = [tuple(map(int, s.split("x"))) for s in shapes]
                ends = np.cumsum([np.prod(s) for s in shapes])
                inputs = [jnp.array(a.reshape(s)) for a, s in zip(np.split(np.fromfile(source, "f4"), ends), shapes)]
                seed = jnp.ones(jax.eval_shape(kinds[kind], *inputs).shape)
                np.concatenate([np.ravel(a) for a in run(kind, seed, *inputs)]).tofile(target)
                print("loaded", flush=True)
            case ["burst", seconds]:
                cpu, wall, times = time.process_time(), time.perf_counter(), 0
                while not times or time.perf_counter() < wall + float(seconds):
                    jax.block_until_ready(run(kind, seed, *inputs))
                    times += 1
                print(times, time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def main():
    peers, *words = [w for w in sys.argv[1:] if w != "--json"]
    cases = [c for c in CASES if not words or any(w in c for w in words)]
    everything = []
    if "--json" not in sys.argv:
        print(f"{'forward and backward':42}{'':24}{'GFLOP a CPU-s':>14}{'GFLOP/s':>9}{'csmoe is faster by: CPU':>25}{'wall':>7}{'off':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            rows = race(case, peers, folder)
            everything += rows
            for row in rows if "--json" not in sys.argv else []:
                rates = [f"{row[k]:.1f}" if row[k] else "" for k in ("gflop_per_cpu_s", "gflop_per_s")]
                print(f"{row['case']:42}{row['contestant']:24}{rates[0]:>14}{rates[1]:>9}"
                      f"{row['cpu_ratio']:24.2f}x{row['wall_ratio']:6.2f}x{row['difference']:9.0e}", flush=True)
    if "--json" in sys.argv:
        print(json.dumps(everything, indent=1))


if __name__ == "__main__":
    jax_contestant() if "--jax" in sys.argv else main()
