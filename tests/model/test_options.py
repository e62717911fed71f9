"""Each option of the model against its definition, written out here once more in the plainest way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.planner.test_size import OPTIONS, shape_with
from vitscale.engine.recompute import set_recompute
from vitscale.model.build import build_model
from vitscale.model.position import rotation_of, sincos2d
from vitscale.ops.choice import PLAIN

CPU = torch.device("cpu")


def trained_like(shape, ops=PLAIN):
    """A model whose every parameter matters: none zero."""
    model = build_model(shape, ops, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        mean = 1.0 if ("norm" in name and name.endswith("weight")) or "scale" in name else 0.0
        parameter.data.normal_(mean, 0.3, generator=generator)
    return model


def norm(x, p, name, shape):
    """Along the last axis, from the parameters `p` of a model."""
    if shape.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x**2).mean(-1, keepdim=True) + shape.norm_eps)
    x = x * p[f"{name}.weight"]
    return x + p[f"{name}.bias"] if f"{name}.bias" in p else x


def dense(x, p, name):
    x = x @ p[f"{name}.weight"].T
    return x + p[f"{name}.bias"] if f"{name}.bias" in p else x


def mlp(x, p, name, shape):
    hidden = dense(x, p, f"{name}.fc1")
    if shape.activation == "swiglu":
        gate, value = hidden[..., : shape.mlp], hidden[..., shape.mlp :]
        hidden = gate * torch.sigmoid(gate) * value
    elif shape.activation == "gelu":
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    else:
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = 0.5 * hidden * (1 + torch.tanh(inner))
    return dense(hidden, p, f"{name}.fc2")


def turned(x, shape):
    """RoPE of queries or keys [N, d] of one head, patch by patch and pair by pair."""
    x, (rows, columns), d = x.clone(), shape.grid, x.shape[-1]
    for i in range(rows):
        for j in range(columns):
            n = shape.prefix + i * columns + j
            old = x[n].clone()
            for pair in range(d // 2):
                centre = (i + 0.5) / rows if pair < d // 4 else (j + 0.5) / columns
                period = shape.rope_base ** (2 * (pair % (d // 4)) / (d / 2))
                angle = 2 * math.pi * (2 * centre - 1) / period
                a, b = old[pair], old[pair + d // 2]
                x[n, pair] = a * math.cos(angle) - b * math.sin(angle)
                x[n, pair + d // 2] = b * math.cos(angle) + a * math.sin(angle)
    return x


def pair_bias(table, shape, head):
    """The relative bias of each pair of tokens, looked up one by one."""
    rows, columns = shape.grid
    bias = torch.empty(shape.tokens, shape.tokens)
    for n in range(shape.tokens):
        for m in range(shape.tokens):
            a, b = n - shape.prefix, m - shape.prefix
            if a < 0 and b < 0:
                entry = -1
            elif a < 0:
                entry = -3
            elif b < 0:
                entry = -2
            else:
                down, right = a // columns - b // columns, a % columns - b % columns
                entry = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
            bias[n, m] = table[entry, head]
    return bias


def attention(x, p, name, shape):
    """All heads one after the other for one image, x [N, D]."""
    d, width = shape.width // shape.heads, shape.width
    qkv, found = dense(x, p, f"{name}.qkv"), []
    for head in range(shape.heads):
        q, k, v = (qkv[:, i * width + head * d :][:, :d] for i in range(3))
        if shape.qk_norm:
            q, k = norm(q, p, f"{name}.q_norm", shape), norm(k, p, f"{name}.k_norm", shape)
        if shape.positions == "rope":
            q, k = turned(q, shape), turned(k, shape)
        scores = q @ k.T / math.sqrt(d)
        if shape.positions == "relative":
            scores = scores + pair_bias(p[f"{name}.relative_bias"], shape, head)
        found.append(torch.softmax(scores, -1) @ v)
    return dense(torch.cat(found, -1), p, f"{name}.out")


def block(x, p, name, shape):
    one, two = p.get(f"{name}.scale1", 1.0), p.get(f"{name}.scale2", 1.0)
    normed = norm(x, p, f"{name}.norm1", shape)
    if shape.parallel:
        return x + one * attention(normed, p, name, shape) + two * mlp(normed, p, name, shape)
    x = x + one * attention(normed, p, name, shape)
    return x + two * mlp(norm(x, p, f"{name}.norm2", shape), p, name, shape)


def embedded(image, p, shape):
    """Tokens [N, D] of one image [3, H, W], patch by patch."""
    tokens = []
    for i in range(shape.grid[0]):
        for j in range(shape.grid[1]):
            top, left = i * shape.stride, j * shape.stride
            patch = image[:, top : top + shape.patch, left : left + shape.patch].flatten()
            token = p["patch_embed.projection.weight"].flatten(1) @ patch
            token = token + p["patch_embed.projection.bias"]
            if shape.positions == "learned":
                place = bool(shape.cls_token) + i * shape.grid[1] + j
                token = token + p["positions"][0, place]
            elif shape.positions == "learned-2d":
                halves = p["column_positions"][0, j], p["row_positions"][0, i]
                token = token + torch.cat(halves)
            elif shape.positions == "sincos2d":
                token = token + torch.tensor(waves(j, i, shape.width))
            tokens.append(token)
    front = []
    if shape.cls_token:
        learned = shape.positions == "learned"
        front.append(p["cls"][0, 0] + (p["positions"][0, 0] if learned else 0))
    front += [p["registers"][0, r] for r in range(shape.registers)]
    return torch.stack(front + tokens)


def waves(x, y, width):
    """Sines and cosines of a column and a row, one number at a time."""
    n = width // 4
    omegas = [10_000 ** (-i / (n - 1)) for i in range(n)]
    found = [f(c * w) for c in (x, y) for f in (math.sin, math.cos) for w in omegas]
    return np.array(found, np.float32)


def logits(image, p, shape):
    x = embedded(image, p, shape)
    for n in range(shape.depth):
        x = block(x, p, f"blocks.{n}", shape)
    x = norm(x, p, "norm", shape)
    if shape.pooling == "cls":
        pooled = x[0]
    elif shape.pooling == "gap":
        pooled = x[shape.prefix :].mean(0)
    else:
        pooled = one_query(x, p, shape)
        pooled = pooled + mlp(norm(pooled, p, "pool.norm", shape), p, "pool", shape)
    if shape.representation:
        pooled = torch.tanh(dense(pooled, p, "representation"))
    return dense(pooled, p, "head")


def one_query(x, p, shape):
    """torch's own multi-head attention with the learned query."""
    both = [p["pool.q.weight"], p["pool.kv.weight"]]
    biased = shape.biases == "all"
    biases = torch.cat([p["pool.q.bias"], p["pool.kv.bias"]]) if biased else None
    pooled, _ = F.multi_head_attention_forward(
        p["pool.probe"][0], x, x, shape.width, shape.heads, torch.cat(both), biases, None, None,
        False, 0.0, p["pool.out.weight"], p.get("pool.out.bias"), training=False,
    )  # fmt: skip
    return pooled[0]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_computes_what_its_definition_says(changes):
    shape = shape_with(changes)
    model = trained_like(shape).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = torch.randn(2, 3, *shape.image, dtype=torch.float64)
    found = model(images)
    for image, each in zip(images, found, strict=True):
        torch.testing.assert_close(each, logits(image, parameters, shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_trains_in_bf16_with_recomputation(changes):
    """Each parameter takes part, and recomputing the blocks gives the same gradients to the bit."""
    shape, found = shape_with({**changes, "drop_path": 0.3}), []
    images = torch.randn(2, 3, *shape.image).bfloat16()
    for mode in ("none", "full"):
        model = trained_like(shape).train().bfloat16()
        set_recompute(model, mode)
        torch.manual_seed(4)
        model(images).float().square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


def test_rotations_depend_on_the_offset_of_two_patches_alone():
    """What RoPE is for: the score of a query and a key is the same for all pairs of the same offset."""
    cosines, sines = rotation_of((3, 5), 8, 100.0, 1, CPU, torch.float64)
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def at(x, place):
        c, s = cosines[0, 0, place], sines[0, 0, place]
        return x * c + torch.cat([-x[4:], x[:4]]) * s

    scores = [
        at(q, 1 + n) @ at(k, 1 + n + 6) for n in (0, 3, 5, 8)
    ]  # one row down, one to the right
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(4))
    torch.testing.assert_close(at(q, 0), q)


def test_fixed_positions_of_two_patches_are_nearer_the_nearer_they_are():
    table = sincos2d((8, 8), 64, CPU)[0]
    likeness = (table @ table[27]).view(8, 8)
    assert likeness.argmax() == 27
    assert (likeness[3, 3:].diff() < 0).all()


def test_patch_dropout_leaves_others_out_each_time_and_none_in_evaluation():
    shape = shape_with({"patch_drop": 0.5, "registers": 2})
    model = trained_like(shape)
    images = torch.randn(64, 3, 16, 16)
    whole, _ = model.embed(images)
    assert whole.shape[1] == 3 + 16
    torch.manual_seed(0)
    thinned, _ = model.train().embed(images)
    assert thinned.shape[1] == 3 + 8
    assert torch.equal(thinned[:, :3], whole[:, :3])
    times = torch.zeros(16)
    for few, all_ in zip(thinned[:, 3:], whole[:, 3:], strict=True):
        places = [int((all_ == token).all(-1).nonzero()) for token in few]
        assert places == sorted(set(places))
        times[places] += 1
    assert times.min() > 64 * 0.25 and times.max() < 64 * 0.75


def test_dropped_patches_take_their_rotations_with_them():
    """The kept tokens with their own angles, one image at a time and in evaluation."""
    shape = shape_with({"positions": "rope", "patch_drop": 0.6, "pooling": "gap"})
    model = trained_like(shape)
    images = torch.randn(3, 3, 16, 16)
    whole, (cosines, sines) = model.embed(images)
    torch.manual_seed(0)
    thinned, rotation = model.train().embed(images)
    found = model.eval().blocks[0](thinned, rotation)
    for image in range(3):
        places = [int((whole[image] == t).all(-1).nonzero()) for t in thinned[image]]
        own = cosines[:, :, places], sines[:, :, places]
        alone = model.blocks[0](thinned[image : image + 1], own)
        torch.testing.assert_close(found[image : image + 1], alone)


def test_weights_of_attention_add_up_and_give_what_the_block_computes():
    shape = shape_with({"qk_norm": True, "positions": "rope"})
    model = trained_like(shape)
    tokens, rotation = model.embed(torch.randn(2, 3, 16, 16))
    block = model.blocks[0]
    weights = block.attention_weights(tokens, rotation)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 17))
    values = block.qkv(block.norm1(tokens))[..., 64:].view(2, 17, 2, 16).transpose(1, 2)
    mixed = block.out((weights @ values).transpose(1, 2).reshape(2, 17, 32))
    torch.testing.assert_close(mixed, block._attend(block.norm1(tokens), rotation, None))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 30, "positions": "sincos2d"}, "multiple of 4"),
        ({"width": 36, "positions": "rope"}, "width must be a multiple of 4"),
        ({"positions": "relative", "patch_drop": 0.1}, "none can be dropped"),
        ({"cls_token": False}, "no CLS token to pool"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, text):
    with pytest.raises(Exception, match=text):
        shape_with(changes)
