"""flax's names in all their layouts, written here by hand, through import and export to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.weights.models import command, images_of, randomise, vit_of
from vitscale.checkpoint.export import write_tensors
from vitscale.checkpoint.weights import load_weights
from vitscale.config.model import Shape
from vitscale.model.build import build_model

D, H, F, L, P, K, GRID = 24, 3, 40, 2, 4, 5, 3


def our_file(path, shape, seed=1):
    """A file of ours with random weights."""
    model = randomise(build_model(shape), seed)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    write_tensors(tensors, {"shape": shape.as_json(), "weights": "raw", "step": 3}, path)
    return path


def block(rng):
    """One block by the names of linen, sub-layers numbered by kind."""
    made = {}
    for name in ("query", "key", "value"):
        made[f"MultiHeadDotProductAttention_0/{name}/kernel"] = rng.normal(size=(D, H, D // H))
        made[f"MultiHeadDotProductAttention_0/{name}/bias"] = rng.normal(size=(H, D // H))
    made["MultiHeadDotProductAttention_0/out/kernel"] = rng.normal(size=(H, D // H, D))
    made["MultiHeadDotProductAttention_0/out/bias"] = rng.normal(size=D)
    for k in (0, 1):
        made[f"LayerNorm_{k}/scale"] = rng.normal(size=D)
        made[f"LayerNorm_{k}/bias"] = rng.normal(size=D)
    made["MlpBlock_0/Dense_0/kernel"] = rng.normal(size=(D, F))
    made["MlpBlock_0/Dense_0/bias"] = rng.normal(size=F)
    made["MlpBlock_0/Dense_1/kernel"] = rng.normal(size=(F, D))
    made["MlpBlock_0/Dense_1/bias"] = rng.normal(size=D)
    return made


OLD = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def arrays(layout, pooling="tok", representation=False):
    """A checkpoint as big_vision ("npz", "npz-scan") or vision_transformer ("npz-old") saves it, float32."""
    rng = np.random.default_rng(7)
    made = {
        "embedding/kernel": rng.normal(size=(P, P, 3, D)) / 7,
        "embedding/bias": rng.normal(size=D),
        "Transformer/encoder_norm/scale": rng.normal(size=D),
        "Transformer/encoder_norm/bias": rng.normal(size=D),
        "head/kernel": rng.normal(size=(D, K)),
        "head/bias": rng.normal(size=K),
    }
    if pooling == "tok":
        made["cls"] = rng.normal(size=(1, 1, D))
    if representation:
        made |= {
            "pre_logits/kernel": rng.normal(size=(D, D)),
            "pre_logits/bias": rng.normal(size=D),
        }
    blocks = [block(rng) for _ in range(L)]
    if pooling == "map":
        inside = {k: v for k, v in block(rng).items() if "LayerNorm_1" not in k}
        made |= {f"MAPHead_0/{name}": value for name, value in inside.items()}
        made["MAPHead_0/probe"] = rng.normal(size=(1, 1, D))
    prefix = "" if layout == "npz-old" else "params/"
    if layout == "npz-old":
        made["Transformer/posembed_input/pos_embedding"] = rng.normal(size=(1, GRID**2 + 1, D))
        for n, one in enumerate(blocks):
            for name, value in one.items():
                head, _, rest = name.partition("/")
                made[f"Transformer/encoderblock_{n}/{OLD.get(head, head)}/{rest}"] = value
    else:
        made["pos_embedding"] = rng.normal(size=(1, GRID**2, D))
        for name in blocks[0]:
            parts = [one[name] for one in blocks]
            if layout == "npz-scan":
                made[f"Transformer/encoderblock/{name}"] = np.stack(parts)
            else:
                made |= {f"Transformer/encoderblock_{n}/{name}": p for n, p in enumerate(parts)}
    return {prefix + name: value.astype(np.float32) for name, value in made.items()}


def written(path, table):
    with open(path, "wb") as file:
        np.savez(file, **table)
    return path


CASES = [
    ("npz", "tok", False),
    ("npz", "gap", False),
    ("npz", "map", False),
    ("npz-scan", "tok", True),
    ("npz-scan", "map", False),
    ("npz-old", "tok", True),
    ("npz-old", "tok", False),
]


@pytest.mark.parametrize(("layout", "pooling", "representation"), CASES)
def test_in_and_out_again_is_the_same_to_the_bit(tmp_path, layout, pooling, representation):
    table = arrays(layout, pooling, representation)
    source = written(tmp_path / "theirs.npz", table)
    ours = tmp_path / "ours.safetensors"
    assert command("import", source, "--to", ours) == 0
    out = tmp_path / "out.npz"
    assert command("export", ours, "--to", out, "--format", layout) == 0
    with np.load(out) as found:
        assert set(found.files) == set(table)
        for name, value in table.items():
            assert found[name].dtype == np.float32
            assert found[name].tobytes() == value.tobytes(), name
    shape = load_weights(ours).shape
    assert (shape.heads, shape.pooling) == (H, {"tok": "cls"}.get(pooling, pooling))
    assert shape.representation is representation


def reference(table, images):
    """Logits in plain numpy, float64, after big_vision's `vit.py`, by the names of the loop layout."""
    p = {name.removeprefix("params/"): value.astype(np.float64) for name, value in table.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def dense(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / np.sqrt(2)))

    def attention(q, kv, name):
        q, k, v = (
            np.einsum("bnd,dhe->bhne", x, p[f"{name}/{part}/kernel"])
            + p[f"{name}/{part}/bias"][:, None]
            for x, part in ((q, "query"), (kv, "key"), (kv, "value"))
        )
        scores = np.einsum("bhne,bhme->bhnm", q, k) / np.sqrt(D // H)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bhnm,bhme->bnhe", scores / scores.sum(-1, keepdims=True), v)
        return np.einsum("bnhe,hed->bnd", mixed, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]

    b = len(images)
    cells = images.reshape(b, 3, GRID, P, GRID, P).transpose(0, 2, 4, 3, 5, 1)
    x = np.einsum("bijpqc,pqcd->bijd", cells, p["embedding/kernel"]) + p["embedding/bias"]
    x = x.reshape(b, GRID**2, D) + p["pos_embedding"]
    if "cls" in p:
        x = np.concatenate([np.repeat(p["cls"], b, 0), x], 1)
    for n in range(L):
        name = f"Transformer/encoderblock_{n}"
        y = norm(x, f"{name}/LayerNorm_0")
        x = x + attention(y, y, f"{name}/MultiHeadDotProductAttention_0")
        y = norm(x, f"{name}/LayerNorm_1")
        x = x + dense(gelu(dense(y, f"{name}/MlpBlock_0/Dense_0")), f"{name}/MlpBlock_0/Dense_1")
    x = norm(x, "Transformer/encoder_norm")
    if "MAPHead_0/probe" in p:
        q = np.repeat(p["MAPHead_0/probe"], b, 0)
        x = attention(q, x, "MAPHead_0/MultiHeadDotProductAttention_0")
        y = norm(x, "MAPHead_0/LayerNorm_0")
        y = gelu(dense(y, "MAPHead_0/MlpBlock_0/Dense_0"))
        x = (x + dense(y, "MAPHead_0/MlpBlock_0/Dense_1"))[:, 0]
    else:
        x = x[:, 0] if "cls" in p else x.mean(1)
    return dense(x, "head")


@pytest.mark.parametrize("pooling", ["tok", "gap", "map"])
def test_logits_are_those_of_the_formulas(tmp_path, pooling):
    table = arrays("npz", pooling)
    source = written(tmp_path / "theirs.npz", table)
    assert command("import", source, "--to", tmp_path / "ours.safetensors") == 0
    model = vit_of(tmp_path / "ours.safetensors")
    images = images_of(model)
    with torch.no_grad():
        found = model(images).double().numpy()
    wanted = reference(table, images.double().numpy())
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_old_layout_and_the_new_are_the_same_function(tmp_path):
    """CLS and its position are separate in the old one, and one in the new."""
    source = written(tmp_path / "theirs.npz", arrays("npz-old"))
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert command("import", source, "--to", first) == 0
    assert command("export", first, "--to", tmp_path / "new.npz", "--format", "npz-scan") == 0
    assert command("import", tmp_path / "new.npz", "--to", second) == 0
    one, other = vit_of(first), vit_of(second)
    assert not torch.equal(one.cls, other.cls)
    with torch.no_grad():
        assert torch.equal(one(images_of(one)), other(images_of(one)))


def test_bfloat16_has_no_name_in_numpy_and_is_read(tmp_path):
    table = arrays("npz")
    rounded = {n: torch.from_numpy(v).bfloat16() for n, v in table.items()}
    coded = {n: v.view(torch.int16).numpy().view("V2") for n, v in rounded.items()}
    assert (
        command("import", written(tmp_path / "a.npz", coded), "--to", tmp_path / "a.safetensors")
        == 0
    )
    found = load_weights(tmp_path / "a.safetensors").tensors
    assert torch.equal(found["head.weight"], rounded["params/head/kernel"].float().T)


def test_a_model_of_ours_goes_out_and_comes_back(tmp_path):
    shape = Shape(D, L, F, H, P, P, (8, 12), classes=K, positions="sincos2d", pooling="map")
    ours = our_file(tmp_path / "ours.safetensors", shape)
    out = tmp_path / "out.npz"
    assert command("export", ours, "--to", out, "--format", "npz") == 0
    with np.load(out) as found:
        assert "params/pos_embedding" not in found.files
    back = tmp_path / "back.safetensors"
    words = ("--positions", "sincos2d", "--source-px", "8x12")
    assert command("import", out, "--to", back, *words) == 0
    one, other = load_weights(ours), load_weights(back)
    assert one.shape == other.shape
    assert all(torch.equal(one.tensors[name], value) for name, value in other.tensors.items())


def test_positions_without_a_table_have_to_be_named(tmp_path, capsys):
    table = arrays("npz", "gap")
    del table["params/pos_embedding"]
    source = written(tmp_path / "theirs.npz", table)
    assert command("import", source, "--to", tmp_path / "ours.safetensors", "--source-px", 12) == 5
    assert "--positions sincos2d" in capsys.readouterr().err


def test_the_metadata_say_where_the_weights_came_from(tmp_path, capsys):
    import hashlib

    source = written(tmp_path / "theirs.npz", arrays("npz"))
    capsys.readouterr()
    assert command("import", source, "--to", tmp_path / "ours.safetensors", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert told["sha256"] == {"theirs.npz": digest}
    assert told["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    from safetensors import safe_open

    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["vitscale"])
    assert record["source"] == {"path": "theirs.npz", "format": "npz", "sha256": told["sha256"]}
