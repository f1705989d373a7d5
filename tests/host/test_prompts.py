"""The node that reads prompts: what it encodes, when, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.timeline import MODES

TEXT = "[0s] a red circle\n[2s cut] a blue square\n[4s] a red circle"


class Clip:
    """Counts what it is asked to encode."""

    def __init__(self):
        self.asked = []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        self.asked.append(tokens)
        return [[torch.full((1, 2, 3), float(len(self.asked))), {}]]


@pytest.fixture
def read(comfyui):
    from rivulet.nodes.prompts import RivuletPrompts

    def of(clip, text=TEXT, mode="recache", seconds_each=5.0):
        (made,) = RivuletPrompts.execute(clip, text, mode, seconds_each).args
        return made

    return of


def test_each_prompt_is_encoded_once_and_before_the_stream(read):
    clip = Clip()
    prompts = read(clip)
    assert clip.asked == ["a red circle", "a blue square"] and prompts.mode == "recache"
    assert [(p.start_ms, p.mode) for p in prompts.timeline().prompts] == [
        (0, "recache"),
        (2000, "cut"),
        (4000, "recache"),
    ]
    assert prompts.conditioning("a blue square")[0][0][0, 0, 0] == 2 and len(clip.asked) == 2


def test_typed_prompts_are_forgotten_in_time_and_the_timelines_are_not(read):
    from rivulet.nodes.prompts import TYPED_KEPT

    clip = Clip()
    prompts = read(clip)
    for number in range(3 * TYPED_KEPT):
        prompts.conditioning(f"typed {number}")
    asked = len(clip.asked)
    prompts.conditioning("a red circle")
    prompts.conditioning(f"typed {3 * TYPED_KEPT - 1}")
    assert len(clip.asked) == asked
    prompts.conditioning("typed 0")
    assert len(clip.asked) == asked + 1


def test_a_list_gives_each_prompt_its_seconds(read):
    prompts = read(Clip(), "a red circle\n---\na blue square", "smooth", 2.5)
    assert [(p.start_ms, p.mode) for p in prompts.timeline().prompts] == [(0, "smooth"), (2500, "smooth")]


@pytest.mark.parametrize("switch", ["smooth", "cut"])
def test_what_is_left_to_the_recipe_is_known_when_the_stream_begins(read, caplog, switch):
    from rivulet.nodes.run.beginnings import FROM_NOTHING
    from rivulet.nodes.run.script import read_script

    config = StreamConfig(Geometry(32, 32))
    for mode, wanted in (("recipe", switch), ("blend", "blend")):
        prompts = read(Clip(), mode=mode)
        caplog.clear()
        with caplog.at_level("INFO"):
            recipe = (switch, "As it says.")
            script = read_script(None, prompts, None, config, 16.0, 9, FROM_NOTHING, recipe)
        changes = [change for block in range(9) if (change := script.due(block))]
        # the second line names its switch itself
        assert [(change.text, change.mode) for change in changes] == [
            ("a red circle", wanted),
            ("a blue square", "cut"),
            ("a red circle", wanted),
        ]
        assert not script.notes
        assert script.switch == wanted == script.resume(3, None).switch
        assert ("As it says." in caplog.text) is (mode == "recipe")


def test_prompts_beyond_the_end_are_noted_in_the_script(read, caplog):
    from rivulet.nodes.run.beginnings import FROM_NOTHING
    from rivulet.nodes.run.script import read_script

    config = StreamConfig(Geometry(32, 32))
    # 3 blocks are 33 pictures, at 16 a second
    script = read_script(None, read(Clip()), None, config, 16.0, 3, FROM_NOTHING)
    late = [note.partition(" is not shown: the video ends at 2.062s; ")[0] for note in script.notes]
    assert late == ["'a blue square' at 2s", "'a red circle' at 4s"]
    assert script.notes[0] in caplog.text
    assert read_script(None, read(Clip()), None, config, 16.0, None, FROM_NOTHING).notes == ()


def test_a_shot_that_the_positions_have_no_place_for_is_refused_before_the_first_block(read):
    from rivulet.nodes.run.beginnings import FROM_NOTHING
    from rivulet.nodes.run.script import read_script

    prompts, own = read(Clip(), "[0s] a red circle\n[1s shot] an object"), StreamConfig(Geometry(32, 32))
    script = read_script(None, prompts, None, own, 16.0, 3, FROM_NOTHING)
    assert [prompt.mode for prompt in script.changes.values()][1:] == ["shot"]
    without = replace(own, preset="self_forcing")
    with pytest.raises(ValueError, match="preset self_forcing has no place for them: it has no sink"):
        read_script(None, prompts, None, without, 16.0, 3, FROM_NOTHING)


def test_a_reference_is_one_picture(comfyui):
    from rivulet.nodes.prompts import RivuletPrompts

    def given(image):
        return RivuletPrompts.execute(Clip(), "a red circle", "shot", 5.0, image).args[0].reference_BHWC

    picture = torch.rand(1, 8, 8, 4)
    assert given(None) is None
    for image, words in (
        (torch.rand(2, 8, 8, 3), "Prompts over Time: reference holds 2 pictures"),
        (picture.clone(), "reference has transparent parts"),
        (picture[..., :3] / 0, "reference holds NaN or infinite"),
        (picture[..., :1], r"reference is \[1, 8, 8, 1\]"),
    ):
        with pytest.raises(ValueError, match=words):
            given(image)
    picture[..., 3] = 1
    assert torch.equal(given(picture), picture[..., :3])


def test_a_saved_workflow_keeps_its_switch_and_a_new_node_asks_the_recipe(comfyui):
    from rivulet.nodes.prompts import RivuletPrompts

    (mode,) = (each for each in RivuletPrompts.define_schema().inputs if each.id == "mode")
    assert mode.default == "recipe" and set(mode.options) == {"recipe", *MODES}
    with pytest.raises(ValueError, match="no switch 'fade'"):
        RivuletPrompts.execute(Clip(), TEXT, "fade", 5.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing is written"),
        ("a red circle\n---\n", "has no text after it"),
        ("[0s] a red circle\n[0s] a blue square", "starts at 0s, not after line 1"),
        ("[0s] a red circle\n---\na blue square", "do not go together"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_graph_is_queued(comfyui, text, words):
    from rivulet.nodes.prompts import RivuletPrompts

    assert words in RivuletPrompts.validate_inputs(text)
    assert RivuletPrompts.validate_inputs(TEXT) is RivuletPrompts.validate_inputs(None) is True


def test_the_host_tells_a_refusal_of_any_node_once(comfyui):
    """It repeats the reason for each input that a node looks at itself."""
    import asyncio
    import inspect

    from rivulet.nodes import RivuletExtension

    nodes = asyncio.run(RivuletExtension().get_node_list())
    looking = {node: inspect.signature(node.validate_inputs).parameters for node in nodes}
    own = {node: list(names) for node, names in looking.items() if "kwargs" not in names}
    assert len(own) >= 4 and all(len(names) == 1 for names in own.values()), own


def test_words_the_pocket_model_does_not_know_are_refused_before_the_stream(read):
    from rivulet.nodes.pocket_model import PocketClip
    from rivulet.nodes.prompts import EXAMPLE

    assert read(PocketClip(), EXAMPLE).conditioning("")[0][0].shape == (1, 6, 64)
    with pytest.raises(ValueError, match="does not know 'cat'"):
        read(PocketClip(), "[0s] a red circle\n[5s] a cat")


def test_a_loader_without_a_text_encoder_is_refused(read):
    with pytest.raises(ValueError, match="connect CLIPLoader with type wan"):
        read(None)
