"""Streams that begin where a video or a take ends, or follow a video: what they remember, show and refuse."""

import re
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.join import FADE_FRAMES
from rivulet.model_patches.stream.snapshot import read_header
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.tests.host.graphs import BLUE, stream_graph
from rivulet.tests.host.streams import HostRun, HostTake, live_stream, prefill_of

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
EPS = torch.finfo(torch.float32).eps


def pictures(count, height=48, width=32, seed=3):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def latents(count, seed=2):
    return torch.randn(1, 16, count, 6, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def node(comfyui):
    from rivulet.nodes.start_from import RivuletStartFrom

    return lambda **given: RivuletStartFrom.execute(**given).args[0]


@pytest.fixture
def begun(load, prompt):
    """Returns a function that starts a stream on the plain checkpoint."""

    def of(config=CONFIG):
        made = HostRun(load("plain"), prompt(0), prompt(1), config)
        return made, made.begin(8)

    return of


@pytest.fixture
def taking(load, vae, prompt, tmp_path):
    """Returns a function that makes a take: (take, written pictures, its video)."""

    def make(name, count=13, kept=None, stop=None, config=CONFIG, broken=None, given=None, follow=None):
        """given: arguments of `prefill_of`, or a Prefill. follow: of the caller, a video that is followed."""
        video = kept or tmp_path / f"{name}.mp4"
        live, written = live_stream(video, resume=kept is not None, blocks=3, modes=())
        take = HostTake(load("plain"), vae, live, prompt, config, resume=kept is not None)
        should_continue = take.session.should_continue

        def asked(rest):
            if live.block == stop:
                live.ask(Message("me", 1, "stop"))
            if live.block == broken:
                raise ZeroDivisionError
            return should_continue(rest)

        take.session.should_continue = asked
        begin = prefill_of(take, *given) if isinstance(given, tuple) else given
        with suppress(ZeroDivisionError):
            take.run(count, begin=begin, follow=None if follow is None else follow(take.caller))
        return take, torch.cat(written), video

    return make


def test_any_cutting_is_encoded_as_the_whole_is(vae):
    from rivulet.nodes.host.encoder import HostEncoder

    encode = HostEncoder(vae)
    for cuts in ((17,), (3, 1, 13), (5, 5, 3), (1,)):
        video, past, parts = pictures(sum(cuts)), None, []
        for piece in video.split(cuts):
            made, past = encode(piece, past)
            parts.append(made)
        parts.append(encode(video[:0], past, last=True)[0])
        whole, got = vae.encode(video), torch.cat(parts, 2)
        assert got.shape == whole.shape and (got - whole).abs().max() < 64 * EPS * whole.abs().max()


def test_levels_of_a_file_are_shares_of_one(vae):
    from rivulet.nodes.host.encoder import HostEncoder

    video = (pictures(5) * 255).round()
    made = HostEncoder(vae)(video.to(torch.uint8), last=True)[0]
    whole = vae.encode(video / 255)
    assert (made - whole).abs().max() < 64 * EPS * whole.abs().max()


def test_an_encoder_that_cannot_be_streamed_is_refused(vae):
    from rivulet.nodes.host.encoder import HostEncoder

    class Old:
        def __getattr__(self, name):
            return getattr(vae, name)

        class first_stage_model:  # noqa: N801 - the host's name
            conv1 = conv2 = decoder = None

            class encoder:  # noqa: N801 - the host's name
                def forward(self, x):
                    return x

    with pytest.raises(ValueError, match="cannot be run picture by picture"):
        HostEncoder(Old())


@pytest.mark.parametrize("count", [1, 4, 6, 17])
def test_latents_are_kept_block_by_block_as_if_they_had_been_made(begun, count):
    """Of seventeen latents the first three and the last six stay; the model sees no more than a block."""
    from rivulet.model_patches.attention.positions import cached_frames

    made, state = begun()
    state = made.prefill(state, latents(count))
    sink, window = cached_frames(CONFIG.positions, count, 3)
    assert state.cache.frames == sink + window and state.start_frame == count
    kept = state.tail_BCTHW.shape[2]
    assert kept >= min(count, CONFIG.tail_frames)
    assert torch.equal(state.tail_BCTHW, made.caller.from_vae(latents(count))[:, :, -kept:])


def test_a_block_begins_with_given_latents_under_noise(begun):
    """At the last level the block comes out near them, at full strength as without them."""
    made, state = begun()
    plain = made.step(state)[0]
    made, state = begun()
    assert torch.equal(made.step(state, InitLatents(latents(3), 0))[0], plain)
    made, state = begun()
    near, after = made.step(state, InitLatents(latents(3), 1))
    assert (near - latents(3)).square().mean() < (plain - latents(3)).square().mean()
    assert after.start_frame == 3


@pytest.mark.parametrize("count", [3, 6], ids="{} latents".format)
def test_what_is_not_shown_goes_before_the_first_picture(taking, count):
    """The pictures of a take that shows them, from there on; also where a latent waits for its pair."""
    hidden = 4 * count - 3
    _, shown, _ = taking("shown", hidden + 13, given=(latents(count),))
    take, after, _ = taking("after", 13, given=(latents(count), hidden))
    assert torch.equal(after, shown[hidden:]) and len(after) == 24
    assert take.session.live.block == 2


def test_new_pictures_follow_on_the_last_one_without_a_step(taking, vae):
    given, ending = latents(6), pictures(1)[0]
    _, plain, _ = taking("plain", given=(given, 21))
    _, joined, _ = taking("joined", given=(given, 21, ending))
    decoded = vae.decode(given.clone())[0][-1]
    first = plain[0].float() + 255 * (ending - decoded)
    # the joined one is rounded once, the plain one before
    assert (joined[0].float() - first.clamp(0, 255)).abs().max() <= 2
    assert torch.equal(joined[FADE_FRAMES:], plain[FADE_FRAMES:])


@pytest.mark.parametrize("block_frames", [3, 1])
def test_it_goes_on_after_a_stop_as_if_it_had_not_stopped(taking, block_frames):
    config = replace(CONFIG, block_frames=block_frames)
    given = {"given": (latents(6), 21, pictures(1)[0])}
    whole, all_of_it, _ = taking("whole", config=config, **given)
    _, before, path = taking("first", stop=1, config=config, **given)
    second, after, _ = taking("second", kept=path, config=config)
    assert torch.equal(torch.cat([before, after]), all_of_it) and torch.equal(second.tail, whole.tail)
    assert read_header(second.path).ledger.hidden == 21


def follow_of(vae, count, strength=0.5, config=CONFIG):
    """A function of the caller that gives what a take follows."""
    from contextlib import ExitStack

    from rivulet.nodes.run.beginnings import Following

    begin = Following(source=pictures(count), strength=strength)
    return lambda caller: ExitStack().enter_context(begin.follow(caller, vae, config, 16.0))


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (14, 2), (21, 2)])
def test_a_followed_video_has_as_many_pictures(taking, vae, count, blocks):
    take, made, _ = taking("followed", 99, follow=follow_of(vae, count))
    assert len(made) == count and take.session.live.block == take.session.live.blocks == blocks


def test_seconds_end_a_followed_video_too(taking, vae):
    _, made, _ = taking("short", 10, follow=follow_of(vae, 60))
    assert len(made) == 21


def test_a_followed_take_can_be_gone_on_with_freely(taking, vae):
    """What was cut off its last block is not counted; the rest is made without the video."""
    _, before, path = taking("first", 99, follow=follow_of(vae, 14))
    second, after, _ = taking("second", 30, kept=path)
    begins = second.session.writer.start_frame
    assert len(before) == 14 and second.state.ledger.written == begins + len(after) >= 30


def test_whoever_goes_on_with_a_followed_take_is_told_that_the_video_is_not_followed(
    taking, vae, monkeypatch, caplog
):
    import folder_paths
    from rivulet.nodes.resume import RivuletResume

    _, _, path = taking("first", 99, follow=follow_of(vae, 24))
    _, _, freely = taking("free", 12)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(path.parent))
    (followed,), (free,) = (RivuletResume.execute(each.name).args for each in (path, freely))
    free.read(None, CONFIG, 16.0, 99)
    assert caplog.text == ""
    followed.read(None, CONFIG, 16.0, 99)
    words = "first.mp4 followed a video, .*mode follow .*without its first 1.5 s"
    assert re.search(words, caplog.text)


def test_the_end_of_a_video_is_read_at_the_streams_size_and_rate(comfyui, tmp_path):
    from comfy_api.v0_0_2 import InputImpl
    from rivulet.nodes.run.beginnings import FromVideo

    path = tmp_path / "film.mp4"
    levels = (4 * torch.arange(60)).to(torch.uint8)[:, None, None, None].expand(60, 96, 64, 3)
    with Mp4Writer(path, width=64, height=96, fps=16, threads=1) as writer:
        writer.write(levels)
    ending = FromVideo(source=InputImpl.VideoFromFile(str(path))).read(None, CONFIG, 16.0, 99)
    assert (ending.latents, ending.hidden, ending.pixels_FHWC.shape) == (9, 33, (33, 48, 32, 3))
    assert (ending.pixels_FHWC[:, 20, 20, 0].float() / 4).round().tolist() == [*range(27, 60)]
    slower = FromVideo(source=InputImpl.VideoFromFile(str(path))).read(None, CONFIG, 8.0, 99)
    # thirty pictures are seven latents, of which six are whole blocks
    assert (slower.latents, slower.hidden) == (6, 21)
    trimmed = InputImpl.VideoFromFile(str(path), start_time=1.0, duration=1.0)
    part = FromVideo(source=trimmed, context=9).read(None, CONFIG, 16.0, 99)
    assert (part.latents, part.pixels_FHWC[:, 20, 20, 0].float().div(4).round().tolist()) == (
        3,
        [*range(23, 32)],
    )


def test_a_video_in_memory_is_read_without_a_copy_of_it(comfyui):
    from fractions import Fraction

    from comfy_api.v0_0_2 import InputImpl, Types
    from rivulet.nodes.host.incoming import open_source

    parts = Types.VideoComponents(images=pictures(32), frame_rate=Fraction(32))
    with open_source(InputImpl.VideoFromComponents(parts), 16.0) as video:
        assert torch.equal(video.take(99), parts.images[::2])
    import io

    film = io.BytesIO()
    InputImpl.VideoFromComponents(parts).save_to(film, format="mp4", codec="h264")
    with open_source(InputImpl.VideoFromFile(film), 32.0) as video:
        assert len(video.take(99)) == 32
    with open_source(pictures(5), 16.0) as batch:
        assert torch.equal(batch.take(9), pictures(5))


@pytest.mark.parametrize(("count", "given"), [(1, 1), (4, 1), (5, 2), (9, 3), (20, 3), (21, 6), (99, 9)])
def test_a_short_video_gives_what_it_has(comfyui, count, given):
    from rivulet.nodes.run.beginnings import FromVideo

    ending = FromVideo(source=pictures(count)).read(None, CONFIG, 16.0, 99)
    assert (ending.latents, ending.hidden, len(ending.pixels_FHWC)) == (given, 4 * given - 3, 4 * given - 3)
    assert torch.equal(ending.pixels_FHWC, pictures(count)[3 - 4 * given :])


def test_a_new_take_begins_where_an_earlier_one_ended(taking, node, tmp_path):
    """Also where it was interrupted and its file is behind its latents by those that waited for a pair."""
    from rivulet.nodes.run.beginnings import FromTake

    _, whole, ended = taking("ended", 33)
    ending = FromTake(video=ended).read(None, CONFIG, 16.0, 99)
    assert (ending.latents, ending.hidden) == (9, 33)
    _, before, broken = taking("broken", 99, broken=2)
    ending = FromTake(video=broken).read(None, CONFIG, 16.0, 99)
    assert len(before) == 17 and (ending.latents, ending.hidden) == (6, 17)
    _, after, _ = taking("after", 4, given=ending.prefill(None, None))
    # the six latents are the whole stream, so the missing pictures are just those of the take
    assert torch.equal(after[:4], whole[17:21])
    other = replace(CONFIG, preset="infinity_rope", block_frames=1, cfg=3.0, sigmas=(1.0,))
    assert FromTake(video=broken).read(None, other, 16.0, 99).latents == 5
    with pytest.raises(
        ValueError, match="a stream of 32x48 with 16 latent channels, this one is to be 64x48"
    ):
        FromTake(video=broken).read(None, replace(CONFIG, geometry=Geometry(64, 48)), 16.0, 99)


REFUSED = {
    "nothing": ({}, "mode picture begins with image, one of them, and got nothing"),
    "two": ({"image": 1, "video": 2, "mode": "follow"}, "got image and video; connect video alone"),
    "take to follow": (
        {"take": "x", "mode": "follow"},
        "got take; connect video alone, or set mode to go on",
    ),
    "video as picture": ({"video": 1}, "connect image alone, or set mode to go on or follow"),
    "absent take": ({"take": "gone.safetensors", "mode": "go on"}, "there is no take 'gone.safetensors'"),
    "outside": ({"take": "../../x", "mode": "go on"}, "lies outside"),
    "NaN": ({"image": pictures(3) * float("nan"), "mode": "follow"}, "picture 0 of image holds NaN"),
    "alpha": (
        {"image": torch.full((2, 8, 8, 4), 0.5), "mode": "go on"},
        "picture 0 of image has transparent",
    ),
    "no pictures": ({"image": pictures(0), "mode": "go on"}, r"image is \[0, 48, 32, 3\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(node, case):
    given, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        node(**given)


READ = {
    "few": (
        lambda n: n(image=pictures(5), mode="go on", context=9),
        "asks for 9 pictures, 9 in whole latents",
    ),
    "size": (lambda n: n(image=pictures(9, 64, 64), mode="go on", fit="refuse"), "is 64x64 and the video is"),
    "strange": (lambda n: n(video=3, mode="go on"), "video is a int"),
}


@pytest.mark.parametrize("case", READ)
def test_a_video_that_does_not_do_is_refused_before_anything_is_made(node, case):
    make, words = READ[case]
    with pytest.raises(ValueError, match=words):
        make(node).read(None, CONFIG, 16.0, 99)


def test_a_strength_that_changes_nothing_is_refused(node, vae):
    start = node(image=pictures(9), mode="follow", strength=0.4)
    with pytest.raises(ValueError, match="below every noise level"):
        start.read(vae, CONFIG, 16.0, 99)


def test_a_file_that_is_no_video_is_refused_before_the_stream_begins(node, load, vae, tmp_path):
    from comfy_api.v0_0_2 import InputImpl
    from rivulet.nodes.host.caller import HostCaller

    (tmp_path / "notes.mp4").write_text("no video")
    start = node(video=InputImpl.VideoFromFile(str(tmp_path / "notes.mp4")), mode="follow")
    with (
        pytest.raises(ValueError, match=r"notes\.mp4 gives no picture"),
        start.follow(HostCaller(load("plain")), vae, CONFIG, 16.0),
    ):
        pass


def test_prompts_are_counted_from_the_first_picture_that_is_shown():
    from rivulet.model_patches.stream.timeline import at_borders
    from rivulet.model_patches.stream.typed import read_timeline

    timeline = read_timeline("[0s] one\n[1s] two\n[2s cut] three")
    sizes = timeline, CONFIG.geometry, 12, 3
    hidden, _ = at_borders(*sizes, None, 9, 33)
    # blocks of twelve pictures, a second each, from the first one on
    assert [change.block for change in hidden] == [0, 1, 2]


def test_a_saved_graph_still_begins_with_its_picture(comfyui):
    """Widgets are read by their order: the first ones stay the first."""
    from rivulet.nodes.start_from import RivuletStartFrom

    widgets = [
        each.id for each in RivuletStartFrom.define_schema().inputs if each.id not in ("image", "video")
    ]
    assert widgets == ["fit", "mode", "strength", "context", "take", "motion"]
    assert all(each.optional for each in RivuletStartFrom.define_schema().inputs if each.id != "fit")


def test_a_stream_goes_on_from_a_video_and_another_follows_it(server):
    """Nine pictures are one block; another block of twelve follows on them; nine are followed in blue."""
    import shutil

    import av

    done = server.run(stream_graph("source", seconds=9 / 16))
    assert done["status"]["status_str"] == "success", done["status"]
    (server.base / "input").mkdir(exist_ok=True)
    shutil.copy(server.base / "output" / "source_00001_.mp4", server.base / "input" / "source.mp4")
    counts = {}
    for mode, more in (("go on", {}), ("follow", {"text": BLUE})):
        name = mode.replace(" ", "_")
        graph = stream_graph(name, seconds=12 / 16, start=["7", 0], **more)
        graph["6"] = {"class_type": "LoadVideo", "inputs": {"file": "source.mp4"}}
        inputs = {"video": ["6", 0], "fit": "refuse", "mode": mode, "strength": 0.9}
        graph["7"] = {"class_type": "RivuletStartFrom", "inputs": inputs}
        done = server.run(graph)
        assert done["status"]["status_str"] == "success", done["status"]
        with av.open(str(server.base / "output" / f"{name}_00001_.mp4")) as video:
            counts[mode] = sum(1 for _ in video.decode(video=0))
    assert counts == {"go on": 12, "follow": 9}


def test_motion_takes_noise_off_the_blocks_of_a_followed_video(node, vae, load):
    from rivulet.nodes.host.caller import HostCaller

    begin = node(image=pictures(9), mode="follow", strength=0.9, motion=0.2)
    with begin.follow(HostCaller(load("plain")), vae, CONFIG, 16.0) as follow:
        level = follow.block(0, 0).begin.level
    assert level == pytest.approx(0.9 - 0.9 * 0.2)  # random pictures: full motion, nine tenths of the way
    too_much = node(image=pictures(9), mode="follow", strength=0.6, motion=0.3)
    with pytest.raises(ValueError, match=r"set motion from 0 to 0\.10"):
        too_much.read(vae, CONFIG, 16.0, 9)
