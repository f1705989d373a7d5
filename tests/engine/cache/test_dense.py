import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.attention.rope import rope_table
from rivulet.model_patches.cache import store
from rivulet.model_patches.cache.core import SlotCache
from rivulet.model_patches.cache.dense import DENSE, DenseStore
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.shapes import CacheShape

SHAPE = CacheShape(layers=2, rows=3, grid_height=2, grid_width=1, heads=2, head_dim=6)


def kv_of(frames, layer, call):
    """Keys and values of whole frames, each told apart by frame, layer and call."""

    def of(frame, side):
        generator = torch.Generator().manual_seed(((frame * 2 + layer) * 9 + call) * 2 + side)
        return torch.randn(SHAPE.rows, SHAPE.frame_tokens, 2, 6, generator=generator)

    return [torch.cat([of(frame, side) for frame in frames], 1) for side in (0, 1)]


def write_block(cache, preset, start, count, calls=2):
    call = call_of(preset, start, count)
    draft = cache.begin(call)
    for i in range(calls):
        for rows in (slice(0, 2), slice(2, 3)):
            past = draft.past(rows)
            for layer in range(SHAPE.layers):
                k, v = kv_of(call.new, layer, i)
                past.write(layer, k, k[rows], v[rows])
    return draft, call


def empty(preset, frames=None):
    frames = frames or preset.capacity_frames
    return SlotCache.empty(DenseStore(SHAPE, frames, torch.float32, torch.device("cpu")))


def rows_of(x_LND):
    """The tokens of one row as a set: their order is not part of the contract."""
    return sorted(map(tuple, x_LND.flatten(1).tolist()))


@pytest.mark.parametrize(
    "name, count",
    [
        ("infinity_rope", 3),
        ("pocket", 3),
        ("videomla_7", 1),
        ("reward_forcing", 2),
        ("memrope", 3),
        ("memrope", 2),
        ("self_forcing", 2),
    ],
)
def test_a_block_reads_the_last_writes_of_every_frame_it_sees(name, count):
    preset = PRESETS[name]
    cache = empty(preset, frames=count if preset.capacity_frames is None else None)
    for start in range(0, 14 * count, count):
        draft, call = write_block(cache, preset, start, count)
        place = dict(zip(call.cached + call.new, call.ids, strict=True))
        for rows in (slice(0, 3), slice(1, 2)):
            past = draft.past(rows)
            for layer in range(SHAPE.layers):
                keys, values = past.read(layer)
                parts = [kv_of([frame], layer, 1) for frame in place]
                turned = [
                    rotate(k, rope_table([at], 2, 1, 6))
                    for (k, _), at in zip(parts, place.values(), strict=True)
                ]
                for row in range(*rows.indices(3)):
                    at = row - rows.start
                    assert rows_of(keys[at]) == rows_of(torch.cat(turned, 1)[row])
                    assert rows_of(values[at]) == rows_of(torch.cat([v for _, v in parts], 1)[row])
        q, _ = kv_of(call.new, 0, 0)
        assert torch.equal(draft.past(slice(0, 3)).rotate(q), rotate(q, rope_table(call.query_ids, 2, 1, 6)))
        cache = draft.commit(call_of(preset, start + count, count).cached)


def test_keys_and_values_of_one_frame_share_a_place():
    cache = empty(PRESETS["pocket"])
    draft, call = write_block(cache, PRESETS["pocket"], 0, 3)
    keys, values = draft.past(slice(0, 1)).read(1)
    k, v = kv_of(call.new, 1, 1)
    assert torch.equal(keys, rotate(k, rope_table((0, 1, 2), 2, 1, 6))[:1]) and torch.equal(values, v[:1])


def test_a_draft_that_is_dropped_leaves_the_kept_frames():
    preset, cache = PRESETS["infinity_rope"], empty(PRESETS["infinity_rope"])
    for start in range(0, 12, 3):
        draft, _ = write_block(cache, preset, start, 3)
        cache = draft.commit(call_of(preset, start + 3, 3).cached)
    before, table = cache.tensors()["kv"], cache.table
    write_block(cache, preset, 12, 3)
    assert cache.table == table and torch.equal(cache.tensors()["kv"], before)


def test_other_frames_than_the_blocks_are_our_own_fault():
    with pytest.raises(AssertionError, match=r"cache holds \(\), the block attends to \(0, 1, 2\)"):
        empty(PRESETS["pocket"]).begin(call_of(PRESETS["pocket"], 3, 3))


def test_bytes_are_what_is_allocated_and_what_is_published():
    cache = empty(PRESETS["pocket"])
    assert cache.bytes == cache.store.kv.nbytes == DENSE.cost.allocated_bytes(SHAPE, 12, torch.float32)
    wan = CacheShape(layers=30, rows=1, grid_height=30, grid_width=52, heads=12, head_dim=128)
    assert round(DENSE.cost.allocated_bytes(wan, 1, torch.bfloat16) / 2**20, 1) == 274.2
    large = CacheShape(layers=40, rows=1, grid_height=30, grid_width=52, heads=40, head_dim=128)
    assert round(DENSE.cost.allocated_bytes(large, 1, torch.float16) / 2**20, 1) == 1218.8


def test_one_room_for_turned_keys_serves_all_layers():
    cache = empty(PRESETS["pocket"])
    draft, _ = write_block(cache, PRESETS["pocket"], 0, 3)
    past = draft.past(slice(0, 3))
    assert past.read(0)[0].data_ptr() == past.read(1)[0].data_ptr() == cache.store.workspace[0].data_ptr()


def test_angles_are_made_only_where_the_id_changed(monkeypatch):
    made = []

    def counted(ids, *rest):
        made.append(tuple(ids))
        return rope_table(ids, *rest)

    monkeypatch.setattr(store, "rope_table", counted)
    preset, cache = PRESETS["longlive"], empty(PRESETS["longlive"])
    for start in range(0, 18, 3):
        draft, call = write_block(cache, preset, start, 3)
        assert made == [call.new, call.query_ids]
        made.clear()
        cache = draft.commit(call_of(preset, start + 3, 3).cached)


def test_restored_frames_lie_in_their_slots():
    preset, cache = PRESETS["infinity_rope"], empty(PRESETS["infinity_rope"])
    for start in range(0, 12, 3):
        draft, _ = write_block(cache, preset, start, 3)
        cache = draft.commit(call_of(preset, start + 3, 3).cached)
    store = DenseStore(SHAPE, len(cache.table), torch.float32, torch.device("cpu"))
    back = SlotCache.restore(store, cache.table, cache.tensors())
    assert back.table == cache.table and torch.equal(back.tensors()["kv"], cache.tensors()["kv"])
    drafts = [write_block(either, preset, 12, 3)[0].past(slice(0, 3)).read(1) for either in (cache, back)]
    assert all(torch.equal(a, b) for a, b in zip(*drafts, strict=True))
