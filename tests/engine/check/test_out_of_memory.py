"""A card that is full, by operations that raise: a stream goes on, is kept, or is broken."""

from contextlib import contextmanager

import pytest
import torch
from rivulet.model_patches.check import out_of_memory
from rivulet.model_patches.check.clock import Clock
from rivulet.model_patches.check.out_of_memory import check_out_of_memory, limited
from rivulet.model_patches.check.subject import subjects
from rivulet.model_patches.stream import recovery
from rivulet.tests.full_card import FullCard

CPU = torch.device("cpu")
SUBJECT = next(each for each in subjects(torch.float32) if each.name == "latent, learned memory")


class Full:
    """Products are refused from `load` to `drop`."""

    is_loaded = False

    def load(self):
        self.is_loaded = True

    def drop(self):
        self.is_loaded = False


@contextmanager
def full(device):
    filling = Full()
    with FullCard(lambda number: filling.is_loaded):
        yield filling


@contextmanager
def never_full(device):
    yield Full()


def findings(limit=full):
    clock = Clock(300)
    with clock.bounded(300), torch.inference_mode():
        return list(check_out_of_memory(SUBJECT, CPU, clock, limit))


def test_a_stream_goes_on_where_room_is_made_and_is_kept_where_none_is():
    helped, stopped = findings()
    assert (helped.verdict, stopped.verdict) == ("ok", "ok"), (helped, stopped)
    assert helped.said == "it made room and went on; then the same bits as without"
    assert stopped.said == "it stopped and kept all blocks; then the same bits as without"


def test_a_card_that_cannot_be_filled_is_skipped():
    assert [each.verdict for each in findings(never_full)] == ["skipped", "skipped"]


def test_a_stream_that_gives_up_although_room_can_be_made_is_broken(monkeypatch):
    monkeypatch.setattr(recovery.Recovery, "_take_measure", recovery.Recovery._give_up)
    helped, stopped = findings()
    assert helped.verdict == "broken" and helped.said.startswith("the stream ended although there was room")
    assert helped.way_round and stopped.verdict == "ok"


def test_a_stream_that_comes_back_with_other_bits_is_broken(monkeypatch):
    make_room = out_of_memory._RoomMaker.make_room

    def harm(self, *, keep_model):
        make_room(self, keep_model=keep_model)
        if self.room is not None:
            self.tree.head.head.bias.data += 1e-3

    monkeypatch.setattr(out_of_memory._RoomMaker, "make_room", harm)
    helped, _ = findings()
    assert (helped.verdict, helped.said) == ("broken", "after it the stream has other bits")


def test_an_allocator_without_a_limit_is_skipped_in_its_words(monkeypatch):
    def refuse(share, device):
        raise RuntimeError("setMemoryFraction is not supported")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 30)
    total = type("Card", (), {"total_memory": 4 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0, raising=False)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", refuse)
    clock = Clock(10)
    (finding,) = check_out_of_memory(SUBJECT, torch.device("cuda", 0), clock)
    assert finding.verdict == "skipped" and finding.said.endswith("setMemoryFraction is not supported")


def test_a_processor_has_no_limit_that_can_be_set():
    (finding,) = findings(limited)
    assert finding.verdict == "skipped"


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, torch.OutOfMemoryError])
def test_the_limit_is_as_before_however_it_ends(monkeypatch, ending):
    fractions = [0.9]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 30)
    total = type("Card", (), {"total_memory": 4 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(
        torch.cuda, "get_per_process_memory_fraction", lambda device: fractions[-1], raising=False
    )
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share)
    )
    try:
        with limited(torch.device("cuda", 0)):
            assert fractions[-1] == 0.25
            if ending:
                raise ending
    except BaseException as error:
        assert type(error) is ending
    assert fractions[-1] == 0.9
