"""An incoming video as blocks: every picture once, at constant memory, however the encoder holds back."""

import pytest
import torch
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.follow import Follow, encoder_of
from rivulet.model_patches.stream.incoming import Pictures
from rivulet.model_patches.stream.motion import MovingStrength
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.vae.decoder import VaeDecoder, encode_stream

from .videos import GEOMETRY, Collected, pictures, text

LEVELS = (1.0, 0.8, 0.5)


def config(block_frames=3):
    return StreamConfig(GEOMETRY, block_frames=block_frames, sigmas=LEVELS, seed=7)


class Counted(Pictures):
    """Counts what is asked for."""

    def __init__(self, pixels):
        super().__init__(pixels)
        self.taken = 0

    def take(self, count):
        taken = super().take(count)
        self.taken += len(taken)
        return taken


def naming(held=0):
    """An encoder whose latents name the pictures they stand for; it keeps `held` latents waiting."""

    def encode(pixels, past, *, last):
        waiting, started = past or (pixels[:0], False)
        waiting, made = torch.cat([waiting, pixels]), []
        while True:
            size = 4 if started else 1
            ready = len(waiting) // size if started else min(1, len(waiting))
            if not ready or (started and ready <= held and not last):
                break
            made.append(waiting[:size].float().mean().expand(1, 16, 1, 2, 4))
            waiting, started = waiting[size:], True
        return torch.cat(made, 2) if made else torch.empty(1, 16, 0, 2, 4), (waiting, started)

    return encode


def blocks_of(follow, starts):
    found = []
    for number, start in enumerate(starts):
        block = follow.block(number, start)
        if block is None:
            break
        found.append(block)
    return found


def names(pixels):
    """What `naming` makes of pictures; the last one stands still where a group is not full."""
    groups = [pixels[:1]] + [pixels[i : i + 4] for i in range(1, len(pixels), 4)]
    still = [group[-1:].expand(4 - len(group), -1, -1, -1) for group in groups[1:]]
    filled = [torch.cat(pair) for pair in zip(groups[1:], still, strict=True)]
    return [group.float().mean().item() for group in (groups[0], *filled)]


@pytest.mark.parametrize("held", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 21, 25, 33])
@pytest.mark.parametrize("block_frames", [1, 3])
def test_every_picture_is_followed_once(count, block_frames, held):
    video = pictures(count)
    follow = Follow(Pictures(video), naming(held), config(block_frames), 0.8)
    found = blocks_of(follow, range(0, 99, block_frames))
    assert sum(block.pictures for block in found) == count
    latents = torch.cat([block.begin.clean_BCTHW for block in found], 2)[0, 0, :, 0, 0].tolist()
    wanted = names(video)
    assert latents[: len(wanted)] == wanted
    assert all(block.begin.clean_BCTHW.shape[2] == block_frames for block in found)
    assert latents[len(wanted) :] == [video[-1].float().mean().item()] * (len(latents) - len(wanted))


def test_the_engines_encoder_gives_the_latents_of_the_whole(vae):
    video = pictures(33)
    found = blocks_of(Follow(Pictures(video), encoder_of(vae), config(), 0.5), range(0, 99, 3))
    joined = torch.cat([block.begin.clean_BCTHW for block in found], 2)
    whole = encode_stream(vae, video)[0]
    # cut otherwise, convolutions sum in another order: roundings of some thirty layers
    assert (joined - whole).abs().max() < 256 * torch.finfo(torch.float32).eps * whole.abs().max()


@pytest.mark.parametrize("held", [0, 1])
def test_no_more_is_read_than_the_blocks_need(held):
    source = Counted(pictures(101))
    follow = Follow(source, naming(held), config(), 0.8)
    for number in range(5):
        assert follow.block(number, 3 * number) is not None
        assert source.taken <= 9 + 12 * number + 4 * held


def test_a_block_that_was_interrupted_begins_with_the_same_again():
    follow = Follow(Pictures(pictures(33)), naming(), config(), 0.8)
    first, second = follow.block(0, 0), follow.block(1, 3)
    assert follow.block(1, 3) is second and first is not second


@pytest.mark.parametrize("held", [0, 1])
def test_another_scene_begins_the_encoder_anew(held):
    video = pictures(30)
    follow = Follow(Pictures(video), naming(held), config(), 0.8)
    found = blocks_of(follow, [0, 3, 0, 3])
    assert [block.pictures for block in found] == [9, 12, 9]
    assert found[2].begin.clean_BCTHW[0, 0, :, 0, 0].tolist() == names(video[21:])


@pytest.mark.parametrize(("strength", "call"), [(1.0, 0), (0.99, 1), (0.8, 1), (0.79, 2), (0.5, 2)])
def test_strength_chooses_the_first_call(strength, call):
    follow = Follow(Pictures(pictures(9)), naming(), config(), strength)
    assert follow.block(0, 0).begin.call == call == follow.call


@pytest.fixture
def fresh(wan):
    return init(wan, (text(0),), config())


def streamed(wan, vae, state, video, strength):
    writer, follow = Collected(), Follow(Pictures(video), encoder_of(vae), config(), strength)
    after = run(wan, VaeDecoder(vae), state, [writer], follow=follow)
    return torch.from_numpy(writer.frames), after


@pytest.mark.parametrize("count", [5, 21, 26])
def test_a_stream_has_as_many_pictures_as_the_video_it_follows(wan, vae, fresh, count):
    made, after = streamed(wan, vae, fresh, pictures(count), 0.8)
    assert len(made) == count and after.block == {5: 1, 21: 2, 26: 3}[count]


def test_at_full_strength_it_is_the_stream_of_the_prompt_alone(wan, vae, fresh):
    made, _ = streamed(wan, vae, fresh, pictures(21), 1.0)
    writer = Collected()
    run(wan, VaeDecoder(vae), fresh, [writer], blocks=2)
    assert torch.equal(made, torch.from_numpy(writer.frames))


def test_less_strength_changes_less(wan, vae, fresh):
    """Measured on latents, after one block, against those of the video."""
    video = pictures(9)
    latents, _ = encode_stream(vae, video)
    away = []
    for strength in (1.0, 0.8, 0.5):
        begin = Follow(Pictures(video), encoder_of(vae), config(), strength).block(0, 0).begin
        away.append((step(wan, fresh, begin=begin)[0] - latents).square().mean().item())
    assert away[0] > away[1] > away[2]


def still_and_fast():
    """Blocks of 9, 12 and 12 pictures: the second flickers, the others stand still."""
    video = pictures(1).expand(33, -1, -1, -1).clone()
    video[9:21:2] = 0
    return video


@pytest.mark.parametrize("held", [0, 1])
def test_blocks_that_move_get_less_noise_at_a_level_of_their_own(held):
    video, moving = still_and_fast(), MovingStrength(0.9, 0.2)
    follow = Follow(Pictures(video), naming(held), config(), 0.9, 0.2)
    begins = [each.begin for each in blocks_of(follow, [0, 3, 6])]
    levels = [begin.level for begin in begins]
    assert levels == [moving.of_block(part) for part in (video[:9], video[9:21], video[21:])]
    assert levels[0] == 0.9 and levels[1] == pytest.approx(0.72) and levels[2] == pytest.approx(0.882)
    assert [begin.call for begin in begins] == [1, 2, 1]  # of LEVELS, the highest that is not above
    assert follow.block(2, 6).begin.level == levels[2]  # asked again, nothing moves on


def test_no_level_is_below_that_of_its_call():
    """A level up to 0.005 above the strength counts as equal, and later ones must stay below."""
    follow = Follow(Pictures(pictures(1).expand(9, -1, -1, -1)), naming(), config(), 0.797, 0.1)
    begin = follow.block(0, 0).begin
    assert (begin.call, begin.level) == (1, 0.8)


def test_without_motion_levels_are_the_streams():
    begin = Follow(Pictures(still_and_fast()), naming(), config(), 0.9).block(0, 0).begin
    assert (begin.call, begin.level) == (1, None)


@pytest.mark.parametrize("motion", [-0.1, 0.31, 0.8, float("nan")])
def test_motion_that_takes_too_much_off_is_refused(motion):
    with pytest.raises(ValueError, match=r"lowest noise level is 0\.500; set motion from 0 to 0\.30"):
        Follow(Pictures(pictures(9)), naming(), config(), 0.8, motion)


def test_a_block_that_moves_is_changed_less(wan, vae, fresh):
    """Measured on latents, against those of the video: 0.9 at rest, 0.72 where it flickers."""
    away, latents = [], encode_stream(vae, still_and_fast()[:9])[0]
    for level in (0.9, 0.72):
        after = step(wan, fresh, begin=InitLatents(latents, 2, level))[0]
        away.append((after - latents).square().mean().item())
    assert away[0] > away[1]
