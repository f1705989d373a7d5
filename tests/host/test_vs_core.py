"""What `bench vs-core` times, in this process: both contenders make the whole video of the same files."""

from dataclasses import replace

import pytest
from rivulet.tests.bench import vs_core, vs_core_once
from rivulet.tests.bench.vs_core_once import Sampling, measured


@pytest.fixture(scope="module")
def given(comfyui, tmp_path_factory):
    import folder_paths

    folder, kept = tmp_path_factory.mktemp("vs_core"), folder_paths.get_output_directory()
    vs_core.write(folder, replace(vs_core.SIZES["tiny"], text_tokens=4))
    yield vs_core_once.given(folder)
    folder_paths.set_output_directory(kept)


@pytest.mark.parametrize("name", ["core", "ours"])
def test_a_contender_makes_the_whole_video_and_tells_its_first_picture(given, name, monkeypatch):
    from comfy.samplers import CFGGuider

    monkeypatch.setattr(CFGGuider, "sample", CFGGuider.sample)  # timed from here on, until the test ends
    found = measured(getattr(vs_core_once, name)(given), 6, Sampling())
    assert found["made_frames"] == vs_core_once.pictures(6) == 21
    assert 0 < found["first_seconds"] <= found["seconds"]
    assert 0 < found["sampling_seconds"] < found["decoded_seconds"] <= found["seconds"]
    assert found["before_bytes"] <= found["peak_bytes"]
    # core has no picture before its last latent is decoded
    assert (found["first_seconds"] == found["decoded_seconds"]) is (name == "core")
