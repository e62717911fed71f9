"""Rollout, likeness of positions, and the pictures of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.test_options import trained_like
from tests.planner.test_size import shape_with
from vitscale.cli.main import main
from vitscale.data.bad_images import BadImage
from vitscale.evaluate.attention import position_similarity, rollout
from vitscale.evaluate.pictures import look, view_of
from vitscale.model.position import sincos2d


def photo(tmp_path, name="photo.png", size=(40, 30)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("changes", [{}, {"registers": 2, "pooling": "gap"}])
def test_rollout_is_the_product_of_the_blocks_attention(changes):
    """One image and one head at a time, with numpy."""
    model = trained_like(shape_with(changes))
    images = torch.randn(2, 3, 16, 16)
    found = rollout(model, images)
    shape, features = model.shape, model.features(images)
    inputs = [features["embedded"], features["block00"]]
    for image in range(2):
        product = np.eye(shape.tokens)
        for block, tokens in zip(model.blocks, inputs, strict=True):
            heads = block.attention_weights(tokens)[image].detach().numpy()
            both = np.mean([0.5 * head + 0.5 * np.eye(shape.tokens) for head in heads], axis=0)
            product = both @ product
        rows = product[:1] if shape.pooling == "cls" else product[shape.prefix :]
        wanted = rows.mean(0)[shape.prefix :].reshape(shape.grid)
        np.testing.assert_allclose(found[image].numpy(), wanted, atol=1e-6)


def test_likeness_of_positions_is_a_cosine_with_one_on_the_diagonal():
    table = torch.cat([torch.randn(1, 1, 64), sincos2d((4, 5), 64, torch.device("cpu"))], dim=1)
    likeness = position_similarity(table, (4, 5))
    assert likeness.shape == (4, 5, 4, 5)
    a, b = table[0, 1 + 7].numpy(), table[0, 1 + 13].numpy()
    wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert likeness[1, 2, 2, 3].item() == pytest.approx(wanted, abs=1e-6)
    assert torch.allclose(likeness.view(20, 20).diagonal(), torch.ones(20))


def test_a_view_is_the_central_part_of_the_aspect_asked_for(tmp_path):
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    image.save(tmp_path / "bar.png")
    assert (view_of(tmp_path / "bar.png", (10, 10)) == 255).all()
    assert view_of(tmp_path / "bar.png", (10, 30)).mean() == pytest.approx(85, abs=1)


def test_what_is_no_image_or_a_damaged_one_is_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(20))
    (tmp_path / "cut.png").write_bytes(photo(tmp_path).read_bytes()[:20])
    with pytest.raises(BadImage, match="GIF is none of JPEG, PNG and WebP"):
        view_of(tmp_path / "a.gif", (10, 10))
    with pytest.raises(BadImage, match="cannot be decoded"):
        view_of(tmp_path / "cut.png", (10, 10))


def test_pictures_of_a_model_show_every_patch(tmp_path):
    model = trained_like(shape_with({"stride": 2}))
    made = look(model, [photo(tmp_path), photo(tmp_path, "b.png")], tmp_path / "out")
    assert [path.name for path in made] == ["positions.png", "patches.png", "rollout.png"]
    for path in made:
        assert np.asarray(Image.open(path)).std() > 10
    bare = trained_like(shape_with({"positions": "rope"}))
    assert [path.name for path in look(bare, [photo(tmp_path)], tmp_path)] == [
        "patches.png",
        "rollout.png",
    ]


def test_looking_at_what_is_not_there_is_a_clear_error(tmp_path, capsys):
    code = main(["report", "look", str(tmp_path / "none"), "x.png", "--to", str(tmp_path)])
    assert code == 5
    assert "vitscale:" in capsys.readouterr().err
