"""What a block asks of a card stays what it is today, or becomes less."""

from rivulet.tests.card.caps import changed, highest, written
from rivulet.tests.card.tiny import DURING, Case, TinyStream

# each asks for something that no other does
SHOWN = (
    Case(switch="recache", calls=2),  # noise between two calls
    Case("latent", "learned", "echo", "recache", vae="tiny"),
    Case("mla", "off", "videomla_6", "blend"),
    Case("int8", "ema", "reward_forcing", "cut", "follow"),
    Case("latent", "off", "self_forcing", "blend", "follow"),
)


def test_the_caps_are_what_blocks_ask_for_today(triton_card, tmp_path):
    with triton_card:
        for case in SHOWN:
            TinyStream(triton_card, case).run(tmp_path)
    counts = highest("engine", triton_card.watch, DURING)
    assert not changed("engine", counts), f"{changed('engine', counts)}\n\n{written(counts)}"
