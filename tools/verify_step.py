#!/usr/bin/env python3
"""One whole CSMoE training step, recomputed in JAX (float64, CPU) from scratch: losses and every gradient.

    python -m venv .venv && .venv/bin/pip install 'jax[cpu]==0.10.2' numpy==2.4.6 safetensors==0.8.0

    verify_step.py check --run RUN --step F.safetensors   compare what `csmoe verify-step` wrote with this program
    verify_step.py check --step GOLDEN.safetensors        the same for a golden, which carries its own weights and config
    verify_step.py golden --out shaders-tests/golden/step.safetensors      write the goldens (NAME and NAME-variant files)
    verify_step.py selftest                               identities that hold without any file

It shares no code with the engine. Sources: the CSMoE paper (arXiv 2509.14104, "paper"), its base model CSMAE (arXiv
2401.07782, "CSMAE"), Soft MoE (arXiv 2308.00951), MAE (arXiv 2111.06377). What those leave open is settled here, and the
engine has to agree:

 tokens    P patches in raster order, row first; keep [B,K] indexes them (no CLS), in the order in which the encoder sees
           them. Sequence = CLS, then the kept patches: N = K + 1. CLS has the zero row of the position table.
 encoder   pre-LN blocks, LayerNorm eps 1e-6, biased variance; attention scale 1/sqrt(D/heads); qkv rows are [q | k | v], heads
           contiguous inside each. sensor blocks -> {s}.norm -> cross blocks -> cross.norm; no {s}.norm when sensor_depth = 0.
 RMSNorm   x / max(||x||, 1e-12) * sqrt(D) * gamma.
 Soft MoE  xn = RMSNorm(x). p = ceil(N / L), segment j = tokens jL .. jL+L-1, CLS is token 0; m_j = mean of the segment's
           tokens (the last one may be short: its mean is over the tokens it has). Pads take no part anywhere.
           slot embed (e,j), row e p + j: RMSNorm_slot(W_e m_j), W_e = rows eD .. (e+1)D of moe.slot_proj.weight (no bias).
           slots = {"fixed": p}: RMSNorm_slot(row e p + j of moe.slots [E p, D]); there is no moe.slot_proj then.
           logits = <xn, embed>; router "unit": moe.scale [1] * <xn/max(||xn||,1e-12), embed/max(||embed||,1e-12)>.
           dispatch = softmax over tokens of logits / tau; combine = softmax over all E p slots of logits (never / tau).
           slot = sum dispatch xn; y = FC2_e(GELU_erf(FC1_e slot)); out = sum combine y.
 decoder   embed -> kept patches at their places, {t}.decoder.mask_token elsewhere, CLS in front -> + sin-cos -> blocks -> norm
           -> {t}.decoder.pred_from_{s} -> drop CLS. decoder.common = true: one trunk and one mask token named decoder.*
           instead of {t}.decoder.*; the four heads keep their names.
 pixels    a patch's target is [row, column, channel], channel fastest. norm_pix: (x - mean) / sqrt(var + 1e-6), var unbiased.
 losses    RecL: mean over a patch's values, then over the masked patches of the batch. loss.umr.t: t from t.
           loss.cmr.t: t from the other sensor, with the *source* sensor's mask, its tokens at the source's places.
 MI        features = CLS after cross.norm (through projector.* if the file has one, the same for both sensors), divided by
           max(norm, 1e-12). nt_xent: 2B rows, own diagonal excluded, positive in the denominator, mean over 2B rows.
           eq10: row i of one sensor against all q != i of the *other* (the positive is not in the denominator), both
           directions, mean over 2B rows; needs B >= 2.
 REP       s_e = mean over j of the slot embeds (after RMSNorm_slot), / max(norm, 1e-12); (1/E^2) sum over all e, e', e = e'
           included, of <s_e, s_e'>^2.
 ENT       (1/(E p N)) sum alpha ln(alpha + 1e-8) over the dispatch weights, N without pads.
           Both: mean over the batch, over the MoE layers of a sensor's path (sensor and cross blocks), over the two sensors.
           The signs live in the reported values: rep_sign/ent_sign = "printed" negates loss.rep/loss.ent, and always
 total     = umr.s1 + umr.s2 + cmr.s1 + cmr.s2 + mi + lambda_rep * rep + gamma_ent * ent.  Dense MLPs: rep = ent = 0.
 losses10  [10]: the total loss *before* each of ten AdamW steps (so losses10[0] = loss.total); lr 1e-3 constant, betas 0.9 and
           0.95, eps 1e-8, bias-corrected, p *= 1 - lr * 0.05 on all parameters, no clipping, same batch and masks.
"""
import argparse, copy, json, math, os, sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")   # compiles twice as fast; the matmuls are a library's
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

jax.config.update("jax_enable_x64", True)
SENSORS = ("s1", "s2")
LOSSES = ("umr.s1", "umr.s2", "cmr.s1", "cmr.s2", "mi", "rep", "ent", "total")


# ------------------------------------------------------------------------------------------------ parameters
def shapes(cfg, projector=False):
    """Every parameter's name and shape, from the config alone."""
    d, out = cfg["dim"], {}

    def linear(name, rows, cols):
        out[name + ".weight"], out[name + ".bias"] = (rows, cols), (rows,)

    def norm(name, width):
        out[name + ".weight"], out[name + ".bias"] = (width,), (width,)

    def mlp(name, width):
        linear(name + ".fc1", 4 * width, width), linear(name + ".fc2", width, 4 * width)

    def block(name, width, moe):
        norm(name + ".norm1", width), linear(name + ".attn.qkv", 3 * width, width)
        linear(name + ".attn.proj", width, width), norm(name + ".norm2", width)
        if not moe:
            return mlp(name + ".mlp", width)
        e = cfg["experts"]
        out[name + ".moe.norm.gamma"] = out[name + ".moe.slot_norm.gamma"] = (width,)
        if cfg["slots"] == "dynamic":
            out[name + ".moe.slot_proj.weight"] = (e * width, width)
        else:
            out[name + ".moe.slots"] = (e * cfg["slots"]["fixed"], width)
        if cfg["router"] == "unit":
            out[name + ".moe.scale"] = (1,)
        for i in range(e):
            mlp(f"{name}.moe.experts.{i}", width)

    moe, rho, dec = cfg["mlp"] == "moe", cfg["patch_size"], cfg["decoder"]
    channels = {s: len(cfg["sensors"][s]["bands"]) for s in SENSORS}
    for s in SENSORS:
        out[s + ".patch_embed.proj.weight"], out[s + ".patch_embed.proj.bias"] = (d, channels[s], rho, rho), (d,)
        out[s + ".cls_token"] = (1, 1, d)
        for i in range(cfg["sensor_depth"]):
            block(f"{s}.blocks.{i}", d, moe)
        if cfg["sensor_depth"]:
            norm(s + ".norm", d)
    for i in range(cfg["cross_depth"]):
        block(f"cross.blocks.{i}", d, moe)
    norm("cross.norm", d)
    for trunk in dict.fromkeys(decoder_trunk(cfg, t) for t in SENSORS):
        linear(trunk + ".embed", dec["dim"], d)
        out[trunk + ".mask_token"] = (1, 1, dec["dim"])
        for i in range(dec["depth"]):
            block(f"{trunk}.blocks.{i}", dec["dim"], False)
        norm(trunk + ".norm", dec["dim"])
    for t in SENSORS:
        for s in SENSORS:
            linear(f"{t}.decoder.pred_from_{s}", rho * rho * channels[t], dec["dim"])
    if projector:
        linear("projector", d, d)
    return out


def decoder_trunk(cfg, target):
    return "decoder" if cfg["decoder"].get("common") else target + ".decoder"


# ------------------------------------------------------------------------------------------------ layers
def linear(w, name, x):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def layer_norm(w, name, x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w[name + ".weight"] + w[name + ".bias"]


def unit(x):
    return x / jnp.maximum(jnp.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)


def rms_norm(gamma, x):
    return unit(x) * math.sqrt(x.shape[-1]) * gamma


def mlp(w, name, x):
    return linear(w, name + ".fc2", jax.nn.gelu(linear(w, name + ".fc1", x), approximate=False))


def attention(w, name, x, heads):
    b, n, d = x.shape
    q, k, v = jnp.moveaxis(linear(w, name + ".qkv", x).reshape(b, n, 3, heads, d // heads), 2, 0)  # [B,N,H,dh] each
    weights = jax.nn.softmax(jnp.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(d // heads), axis=-1)
    return linear(w, name + ".proj", jnp.einsum("bhnm,bmhc->bnhc", weights, v).reshape(b, n, d))


def position_table(grid, d):
    """[grid^2 + 1, d], fixed: a zero row for CLS, then [sin w | cos w | sin h | cos h] (MAE)."""
    omega = 10000.0 ** (-np.arange(d // 4) / (d / 4))
    h, w = (np.outer(v.reshape(-1), omega) for v in np.indices((grid, grid)))
    return np.vstack([np.zeros(d), np.hstack([np.sin(w), np.cos(w), np.sin(h), np.cos(h)])])


def soft_moe(w, name, x, cfg):
    """x [B,N,D] -> (out [B,N,D], REP, ENT, (dispatch, combine) [B,N,S]). Soft MoE sec. 2.1, with slots made from the tokens.

    No padding here: a segment's mean is a matrix product, so a pad cannot leak."""
    (b, n, d), e, seg = x.shape, cfg["experts"], cfg["segment_len"]
    x = rms_norm(w[name + ".norm.gamma"], x)
    if cfg["slots"] == "dynamic":
        p = -(-n // seg)
        mean = (np.arange(n) // seg == np.arange(p)[:, None]).astype(x.dtype)
        mean /= mean.sum(1, keepdims=True)
        embed = jnp.einsum("jn,bnd->bjd", mean, x) @ w[name + ".slot_proj.weight"].T
        embed = embed.reshape(b, p, e, d).swapaxes(1, 2)
    else:
        p = cfg["slots"]["fixed"]
        embed = jnp.broadcast_to(w[name + ".slots"].reshape(e, p, d), (b, e, p, d))
    embed = rms_norm(w[name + ".slot_norm.gamma"], embed)                                  # [B,E,p,D]
    if cfg["router"] == "unit":
        logits = w[name + ".scale"] * jnp.einsum("bnd,bejd->bnej", unit(x), unit(embed))
    else:
        logits = jnp.einsum("bnd,bejd->bnej", x, embed)
    logits = logits.reshape(b, n, e * p)
    dispatch = jax.nn.softmax(logits / cfg["tau"], axis=1)
    combine = jax.nn.softmax(logits, axis=2)
    slots = jnp.einsum("bns,bnd->bsd", dispatch, x).reshape(b, e, p, d)
    y = jnp.stack([mlp(w, f"{name}.experts.{i}", slots[:, i]) for i in range(e)], 1).reshape(b, e * p, d)
    return (jnp.einsum("bns,bsd->bnd", combine, y), slot_repulsion(embed), routing_entropy(dispatch), (dispatch, combine))


def block(w, name, x, heads, cfg=None):
    """A pre-LN transformer block; with cfg and MoE weights also its (REP, ENT)."""
    x = x + attention(w, name + ".attn", layer_norm(w, name + ".norm1", x), heads)
    h = layer_norm(w, name + ".norm2", x)
    if name + ".moe.norm.gamma" not in w:
        return x + mlp(w, name + ".mlp", h), None
    out, rep, ent, _ = soft_moe(w, name + ".moe", h, cfg)
    return x + out, (rep, ent)


# ------------------------------------------------------------------------------------------------ losses
def slot_repulsion(embed):
    """Paper, slot repulsion: embed [B,E,p,D] -> mean squared cosine between the experts' mean slots."""
    s = unit(embed.mean(2))
    return (jnp.einsum("bed,bfd->bef", s, s) ** 2).mean()


def routing_entropy(dispatch):
    return (dispatch * jnp.log(dispatch + 1e-8)).mean()


def mutual_information(f1, f2, kind, temperature):
    """Paper eq. 10; CSMAE's NT-Xent. f1, f2 [B,D], row i of one is the positive of row i of the other."""
    f1, f2 = unit(f1), unit(f2)
    b = f1.shape[0]
    if kind == "eq10":
        assert b >= 2, "mi = eq10 has no negatives at batch 1"
        cross = f1 @ f2.T / temperature
        others = jnp.where(np.eye(b, dtype=bool), -jnp.inf, cross)
        rows = jnp.concatenate([jax.nn.logsumexp(others, axis=1), jax.nn.logsumexp(others, axis=0)])
        return (rows - jnp.tile(jnp.diag(cross), 2)).mean()
    f = jnp.concatenate([f1, f2])
    sim = f @ f.T / temperature
    positive = sim[np.arange(2 * b), (np.arange(2 * b) + b) % (2 * b)]
    return (jax.nn.logsumexp(jnp.where(np.eye(2 * b, dtype=bool), -jnp.inf, sim), axis=1) - positive).mean()


def patchify(x, rho):
    """[B,C,H,W] -> [B,P,rho,rho,C]"""
    b, c, height, width = x.shape
    return x.reshape(b, c, height // rho, rho, width // rho, rho).transpose(0, 2, 4, 3, 5, 1).reshape(b, -1, rho, rho, c)


def encode(w, s, x, keep, cfg):
    """-> tokens [B,K+1,D] after the last norm, and the (REP, ENT) of each MoE layer on the way (paper Fig. 1)."""
    patches = jnp.einsum("bpyxc,dcyx->bpd", patchify(x, cfg["patch_size"]), w[s + ".patch_embed.proj.weight"])
    table = jnp.asarray(position_table(cfg["image_size"] // cfg["patch_size"], cfg["dim"]), x.dtype)
    patches = patches + w[s + ".patch_embed.proj.bias"] + table[1:]
    visible = jnp.take_along_axis(patches, keep[:, :, None], axis=1)
    cls = jnp.broadcast_to(w[s + ".cls_token"] + table[0], (x.shape[0], 1, cfg["dim"]))
    h, aux = jnp.concatenate([cls, visible], axis=1), []
    names = [f"{s}.blocks.{i}" for i in range(cfg["sensor_depth"])] + [f"cross.blocks.{i}" for i in range(cfg["cross_depth"])]
    for i, name in enumerate(names):
        h, a = block(w, name, h, cfg["heads"], cfg)
        aux.append(a)
        if i + 1 == cfg["sensor_depth"]:
            h = layer_norm(w, s + ".norm", h)
    return layer_norm(w, "cross.norm", h), [a for a in aux if a is not None]


def reconstruct(w, target, source, tokens, keep, cfg):
    """Target's pixels from the source's tokens -> [B,P,rho*rho*C]."""
    trunk, dec, grid = decoder_trunk(cfg, target), cfg["decoder"], cfg["image_size"] // cfg["patch_size"]
    z = linear(w, trunk + ".embed", tokens)
    full = jnp.broadcast_to(w[trunk + ".mask_token"], (z.shape[0], grid * grid, dec["dim"]))
    full = full.at[np.arange(z.shape[0])[:, None], keep].set(z[:, 1:])
    z = jnp.concatenate([z[:, :1], full], axis=1) + jnp.asarray(position_table(grid, dec["dim"]), z.dtype)
    for i in range(dec["depth"]):
        z, _ = block(w, f"{trunk}.blocks.{i}", z, dec["heads"])
    return linear(w, f"{target}.decoder.pred_from_{source}", layer_norm(w, trunk + ".norm", z))[:, 1:]


def reconstruction_loss(prediction, x, keep, cfg):
    target = patchify(x, cfg["patch_size"]).reshape(prediction.shape)
    if cfg["loss"]["norm_pix"]:
        target = (target - target.mean(-1, keepdims=True)) / jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
    error = prediction - target
    error = (jnp.abs(error) if cfg["loss"]["reconstruction"] == "mae" else error * error).mean(-1)   # [B,P]
    masked = np.ones(error.shape, bool)
    masked[np.arange(len(keep))[:, None], keep] = False
    return jnp.where(masked, error, 0).sum() / masked.sum()


def step(w, x, keep, cfg):
    """The whole objective (paper eq. 20) -> (total, every loss by name)."""
    loss, out, tokens, feature, aux = cfg["loss"], {}, {}, {}, []
    for s in SENSORS:
        tokens[s], a = encode(w, s, x[s], keep[s], cfg)
        feature[s] = linear(w, "projector", tokens[s][:, 0]) if "projector.weight" in w else tokens[s][:, 0]
        aux.append(a)
    for t in SENSORS:
        for s in SENSORS:
            prediction = reconstruct(w, t, s, tokens[s], keep[s], cfg)
            out[f"{'umr' if s == t else 'cmr'}.{t}"] = reconstruction_loss(prediction, x[t], keep[s], cfg)
    out["mi"] = mutual_information(feature["s1"], feature["s2"], loss["mi"], loss["temperature"])
    for i, key in enumerate(("rep", "ent")):
        sign = -1.0 if loss[key + "_sign"] == "printed" else 1.0
        per_sensor = [sum(layer[i] for layer in a) / len(a) if a else 0.0 for a in aux]
        out[key] = sign * sum(per_sensor) / 2
    out["total"] = (sum(v for k, v in out.items() if k[:4] in ("umr.", "cmr.")) + out["mi"]
                    + loss["lambda_rep"] * out["rep"] + loss["gamma_ent"] * out["ent"])
    return out["total"], out


def losses_and_gradients(w, x, keep, cfg):
    f = jax.jit(jax.value_and_grad(lambda w, x: step(w, x, keep, cfg), has_aux=True))
    (_, losses), grads = f(w, x)
    return {k: float(v) for k, v in losses.items()}, {k: np.asarray(v) for k, v in grads.items()}, f


def adamw_losses(f, w, x, steps=10, lr=1e-3, b1=0.9, b2=0.95, eps=1e-8, decay=0.05):
    (m, v), totals = ({k: jnp.zeros_like(a) for k, a in w.items()} for _ in "mv"), []
    for t in range(1, steps + 1):
        (total, _), g = f(w, x)
        totals.append(float(total))
        m = {k: b1 * m[k] + (1 - b1) * g[k] for k in w}
        v = {k: b2 * v[k] + (1 - b2) * g[k] ** 2 for k in w}
        w = {k: w[k] * (1 - lr * decay) - lr * (m[k] / (1 - b1**t)) / (jnp.sqrt(v[k] / (1 - b2**t)) + eps) for k in w}
    return totals


# ------------------------------------------------------------------------------------------------ check
LOSS_DEFAULTS = dict(reconstruction="mse", norm_pix=False, mi="nt_xent", temperature=0.5, lambda_rep=0.01, gamma_ent=0.01,
                     rep_sign="text", ent_sign="text")


def complete(cfg):
    cfg = {"mlp": "moe", "router": "rms", "slots": "dynamic", "tau": 1.0, "mask_ratio": 0.5, **cfg}
    cfg["loss"] = {**LOSS_DEFAULTS, **cfg.get("loss", {})}
    return cfg


def load(run, step_file):
    """-> cfg, weights, x, keep, and what was written: losses and gradients."""
    got = load_file(step_file)
    if run:
        with open(os.path.join(run, "config.json")) as f:
            cfg = json.load(f)
        weights = load_file(os.path.join(run, "model.safetensors"))
    else:
        with safe_open(step_file, "numpy") as f:
            cfg = json.loads(f.metadata()["config"])
        weights = {k[7:]: v for k, v in got.items() if k.startswith("weight.")}
    cfg, problems = complete(cfg), []
    expected = shapes(cfg, "projector.weight" in weights)
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected or weights[name].shape != expected[name]:
            problems.append(f"weights: {name}: the config says {expected.get(name)}, the file has "
                            f"{weights[name].shape if name in weights else None}")
        elif f"grad.{name}" not in got or got[f"grad.{name}"].shape != expected[name]:
            problems.append(f"{step_file}: grad.{name} is missing or not {expected[name]}")
    problems += [f"{step_file}: {k} belongs to no parameter" for k in got if k.startswith("grad.") and k[5:] not in expected]
    problems += [f"{step_file}: loss.{k} is missing" for k in LOSSES if f"loss.{k}" not in got]
    problems += [f"{step_file}: {k}.{s} is missing" for k in ("input", "keep") for s in SENSORS if f"{k}.{s}" not in got]
    patches = (cfg["image_size"] // cfg["patch_size"]) ** 2
    for s in SENSORS if not problems else ():
        keep, c, size = got[f"keep.{s}"].astype(np.int64), len(cfg["sensors"][s]["bands"]), cfg["image_size"]
        if got[f"input.{s}"].shape != (len(keep), c, size, size):
            problems.append(f"input.{s}: {got[f'input.{s}'].shape}, expected {(len(keep), c, size, size)}")
        if keep.shape[1] != math.floor(patches * (1 - cfg["mask_ratio"])):
            problems.append(f"keep.{s}: {keep.shape[1]} kept of {patches}, the mask ratio is {cfg['mask_ratio']}")
        if keep.min() < 0 or keep.max() >= patches or any(len(set(row)) != len(row) for row in keep.tolist()):
            problems.append(f"keep.{s}: an index out of 0..{patches - 1}, or twice in a row")
    if problems:
        sys.exit("\n".join(problems[:10] + [f"... {len(problems)} such problems"] * (len(problems) > 10)))
    x = {s: jnp.asarray(got[f"input.{s}"], jnp.float64) for s in SENSORS}
    keep = {s: got[f"keep.{s}"].astype(np.int64) for s in SENSORS}
    losses = {k: float(got[f"loss.{k}"].reshape(-1)[0]) for k in LOSSES}
    grads = {k: got[f"grad.{k}"] for k in weights}
    return cfg, {k: jnp.asarray(v, jnp.float64) for k, v in weights.items()}, x, keep, losses, grads


def relative_errors(grads, ref_grads, floor):
    norm = lambda g: float(np.linalg.norm(g))
    error = lambda k, ref: norm(np.asarray(grads[k], np.float64) - ref) / max(norm(ref), floor)
    return {k: e if (e := error(k, ref)) == e else math.inf for k, ref in ref_grads.items()}


def compare(losses, grads, ref_losses, ref_grads, loss_rtol=1e-4, rtol=1e-3, rows=20, noise=None):
    """Prints the tables; True when everything agrees.

    noise: the gradients of this program in float32, shown beside; they do not change the verdict. The rms router of a wide,
    untrained model is nearly one-hot and amplifies rounding: JAX's own float32 is 1e-6 off on the goldens, with Xavier weights 1e-4
    at csmoe-tiny (batch 4), but 9e-4 and 6e-3 at csmoe-16 (batch 2, two seeds); changing csmoe-16's weights by half a float32 ulp
    moves the exact gradients by up to 8e-4. There --noise says whether a miss is rounding.
    A loss: relative to its own size. A gradient: ||g - ref|| / ||ref||, where a tensor whose ||ref|| is below 1e-7 of the whole
    gradient's norm (an expert no token chose: float32 flushes it to zero) is measured against that floor instead."""
    ok = True
    print(f"{'loss':8} {'written':>16} {'float64':>16} {'relative':>10}")
    for k in LOSSES:
        error = abs(losses[k] - ref_losses[k]) / max(abs(ref_losses[k]), 1e-6 * abs(ref_losses["total"]))
        good = error <= loss_rtol                                      # false for NaN too
        ok &= good
        print(f"{k:8} {losses[k]:16.9f} {ref_losses[k]:16.9f} {error:10.1e}{'' if good else '  FAIL'}")
    norms = {k: float(np.linalg.norm(g)) for k, g in ref_grads.items()}
    floor = 1e-7 * math.hypot(*norms.values())
    errors = relative_errors(grads, ref_grads, floor)
    low = relative_errors(noise, ref_grads, floor) if noise else {}
    order = sorted(errors, key=errors.get, reverse=True)
    failed = [k for k in order if errors[k] > rtol]
    shown = order[:rows] if rows else order
    head = "  float32" if noise else ""
    print(f"\n{'norm-rel':>9} {'max-rel':>9} {'||grad||':>10}{head}  tensor ({len(shown)} worst of {len(order)})")
    for k in shown:
        ref = ref_grads[k]
        peak = np.abs(np.asarray(grads[k], np.float64) - ref).max() / max(np.abs(ref).max(), floor / math.sqrt(ref.size))
        print(f"{errors[k]:9.1e} {peak:9.1e} {norms[k]:10.3e}{f'{low[k]:9.1e}' if noise else ''}  {k}"
              f"{'  FAIL' if k in failed else ''}")
    ok &= not failed
    print(f"\n{'OK' if ok else 'FAILED'}: {len(order)} gradients, worst {errors[order[0]]:.1e} (allowed {rtol:.0e}), "
          f"{len(failed)} over; {sum(n < floor for n in norms.values())} below the floor of {floor:.1e}; "
          f"losses allowed {loss_rtol:.0e}"
          + (f"; float32 in JAX: worst {max(low.values()):.1e}" if noise else ""))
    return ok


def check(args):
    cfg, w, x, keep, losses, grads = load(args.run, args.step)
    ref_losses, ref_grads, _ = losses_and_gradients(w, x, keep, cfg)
    noise = None
    if args.noise:
        single = lambda tensors: {k: v.astype(jnp.float32) for k, v in tensors.items()}
        noise = losses_and_gradients(single(w), single(x), keep, cfg)[1]
    sys.exit(not compare(losses, grads, ref_losses, ref_grads, args.loss_rtol, args.rtol, 0 if args.all else 20, noise))


# ------------------------------------------------------------------------------------------------ goldens
def micro(**changes):
    """N = 5 tokens in segments of 4: p = 2 slots an expert, the second segment three pads short."""
    bands = {"s1": ["VV", "VH"], "s2": ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"]}
    cfg = dict(preset="golden", image_size=24, patch_size=8, dim=32, heads=2, sensor_depth=1, cross_depth=1, mlp="moe",
               experts=2, segment_len=4, router="rms", slots="dynamic", tau=1.0,
               decoder=dict(dim=16, depth=1, heads=2, common=False),
               sensors={s: dict(bands=b, mean=[0.0] * len(b), std=[1.0] * len(b)) for s, b in bands.items()},
               # weights of the two small losses large enough, and different enough, that a mistake in them shows
               loss={**LOSS_DEFAULTS, "lambda_rep": 0.3, "gamma_ent": 0.7}, mask_ratio=0.5)
    for k, v in changes.items():
        cfg[k] = {**cfg[k], **v} if k in ("loss", "decoder") else v
    return cfg


SMALL = dict(image_size=12, patch_size=4, dim=16, decoder=dict(dim=8, depth=1, heads=2))
VARIANTS = {                                                        # name -> (config changes, linear projector, sorted keep)
    "": ({}, False, True),
    "printed": ({**SMALL, "loss": dict(mi="eq10", rep_sign="printed", ent_sign="printed")}, False, True),
    "unit": ({**SMALL, "router": "unit"}, False, True),
    "fixed": ({**SMALL, "slots": {"fixed": 3}, "experts": 3}, False, True),
    "pixels": ({**SMALL, "tau": 0.7, "experts": 3, "segment_len": 2,
                "loss": dict(reconstruction="mae", norm_pix=True)}, True, False),
    "csmae": ({**SMALL, "mlp": "dense", "sensor_depth": 0, "cross_depth": 2,
               "decoder": dict(dim=8, depth=1, heads=2, common=True)}, False, True),
}


def random_weights(cfg, rng, projector=False):
    """Nothing at a special value (no zero bias, no unit norm), softmaxes neither flat nor one-hot."""
    w = {}
    for name, shape in shapes(cfg, projector).items():
        z = rng.standard_normal(shape)
        if name.endswith(".scale"):
            z = 4.0 + z
        elif name.endswith(".gamma"):
            z = 0.6 + 0.1 * z
        elif name.endswith(".bias"):
            z = 0.1 * z
        elif len(shape) == 1:                                       # LayerNorm weights
            z = 1.0 + 0.2 * z
        elif name.endswith("_token"):
            z = 0.5 * z
        elif not name.endswith(".slots"):
            z = z / math.sqrt(np.prod(shape[1:]))
        w[name] = z.astype(np.float32)
    return w


def random_batch(cfg, rng, batch, sort=True):
    grid, size = cfg["image_size"] // cfg["patch_size"], cfg["image_size"]
    kept = math.floor(grid * grid * (1 - cfg["mask_ratio"]))
    x = {s: rng.standard_normal((batch, len(cfg["sensors"][s]["bands"]), size, size)).astype(np.float32) for s in SENSORS}
    keep = {s: np.argsort(rng.random((batch, grid * grid)), axis=1)[:, :kept] for s in SENSORS}
    return x, {s: np.sort(k, axis=1) if sort else k for s, k in keep.items()}


def example(name, seed=20250916, batch=3, dtype=jnp.float64):
    changes, projector, sort = VARIANTS[name]
    cfg, rng = micro(**copy.deepcopy(changes)), np.random.default_rng(seed)
    cfg["preset"] = f"golden-{name}" if name else "golden"
    w, (x, keep) = random_weights(cfg, rng, projector), random_batch(cfg, rng, batch, sort)
    return cfg, {k: jnp.asarray(v, dtype) for k, v in w.items()}, {s: jnp.asarray(v, dtype) for s, v in x.items()}, keep


def golden(args):
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    stem, ext = os.path.splitext(args.out)
    for name in VARIANTS:
        cfg, w, x, keep = example(name)
        losses, grads, f = losses_and_gradients(w, x, keep, cfg)
        out = {f"weight.{k}": v for k, v in w.items()} | {f"grad.{k}": v for k, v in grads.items()}
        out |= {f"input.{s}": x[s] for s in SENSORS} | {f"loss.{k}": np.array([v]) for k, v in losses.items()}
        out["losses10"] = np.array(adamw_losses(f, w, x))
        out = {k: np.ascontiguousarray(v, np.float32) for k, v in out.items()}
        out |= {f"keep.{s}": keep[s].astype(np.int32) for s in SENSORS}
        path = f"{stem}-{name}{ext}" if name else args.out
        save_file(out, path, metadata={"config": json.dumps(cfg)})
        print(f"{path}: {os.path.getsize(path):,} bytes, {sum(v.size for v in w.values()):,} parameters, "
              + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()) + f"; after ten steps {out['losses10'][-1]:.4f}")


# ------------------------------------------------------------------------------------------------ self-tests
def soft_moe_padded(w, name, x, cfg):
    """soft_moe once more for one image, as the public layers do it: plain loops, zero pads, masks. x [N,D] (rms, dynamic)."""
    (n, d), e, seg = x.shape, cfg["experts"], cfg["segment_len"]
    w = {k[len(name) + 1:]: np.asarray(v) for k, v in w.items() if k.startswith(name + ".")}
    p = math.ceil(n / seg)
    rms = lambda v, g: v / max(np.linalg.norm(v), 1e-12) * math.sqrt(d) * g
    xn = np.zeros((p * seg, d))
    xn[:n] = [rms(v, w["norm.gamma"]) for v in x]
    valid = np.arange(p * seg) < n
    logits = np.full((p * seg, e * p), -np.inf)
    for i in range(e):
        for j in range(p):
            members = [t for t in range(j * seg, (j + 1) * seg) if valid[t]]
            embed = rms(w["slot_proj.weight"][i * d:(i + 1) * d] @ xn[members].mean(0), w["slot_norm.gamma"])
            logits[valid, i * p + j] = xn[valid] @ embed
    dispatch = np.exp(logits / cfg["tau"] - (logits / cfg["tau"]).max(0))
    dispatch /= dispatch.sum(0)
    combine = np.zeros_like(logits)
    combine[valid] = np.exp(logits[valid] - logits[valid].max(1, keepdims=True))
    combine[valid] /= combine[valid].sum(1, keepdims=True)
    out = np.zeros_like(xn)
    for s in range(e * p):
        fc = lambda k, v: w[f"experts.{s // p}.{k}.weight"] @ v + w[f"experts.{s // p}.{k}.bias"]
        h = fc("fc1", dispatch[:, s] @ xn)
        y = fc("fc2", np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in h]))
        out += combine[:, s:s + 1] * y
    return out, dispatch, combine, valid


def preset(patch, **changes):
    cfg = micro(image_size=224, patch_size=patch, dim=768, heads=12, sensor_depth=4, cross_depth=2, experts=8, segment_len=8,
                decoder=dict(dim=256, depth=4, heads=8))
    return {**cfg, **changes}


def selftest(_):
    failures = 0

    def test(name, good, note=""):
        nonlocal failures
        failures += not good
        print(f"{'ok  ' if good else 'FAIL'} {name} {note}")

    near = lambda a, b, tol=1e-12: bool(np.allclose(np.asarray(a), np.asarray(b), rtol=tol, atol=tol))
    rng = np.random.default_rng(1)
    for b in (2, 5):
        ones, eye = jnp.ones((b, 8)), jnp.eye(b, 8)
        for kind, constant, orthogonal in (("nt_xent", math.log(2 * b - 1), math.log(1 + (2 * b - 2) * math.exp(-2))),
                                           ("eq10", math.log(b - 1), math.log(b - 1) - 2)):
            mi = lambda f: mutual_information(f, f, kind, 0.5)
            test(f"MI {kind}, B={b}: constant features -> {constant:.4f}, orthogonal pairs -> {orthogonal:.4f}",
                 near(mi(ones), constant) and near(mi(eye), orthogonal))
    test("REP of orthogonal experts is 1/E, of equal ones 1", near(slot_repulsion(jnp.eye(4)[None, :, None]), 0.25)
         and near(slot_repulsion(jnp.ones((2, 4, 3, 5))), 1))
    test("ENT of a uniform dispatch is ln(1/N)/N", near(routing_entropy(jnp.full((2, 5, 4), 0.2)), math.log(0.2 + 1e-8) / 5))

    cfg, w, x, keep = example("pixels")                                 # 3 experts, segments of 2: one pad
    name, h = "s1.blocks.0.moe", jnp.asarray(rng.standard_normal((3, 5, 16)))
    out, _, _, (dispatch, combine) = soft_moe(w, name, h, cfg)
    test("dispatch sums to 1 over tokens, combine over slots", near(dispatch.sum(1), 1) and near(combine.sum(2), 1))
    padded = [soft_moe_padded(w, name, np.asarray(v), cfg) for v in h]
    valid = padded[0][3]
    test("pads get 0 (padded loops)", not valid.all() and not any(part[~valid].any() for p in padded for part in p[:3]))
    test("pad-free einsums == padded loops", all(near(mine[i], part[valid], 1e-11) for i, p in enumerate(padded)
                                                 for mine, part in zip((out, dispatch, combine), p)))
    test("batch independence", near(soft_moe(w, name, h[1:2], cfg)[0][0], out[1]))
    inside, across = np.array([1, 0, 2, 3, 4]), np.array([0, 2, 1, 3, 4])
    permuted = lambda order, tol: near(soft_moe(w, name, h[:, order], cfg)[0], out[:, order], tol)
    test("a permutation inside a segment is exact, across it is not", permuted(inside, 1e-12) and not permuted(across, 1e-6))
    test("tau -> inf: uniform dispatch", near(soft_moe(w, name, h, {**cfg, "tau": 1e15})[3][0], 1 / 5))
    table = position_table(3, 16)                                        # patch (row 1, column 2) is row 1 + 5
    test("sin-cos table in closed form", not table[0].any() and near(
        table[6, [0, 1, 4, 8, 9, 13]], [math.sin(2), math.sin(0.2), math.cos(2), math.sin(1), math.sin(0.1), math.cos(0.1)]))
    pixels = patchify(jnp.arange(2 * 12 * 12.0).reshape(1, 2, 12, 12), 4).reshape(1, 9, -1)
    test("pixel-major, channel fastest", near(pixels[0, 4, :4], [52, 196, 53, 197]))

    for variant in VARIANTS:
        cfg, w, x, keep = example(variant)
        losses, grads, f = losses_and_gradients(w, x, keep, cfg)
        way = {k: jnp.asarray(rng.standard_normal(v.shape)) for k, v in w.items()}
        ahead, back = (float(f({k: w[k] + sign * 1e-5 * way[k] for k in w}, x)[0][0]) for sign in (1, -1))
        slope = sum(float((grads[k] * way[k]).sum()) for k in w)
        test(f"{variant or 'base'}: slope along a random direction == central difference",
             abs((ahead - back) / 2e-5 - slope) < 1e-6 * abs(slope))
        test(f"{variant or 'base'}: every tensor has a gradient", all(np.linalg.norm(g) > 1e-4 for g in grads.values()))
    low = losses_and_gradients(*example(variant, dtype=jnp.float32)[1:], cfg)[1]
    noise = max(relative_errors(low, grads, 0).values())
    test("float32 and float64 are two runs, and agree", 1e-9 < noise < 1e-5, f"(worst tensor {noise:.1e})")
    print("--- what compare() must refuse")
    wrong = {**grads, "cross.norm.bias": grads["cross.norm.bias"] * 1.002}
    test("a gradient 0.2 % off is refused", not compare(losses, wrong, losses, grads, rows=1))
    test("a loss 0.02 % off is refused", not compare({**losses, "mi": losses["mi"] * 1.0002}, grads, losses, grads, rows=1))
    wrong = {**grads, "cross.norm.bias": grads["cross.norm.bias"] * np.nan}
    test("NaN is refused", not compare(losses, wrong, losses, grads, rows=1))
    print("---")
    count = lambda cfg, pick: sum(math.prod(s) for k, s in shapes(cfg).items() if pick(k))
    path = lambda k: (k.startswith("s2.") or k.startswith("cross.")) and ".decoder." not in k
    for patch, want in ((32, 277_059_072), (28, 275_215_872), (16, 271_160_832), (14, 270_700_032)):
        got = count(preset(patch), path)
        test(f"csmoe-{patch}: S2-path parameters", got == want, f"{got:,}")
    test("csmoe-16: both encoders", count(preset(16), lambda k: ".decoder." not in k) == 451_017_216)
    test("csmoe-16: with the decoders", count(preset(16), lambda k: True) == 459_309_568)
    csmae = preset(15, image_size=120, mlp="dense", sensor_depth=10, cross_depth=2)
    test("csmae: S2 path = 12 dense layers, patch embedding, CLS, two norms", count(csmae, path) == 86_787_072)
    sys.exit(failures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("check", help="recompute a step and compare")
    p.add_argument("--run", help="folder with config.json and model.safetensors (left out: --step is a golden)")
    p.add_argument("--step", required=True)
    p.add_argument("--rtol", type=float, default=1e-3, help="gradients, relative to each tensor's norm")
    p.add_argument("--loss-rtol", type=float, default=1e-4)
    p.add_argument("--all", action="store_true", help="list every tensor, not the 20 worst")
    p.add_argument("--noise", action="store_true", help="also this program in float32: what rounding alone does to each tensor")
    p.set_defaults(run_command=check)
    p = commands.add_parser("golden", help="write the goldens")
    p.add_argument("--out", required=True)
    p.set_defaults(run_command=golden)
    commands.add_parser("selftest").set_defaults(run_command=selftest)
    args = parser.parse_args()
    args.run_command(args)
