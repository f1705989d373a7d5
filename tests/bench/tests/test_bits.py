"""Fingerprints of streams: another bit is seen and told by the scenario's name, the same bits are none."""

import argparse
import io
import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.stream.timeline import MODES
from rivulet.tests.bench import bits, bits_engine, bits_scenarios
from rivulet.tests.bench.bits_scenarios import Fingerprint, Scenario
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.soak_faults_takes import setups

PLAIN, LATENT = Scenario("plain", 1, quick=True), Scenario("small cache", 1, "latent")


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Returns a function that runs the command over these scenarios: (exit status, {name: why})."""

    def run(*arguments, among=(PLAIN, LATENT), quick=False):
        monkeypatch.setattr(bits_scenarios, "SCENARIOS", among)
        parser = argparse.ArgumentParser()
        bits.add_arguments(parser)
        chosen = parser.parse_args([*arguments, "--part", "engine"])
        chosen.quick = quick
        rows = Rows("bits", quick, io.StringIO())
        status = bits.run(chosen, rows)
        found = [json.loads(line) for line in rows.out.getvalue().splitlines()]
        return status, {row["case"]: row["why"] for row in found if row["row"] == "difference"}

    return run


def test_a_stream_that_changed_is_named_and_the_command_fails(bench, tmp_path, monkeypatch):
    file = str(tmp_path / "bits.json")
    assert bench("--out", file) == (0, {})
    assert bench("--against", file) == (0, {})
    longer = (replace(PLAIN, blocks=2), LATENT)
    assert bench("--against", file, among=longer) == (
        1,
        {"engine: plain": "it has 6 latent frames, had 3"},
    )
    monkeypatch.setattr(bits_engine, "SEED", 8)
    why = "latents from frame 0 of 3 on"
    assert bench("--against", file) == (1, {"engine: plain": why, "engine: small cache": why})
    assert bench("--against", file, "--only", "small") == (1, {"engine: small cache": why})
    assert bench("--against", file, quick=True) == (1, {"engine: plain": why})


def test_a_stream_that_cannot_be_made_fails_and_the_others_are_made(bench, tmp_path):
    broken = replace(PLAIN, name="broken", preset="unheard of")
    status, why = bench("--out", str(tmp_path / "bits.json"), among=(broken, LATENT))
    assert status == 1 and list(why) == ["engine: broken"] and "unheard of" in why["engine: broken"]
    assert "latents" in json.loads((tmp_path / "bits.json").read_text())["engine: small cache"]


def test_what_is_recorded_and_not_made_and_the_other_way_round_is_told(bench, tmp_path):
    file = tmp_path / "bits.json"
    bench("--out", str(file))
    other = replace(PLAIN, name="other")
    assert bench("--against", str(file), among=(LATENT, other)) == (
        1,
        {
            "engine: other": "it was not recorded",
            "engine: plain": "it is recorded, and there is no such scenario",
        },
    )
    assert bench("--out", str(file), "--only", "other", among=(LATENT, other)) == (0, {})
    assert len(json.loads(file.read_text())) == 3


def test_one_bit_is_seen_and_no_cutting_is():
    latents = torch.randn(1, 4, 6, 2, 2)
    pixels = torch.randint(0, 256, (9, 4, 4, 3), dtype=torch.uint8)

    def row(latents, pixels, pieces=(6,)):
        taken = Fingerprint()
        for piece in latents.split(pieces, 2):
            taken.latents(piece)
        taken.pictures(pixels[:4])
        taken.pictures(pixels[4:])
        return taken.row()

    made = row(latents, pixels)
    assert made["frames"] == 9 and len(made["each"]) == 6
    assert bits.difference(made, row(latents, pixels, (1, 2, 3))) == ""
    flipped = latents.clone()
    flipped.view(torch.int32)[0, 1, 4, 0, 1] ^= 1
    assert bits.difference(made, row(flipped, pixels)) == "latents from frame 4 of 6 on"
    assert bits.difference(made, row(latents.double(), pixels)) == "latents from frame 0 of 6 on"
    brighter = pixels.clone()
    brighter[8, 3, 3, 2] ^= 1
    assert bits.difference(made, row(latents, brighter)) == "pictures alone, of the same latents"
    assert bits.difference(made, row(latents, pixels[:8])) == "it has 8 pictures, had 9"


def test_every_way_to_another_prompt_is_made_in_a_stream_and_in_a_take_that_is_struck():
    for made in (bits_scenarios.SCENARIOS, setups()):
        assert {mode for each in made for mode in each.switches.values()} == set(MODES)
    for memory in {setup.memory for setup in setups()}:
        met = {mode for setup in setups() if setup.memory == memory for mode in setup.switches.values()}
        assert met == set(MODES), memory


def test_every_scenario_has_a_name_of_its_own():
    names = [scenario.name for scenario in bits_scenarios.SCENARIOS]
    assert len(set(names)) == len(names) and 0 < sum(s.quick for s in bits_scenarios.SCENARIOS) < len(names)
