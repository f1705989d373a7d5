import pytest
import torch

from .host_noise import HostNoise


def test_global_generators_are_left_alone():
    before, like = torch.random.get_rng_state(), torch.zeros(1, 16, 3, 8, 8)
    HostNoise(1, like).draw(0, 1, 0, like)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_host_noise_is_what_the_host_draws():
    clip = torch.randn(1, 16, 9, 4, 4)
    noise = HostNoise(100, clip)
    like = torch.zeros(1, 16, 3, 4, 4)
    assert torch.equal(noise.draw(2, 0, 6, like), clip[:, :, 6:9])
    for block, call in [(0, 0), (2, 0), (2, 2)]:
        torch.manual_seed(100 + block * 1000 + call)
        assert torch.equal(noise.draw(block, call + 1, 3 * block, like), torch.randn_like(like))


def test_host_noise_follows_the_memory_order_of_the_latents():
    like = torch.zeros(1, 3, 4, 4, 16).permute(0, 4, 1, 2, 3)
    torch.manual_seed(101)
    assert torch.equal(HostNoise(100, like).draw(0, 2, 0, like), torch.randn_like(like))


def test_host_noise_ends_with_its_clip():
    with pytest.raises(ValueError, match="needs 12 latent frames of noise, the clip has 9"):
        HostNoise(1, torch.zeros(1, 16, 9, 4, 4)).draw(3, 0, 9, torch.zeros(1, 16, 3, 4, 4))
