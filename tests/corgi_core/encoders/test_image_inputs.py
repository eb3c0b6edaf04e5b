"""Images as people have them are framed as the training images are."""

import io

import pytest
import torch
from PIL import Image

from benchmarks.embedding_systems.photographs import photograph
from corgi_core.config import Framing
from corgi_core.data.pixels import square
from corgi_core.encoders.image_inputs import image_squares
from tests.helpers.made import encoded


@pytest.mark.parametrize("framing", ["letterbox", "crop"])
@pytest.mark.parametrize("sides", [(128, 64), (64, 128), (64, 64)])
def test_files_and_tensors_are_framed_alike(sides: tuple[int, int], framing: Framing):
    picture = Image.open(io.BytesIO(photograph(2, *sides))).convert("RGB")
    expected = torch.from_numpy(square(encoded(picture), 32, framing).copy())
    assert torch.equal(image_squares(picture, 32, framing)[0], expected)
    tensor = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    tensor = tensor.view(picture.height, picture.width, 3).permute(2, 0, 1)
    error = (image_squares(tensor, 32, framing)[0].float() - expected.float()).abs()
    assert error.mean() < 3
