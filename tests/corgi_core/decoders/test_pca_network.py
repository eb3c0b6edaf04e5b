"""The network conditions every block on its own vector, and starts as the mean."""

from __future__ import annotations

import torch

from corgi_core.decoders.pca.network import PCANetwork, PCAShape


def network(width: int) -> PCANetwork:
    return PCANetwork(
        PCAShape(width, image_size=8, components=12, width=16, vectors=8, vector_width=6)
    )


def test_an_untrained_network_predicts_the_mean_picture() -> None:
    x, t, cond_mask = torch.randn(2, 12), torch.tensor([0, 999]), torch.ones(2, dtype=torch.bool)
    assert not network(4)(x, t, torch.randn(2, 4), cond_mask).any()


def test_each_of_the_eight_vectors_conditions_its_own_block() -> None:
    decoder = network(4)
    for block in decoder.blocks:
        torch.nn.init.normal_(block.modulation.weight)  # it starts at zero, which has no effect
    torch.nn.init.normal_(decoder.to_coordinates.weight)
    x, t, z = torch.randn(1, 12), torch.tensor([300]), torch.randn(1, 4)
    cond_mask = torch.ones(1, dtype=torch.bool)
    received: dict[int, torch.Tensor] = {}
    for i, block in enumerate(decoder.blocks):
        block.register_forward_pre_hook(lambda _, inputs, i=i: received.update({i: inputs[1]}))
    decoder(x, t, z, cond_mask)
    before = dict(received)
    with torch.no_grad():
        decoder.to_vectors.bias[6 * 3 : 6 * 4] += 1  # the fourth vector
    decoder(x, t, z, cond_mask)
    assert len(before) == 8
    assert [i for i in before if not torch.equal(before[i], received[i])] == [3]


def test_a_dropped_embedding_has_no_effect() -> None:
    decoder = network(4)
    torch.nn.init.normal_(decoder.to_coordinates.weight)
    x, t = torch.randn(1, 12).repeat(2, 1), torch.tensor([300, 300])
    first, second = decoder(x, t, torch.randn(2, 4), torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(first, second)
    first, second = decoder(x, t, torch.randn(2, 4), torch.ones(2, dtype=torch.bool))
    assert (first - second).abs().max() > 1e-3
