"""Train keye-nano: a few-million-parameter model of the Keye-VL-2.0 architecture on synthetic pictures.

It exists so that the whole path (checkpoint, tokenizer, image, answer) runs on real, trained weights that fit in a
repository. The checkpoint is written in Hugging Face layout with the weight names of Keye-VL-2.0-30B-A3B.

    python train_nano.py --out ../../models/keye-nano --minutes 60 [--resume STATE]

Shapes in comments: B batch, S sequence, P patches, D hidden.
"""
import argparse, json, math, os, random, time
import torch, torch.nn as nn, torch.nn.functional as F
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, Regex, AddedToken
import scenes

PATCH, MERGE = 14, 2
TEXT = dict(hidden=192, layers=4, heads=6, kv=2, head_dim=32, experts=8, topk=2, inter=256, theta=1e6, section=[4, 6, 6], eps=1e-6)
VIS = dict(hidden=144, layers=4, heads=4, inter=432, grid=8, eps=1e-6)
INDEXER = dict(heads=4, head_dim=32, topk=2048)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
            "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
            "<|image_pad|>", "<|video_pad|>", "<|fast_video_pad|>", "<|fast_start|>", "<|fast_end|>", "<|frame|>",
            "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<analysis>",
            "</analysis>", "<answer>", "</answer>"]
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def rms(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rotate_half(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Norm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return rms(x, self.weight, self.eps)


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["hidden"]
        self.heads = c["heads"]
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(d, c["eps"]), nn.LayerNorm(d, c["eps"])
        self.self_attn = nn.ModuleDict({n: nn.Linear(d, d) for n in ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, c["inter"]), "fc2": nn.Linear(c["inter"], d)})

    def forward(self, x, cos, sin):                                  # x [N, P, D], one picture a row
        n, p, d = x.shape
        h, a = self.layer_norm1(x), self.self_attn
        q, k, v = (a[m](h).view(n, p, self.heads, -1).transpose(1, 2) for m in ("q_proj", "k_proj", "v_proj"))
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, p, d)
        x = x + a["out_proj"](o)
        h = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](F.gelu(h, approximate="tanh"))


class Vision(nn.Module):
    """SigLIP-style encoder at native resolution: learned position grid (bilinear) plus 2-D rotary positions."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        d = c["hidden"]
        vm = nn.Module()
        vm.embeddings = nn.Module()
        vm.embeddings.patch_embedding = nn.Conv2d(3, d, PATCH, PATCH)
        vm.embeddings.position_embedding = nn.Embedding(c["grid"] ** 2, d)
        vm.encoder = nn.Module()
        vm.encoder.layers = nn.ModuleList(VisionLayer(c) for _ in range(c["layers"]))
        vm.post_layernorm = nn.LayerNorm(d, c["eps"])
        self.vision_model = vm

    def forward(self, pix, gh, gw):                                   # pix [N, P, 3, 14, 14] -> [N, P, D]
        n, p = pix.shape[:2]
        e = self.vision_model.embeddings
        x = e.patch_embedding(pix.flatten(0, 1)).view(n, p, -1)
        g = self.c["grid"]
        pos = e.position_embedding.weight.view(1, g, g, -1).permute(0, 3, 1, 2)
        pos = F.interpolate(pos, size=(gh, gw), mode="bilinear", align_corners=False)
        x = x + pos.permute(0, 2, 3, 1).reshape(1, p, -1)
        hd = self.c["hidden"] // self.c["heads"]
        inv = 1.0 / 10000 ** (torch.arange(0, hd // 2, 2).float() / (hd // 2))
        ids = torch.arange(p)
        f = torch.cat([(ids // gw)[:, None] * inv, (ids % gw)[:, None] * inv], -1).repeat(1, 2)
        cos, sin = f.cos(), f.sin()
        for layer in self.vision_model.encoder.layers:
            x = layer(x, cos, sin)
        return self.vision_model.post_layernorm(x)


class Projector(nn.Module):
    def __init__(self, dv, dt):
        super().__init__()
        d = dv * MERGE * MERGE
        self.pre_norm = nn.LayerNorm(d, 1e-5)
        self.linear_1, self.linear_2 = nn.Linear(d, d), nn.Linear(d, dt)

    def forward(self, x, gh, gw):                                     # [N, P, Dv] -> [N, P/4, Dt]
        n, _, d = x.shape
        x = x.view(n, gh // 2, 2, gw // 2, 2, d).permute(0, 1, 3, 2, 4, 5).reshape(n, gh * gw // 4, 4 * d)
        return self.linear_2(F.gelu(self.linear_1(self.pre_norm(x))))


class Indexer(nn.Module):
    """Sparse-attention indexer weights; left at their initial values here (contexts stay under its top-k)."""

    def __init__(self, d, c):
        super().__init__()
        self.q_proj = nn.Linear(d, c["heads"] * c["head_dim"] + c["heads"], bias=False)
        self.k_proj = nn.Linear(d, c["head_dim"], bias=False)
        self.q_norm, self.k_norm = Norm(c["head_dim"], 1e-6), nn.LayerNorm(c["head_dim"], 1e-6)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, d, hd = c, c["hidden"], c["head_dim"]
        self.q_proj = nn.Linear(d, c["heads"] * hd, bias=False)
        self.k_proj = nn.Linear(d, c["kv"] * hd, bias=False)
        self.v_proj = nn.Linear(d, c["kv"] * hd, bias=False)
        self.o_proj = nn.Linear(c["heads"] * hd, d, bias=False)
        self.q_norm, self.k_norm = Norm(hd, c["eps"]), Norm(hd, c["eps"])
        self.sa_indexer = Indexer(d, INDEXER)

    def forward(self, x, cos, sin):                                   # cos, sin [B, 1, S, hd]
        b, s, _ = x.shape
        c = self.c
        q = self.q_norm(self.q_proj(x).view(b, s, c["heads"], -1)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(b, s, c["kv"], -1)).transpose(1, 2)
        v = self.v_proj(x).view(b, s, c["kv"], -1).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        r = c["heads"] // c["kv"]
        o = F.scaled_dot_product_attention(q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1), is_causal=True)
        return self.o_proj(o.transpose(1, 2).reshape(b, s, -1))


class Expert(nn.Module):
    def __init__(self, d, i):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(d, i, bias=False), nn.Linear(d, i, bias=False)
        self.down_proj = nn.Linear(i, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.k = c["topk"]
        self.gate = nn.Linear(c["hidden"], c["experts"], bias=False)
        self.experts = nn.ModuleList(Expert(c["hidden"], c["inter"]) for _ in range(c["experts"]))
        self.balance = 0.0

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        prob = self.gate(flat).softmax(-1)
        top, idx = prob.topk(self.k, -1)
        top = top / top.sum(-1, keepdim=True)
        n = len(self.experts)
        self.balance = n * (F.one_hot(idx, n).float().sum(1).mean(0) / self.k * prob.mean(0)).sum()
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            row, slot = (idx == e).nonzero(as_tuple=True)
            if len(row):
                out.index_add_(0, row, expert(flat[row]) * top[row, slot, None])
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(c["hidden"], c["eps"]), Norm(c["hidden"], c["eps"])
        self.self_attn, self.mlp = Attention(c), MoE(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class KeyeNano(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.visual, self.mlp_AR = Vision(VIS), Projector(VIS["hidden"], TEXT["hidden"])
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocab, TEXT["hidden"])
        self.model.layers = nn.ModuleList(Layer(TEXT) for _ in range(TEXT["layers"]))
        self.model.norm = Norm(TEXT["hidden"], TEXT["eps"])
        self.lm_head = nn.Linear(TEXT["hidden"], vocab, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 if p.dim() == 2 and p.shape[0] == vocab else p[0].numel() ** -0.5 * 0.7)

    def forward(self, ids, pos, vis_mask, pix=None, gh=0, gw=0):      # ids [B,S], pos [B,3,S], vis_mask [B,S]
        x = self.model.embed_tokens(ids)
        if pix is not None:
            feats = self.mlp_AR(self.visual(pix, gh, gw), gh, gw)
            x = x.masked_scatter(vis_mask[..., None], feats.reshape(-1, x.shape[-1]))
        hd, sec = TEXT["head_dim"], TEXT["section"]
        inv = 1.0 / TEXT["theta"] ** (torch.arange(0, hd, 2).float() / hd)
        f = pos[..., None].float() * inv                              # [B,3,S,hd/2]
        f = torch.cat([part[:, i] for i, part in enumerate(f.split(sec, -1))], -1)
        f = torch.cat([f, f], -1)[:, None]
        cos, sin = f.cos(), f.sin()
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))


def build_tokenizer(path):
    """Byte-level BPE over the synthetic texts; digits are single tokens."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    rng = random.Random(1)
    corpus = []
    for _ in range(6000):
        s = scenes.sample(rng, render=False)
        corpus += [s["question"], s["answer"], "You are a helpful assistant.\nuser\nassistant\nsystem\n"]
    corpus += ["".join(chr(c) for c in range(32, 127))]
    trainer = trainers.BpeTrainer(vocab_size=768 - len(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(corpus, trainer)
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    tok.save(str(path))
    return tok


def encode(tok, sample):
    """One conversation -> ids, mrope positions [3,S], vision mask, loss mask. `frames` pictures of a gh x gw patch grid."""
    sid = tok.token_to_id
    ids, mask = [], []

    def text(t, learn=False):
        new = tok.encode(t, add_special_tokens=False).ids
        ids.extend(new); mask.extend([learn] * len(new))

    vis_spans = []
    text("<|im_start|>user\n")
    gh, gw = sample.get("grid", (0, 0))
    n = gh * gw // 4
    stamps = sample.get("stamps", [])
    pad = sid("<|video_pad|>" if sample["kind"] == "video" else "<|image_pad|>")
    if stamps:
        text("<|vision_start|>")
    for stamp in stamps:                                              # a clip: <|frame|>seconds, then that frame's pads
        text(stamp)
        vis_spans.append(len(ids))
        ids.extend([pad] * n); mask.extend([False] * n)
    if stamps:
        text("<|vision_end|>")
    text(sample["question"] + "<|im_end|>\n<|im_start|>assistant\n")
    text(sample["answer"] + "<|im_end|>", True)
    s = len(ids)
    pos = torch.zeros(3, s, dtype=torch.long)
    vis = torch.zeros(s, dtype=torch.bool)
    at, nxt = 0, 0
    for start in vis_spans + [None]:
        end = s if start is None else start
        pos[:, at:end] = nxt + torch.arange(end - at)
        nxt += end - at
        if start is not None:
            r = torch.arange(n)
            pos[0, start:start + n] = nxt
            pos[1, start:start + n] = nxt + r // (gw // 2)
            pos[2, start:start + n] = nxt + r % (gw // 2)
            vis[start:start + n] = True
            nxt += max(gh // 2, gw // 2)
            at = start + n
    return torch.tensor(ids), pos, vis, torch.tensor(mask)


def patches(img):                                                     # uint8 [H,W,3] -> [P,3,14,14]
    x = torch.from_numpy(img).float().permute(2, 0, 1) / 255 * 2 - 1
    c, h, w = x.shape
    return x.view(c, h // PATCH, PATCH, w // PATCH, PATCH).permute(1, 3, 0, 2, 4).reshape(-1, c, PATCH, PATCH)


def batch(tok, rng, size):
    kind, grid, frames = scenes.batch_shape(rng)
    rows, pix = [], []
    for _ in range(size):
        s = scenes.sample(rng, kind=kind, grid=grid, frames=frames)
        rows.append(encode(tok, s))
        pix += [patches(p) for p in s.get("pictures", [])]
    longest = max(len(r[0]) for r in rows)
    pad = lambda t, v=0: F.pad(t, (0, longest - t.shape[-1]), value=v)
    ids = torch.stack([pad(r[0]) for r in rows])
    pos = torch.stack([pad(r[1]) for r in rows])
    vis = torch.stack([pad(r[2], False) for r in rows])
    learn = torch.stack([pad(r[3], False) for r in rows])
    return ids, pos, vis, learn, (torch.stack(pix) if pix else None), *(grid or (0, 0)), kind


@torch.no_grad()
def evaluate(model, tok, n=160, seed=9):
    """Greedy exact-answer accuracy by task on fresh scenes."""
    model.eval()
    rng, good, seen, shown = random.Random(seed), {}, {}, []
    end = tok.token_to_id("<|im_end|>")
    for _ in range(n):
        kind, grid, frames = scenes.batch_shape(rng)
        s = scenes.sample(rng, kind=kind, grid=grid, frames=frames)
        ids, pos, vis, learn = encode(tok, s)
        first = int(learn.nonzero()[0])
        cur, p, v = ids[:first], pos[:, :first], vis[:first]
        pix = torch.stack([patches(x) for x in s["pictures"]]) if s.get("pictures") else None
        out = []
        while len(out) < 60:
            logits = model(cur[None], p[None], v[None], pix, *(grid or (0, 0)))[0, -1]
            t = int(logits.argmax())
            if t == end:
                break
            out.append(t)
            cur = torch.cat([cur, torch.tensor([t])])
            p = torch.cat([p, p[:, -1:].max() + 1 + torch.zeros(3, 1, dtype=torch.long)], 1)
            v = torch.cat([v, torch.tensor([False])])
        ans = tok.decode(out)
        seen[s["task"]] = seen.get(s["task"], 0) + 1
        good[s["task"]] = good.get(s["task"], 0) + (ans == s["answer"])
        if len(shown) < 6:
            shown.append((s["question"], s["answer"], ans))
    model.train()
    return {t: f"{good[t]}/{seen[t]}" for t in sorted(seen)}, shown


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True); a.add_argument("--minutes", type=float, default=60)
    a.add_argument("--batch", type=int, default=48); a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--resume"); a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.manual_seed(0); torch.set_num_threads(a.threads)
    out = Path(a.out); out.mkdir(parents=True, exist_ok=True)
    tok_path = out / "tokenizer.json"
    tok = Tokenizer.from_file(str(tok_path)) if a.resume else build_tokenizer(tok_path)
    model = KeyeNano(768)
    print(f"{sum(p.numel() for p in model.parameters())/1e6:.2f} M parameters, vocabulary {tok.get_vocab_size()}", flush=True)
    frozen = [p for n, p in model.named_parameters() if "sa_indexer" in n]
    for p in frozen:
        p.requires_grad_(False)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01)
    step, rng = 0, random.Random(int(time.time()))
    if a.resume:
        st = torch.load(a.resume); model.load_state_dict(st["model"]); opt.load_state_dict(st["opt"]); step = st["step"]
    t0, avg, by_kind = time.time(), None, {}
    last_eval = last_log = t0
    while True:
        frac = (time.time() - t0) / (a.minutes * 60)
        if frac >= 1:
            break
        warm = 1.0 if a.resume else min(1, (step + 1) / 200)
        for g in opt.param_groups:
            g["lr"] = a.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * frac)))
        ids, pos, vis, learn, pix, gh, gw, kind = batch(tok, rng, a.batch)
        logits = model(ids, pos, vis, pix, gh, gw)
        target = ids[:, 1:][learn[:, 1:]]
        loss = F.cross_entropy(logits[:, :-1][learn[:, 1:]], target)
        bal = sum(l.mlp.balance for l in model.model.layers) / TEXT["layers"]
        (loss + 0.01 * bal).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step(); opt.zero_grad(set_to_none=True)
        step += 1
        by_kind[kind] = 0.98 * by_kind.get(kind, loss.item()) + 0.02 * loss.item()
        if time.time() - last_log > 60:
            last_log = time.time()
            print(f"step {step} min {(time.time()-t0)/60:.1f} bal {bal.item():.2f} " +
                  " ".join(f"{k}={v:.3f}" for k, v in sorted(by_kind.items())), flush=True)
        if time.time() - last_eval > 480:
            last_eval = time.time()
            acc, shown = evaluate(model, tok)
            print(acc, flush=True)
            for s in shown[:3]:
                print("   ", s, flush=True)
            torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step), out.parent / "nano-state.pt")
    torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step), out.parent / "nano-state.pt")
    acc, shown = evaluate(model, tok, 400)
    print("final", acc)
    for s in shown:
        print("   ", s)


if __name__ == "__main__":
    main()
