"""A stream in one safetensors file: written whole or not at all, gone on with bit for bit.

Tensors are the cache's frames in the order of their slots, the memory, the newest latents, the estimates of
blocks that are under way, the prompts and the ledger's pictures. The decoder's past is made again from the
newest latents, which are far smaller, or stored where nobody knows how many that takes. The metadata holds
the contract, the sizes, the counts, fingerprints of all of the weights, and a checksum of the file. Free
slots are not stored.

B batch, C channels, T latent frames, H/W of the latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.fingerprint import read_back, written
from ..cache.dense import DENSE
from ..cache.format import CacheFormat
from ..cache.shapes import CacheShape
from ..memory.policy import OFF, MemoryPolicy, add_memory_tokens
from ..transfer import to_host
from ..vae.decoder import StreamDecoder, VaeBuffers, from_tensors, to_tensors
from ..vae.past import latents_for_past, past_again
from .bounds import check_blend, check_names, check_numbers, check_tail, check_text, check_under_way, trimmed
from .caller import Caller, Prompt
from .config import StreamConfig
from .contract import as_json, refuse_other_contract, refuse_other_sizes
from .header import PICTURES, Header, header_of
from .ledger import FrameLedger
from .state import Blend, StreamState, next_prompt
from .state_file import REMEDY, config_to_json, opened, refuse_altered, write_state
from .step import reserve
from .weights import refuse_other_decoder, refuse_other_pictures

KIND, VERSION = "rivulet stream", 3


@dataclass(frozen=True, slots=True)
class Captured:
    """A state's copy in the host's own memory; the stream may go on and reuse everything it was copied from.

    From a card the copies may still be under way: `write` waits for them.
    """

    block: int  # blocks made
    frame: int  # pixel frames of the whole video, all of which a file must hold before this is written
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    copied: Sequence[torch.Event]  # one a card

    @property
    def bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def save(caller: Caller, state: StreamState, path: str | Path, decoder: StreamDecoder | None = None) -> int:
    """`capture` and `write` in one."""
    return write(capture(caller, state, decoder), path)


@torch.inference_mode()
def capture(caller: Caller, state: StreamState, decoder: StreamDecoder | None) -> Captured:
    """The state in memory of its own, for `write`; to be called by whoever makes the blocks, between two.

    decoder: that of the stream; None where its latents are never shown. Nobody waits for a card. Raises
    RuntimeError where the state can be read no more.
    """
    ledger = {f.name: getattr(state.ledger, f.name) for f in fields(FrameLedger)}
    past, tail_BCTHW = _decoded(state, decoder)
    shown = {
        "past": to_tensors(past),
        "ledger": {name: ledger.pop(name) for name in PICTURES if ledger[name] is not None},
    }
    for device in {t.device for named in shown.values() for t in named.values() if t.is_cuda}:
        torch.cuda.synchronize(device)  # another stream may be making them still; most blocks have none
    made = {
        "memory": state.memory.tensors(),
        "prompt": caller.dump(state.prompt),
        "blend": {} if state.blend is None else caller.dump(state.blend.old),
        **shown,
    }
    tensors = {f"cache.{name}": tensor for name, tensor in state.cache.tensors().items()}
    tensors |= {f"{part}.{name}": to_host(t) for part, named in made.items() for name, t in named.items()}
    tensors["tail"] = to_host(tail_BCTHW)
    if state.under_way_BCTHW is not None:
        tensors["under_way"] = to_host(state.under_way_BCTHW)
    devices = {state.tail_BCTHW.device, state.cache.device}
    copied = [torch.cuda.current_stream(d).record_event() for d in devices if d.type == "cuda"]
    about = _about(caller, state, decoder, ledger)
    return Captured(state.block, state.ledger.written, about, tensors, copied)


def _decoded(state: StreamState, decoder: StreamDecoder | None) -> tuple[VaeBuffers | None, Tensor]:
    """(the decoder's past, where the newest latents do not give it again; those that are stored)."""
    tail_BCTHW = state.tail_BCTHW
    count = latents_for_past(decoder, state.start_frame, state.config.block_frames, state.given)
    if count is None or count > tail_BCTHW.shape[2]:
        return state.past, tail_BCTHW
    kept = max(count, min(state.config.tail_frames, tail_BCTHW.shape[2]))
    return None, tail_BCTHW[:, :, tail_BCTHW.shape[2] - kept :]


def _about(
    caller: Caller, state: StreamState, decoder: StreamDecoder | None, ledger: Mapping[str, object]
) -> dict[str, Any]:
    """What the header says. ledger: its counts."""
    weights = caller.fingerprint(state.config)
    shown_by = None if decoder is None else decoder.fingerprint()
    return {
        "block": state.block,
        "start_frame": state.start_frame,
        "config": config_to_json(state.config),
        "shape": asdict(state.cache.shape),
        "weights": weights and {kind: written(numbers) for kind, numbers in weights.items()},
        "decoder": None if shown_by is None else written(shown_by),
        "table": state.cache.table,
        "cache": dict(state.format.spec()),
        "memory": dict(state.policy.spec()),
        "blend": state.blend and [state.blend.blocks, state.blend.done],
        "must_recache": state.must_recache,
        "ledger": {name: count for name, count in ledger.items() if name not in PICTURES},
        "text": state.text,
        "followed": state.followed,
        "steered": state.steered,
        "shrunk": state.shrunk,
        "shot": state.shot,
        "upscale": 1 if decoder is None else decoder.upscale,
    }


def write(captured: Captured, path: str | Path) -> int:
    """Writes a file that appears under its name only when it is whole and on disk; its bytes. Any thread.

    Raises OSError where it cannot be written.
    """
    for event in captured.copied:
        event.synchronize()
    return write_state(Path(path), KIND, VERSION, captured.about, captured.tensors)


@torch.inference_mode()
def load(
    path: str | Path,
    caller: Caller,
    config: StreamConfig | None = None,
    *,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
    decoder: StreamDecoder | None = None,
) -> StreamState:
    """The saved state on the caller's device; it goes on as if it had never stopped.

    config: what it says of seed, guidance and noise levels holds from here on; None: the saved one. decoder:
    that of the stream, asked for where one has shown it: its past is made again here, in the time that the
    newest 40 latents take. ValueError for a file whose sizes are not the model's, whose frames are kept in
    another format than `cache`, that remembers in another way than `memory`, whose contract is another, or
    that was made with other weights.
    """
    path = Path(path)
    with opened(path, KIND, VERSION) as (about, file):
        with refuse_altered(path):
            header = header_of(about, path.stat().st_size)
            check_names(file, header)
        saved = header.config
        config = saved if config is None else config
        refuse_other_contract(
            path.name,
            saved,
            config,
            {"cache": (about["cache"], cache.spec()), "memory": (about["memory"], memory.spec())},
            "" if header.shrunk is None else f" Its cache was {header.shrunk}; then the card was full.",
        )
        if about["decoder"] is not None:
            with refuse_altered(path):
                shown_by = read_back(about["decoder"])
            if decoder is None:
                raise ValueError(
                    f"load: the stream in {path} has pictures; give `decoder`, which makes them."
                )
            refuse_other_pictures(header, decoder.upscale, path.name)
            refuse_other_decoder(shown_by, decoder.fingerprint(), path.name)
        # what is a view of the file may lie at any address, by which products on a CPU are rounded; a cache
        # is copied into its slots
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with refuse_altered(path):
            check_numbers(tensors)
        tensors = {name: t if name.startswith("cache.") else t.clone() for name, t in tensors.items()}
        return _restored(path, about, header, tensors, caller, config, cache, memory, decoder)


def _restored(
    path: Path,
    about: Mapping[str, Any],
    header: Header,
    tensors: Mapping[str, Tensor],
    caller: Caller,
    config: StreamConfig,
    cache: CacheFormat,
    memory: MemoryPolicy,
    decoder: StreamDecoder | None,
) -> StreamState:
    """The state of a file whose contract is the one that is asked for."""
    with refuse_altered(path):
        prompt = _prompt(caller, _under("prompt", tensors))
        old = _under("blend", tensors)
        blend = about["blend"] and Blend(_prompt(caller, old), *about["blend"])
        check_blend(old, _under("prompt", tensors), blend is not None)
        made_with = about["weights"] and {kind: read_back(n) for kind, n in about["weights"].items()}
        batch = caller.batch(prompt, config)
        check_tail(tensors["tail"], header, batch)
        under_way = tensors.get("under_way")
        check_under_way(under_way, header, batch)
    shape = _shape(path, caller, prompt, config)
    present = add_memory_tokens(memory, shape, config.positions, config.block_frames, cache.cost)
    refuse_other_sizes(path.name, about["shape"], as_json(asdict(present)))
    if made_with is not None:
        caller.expect(made_with, path.name, config)
    table = trimmed(about["table"], config)
    reserve(caller, cache, present, len(table), config.dtype)
    with refuse_altered(path):
        held = {name: tensor.to(caller.device) for name, tensor in _under("memory", tensors).items()}
        remembered = memory.restore(held, present)
        frames = cache.restore(
            caller.tree, present, table, _under("cache", tensors), config.dtype, caller.device
        )
    ledger = replace(header.ledger, **_under("ledger", tensors))
    tail_BCTHW = tensors["tail"].to(caller.device)
    past = _past(path, header, tail_BCTHW, _under("past", tensors), decoder)
    state = StreamState(
        config, cache, memory, header.block, header.start_frame, frames, remembered, prompt, tail_BCTHW,
        blend, about["must_recache"], header.shot, past, ledger, header.text, header.followed, header.steered,
        under_way if under_way is None else under_way.to(caller.device), header.shrunk,
    )  # fmt: skip
    with refuse_altered(path):
        next_prompt(caller, state)
    return state


def verify(path: str | Path) -> None:
    """ValueError in a sentence for a file that is cut, altered, or of another release."""
    path = Path(path)
    with opened(path, KIND, VERSION) as (about, file), refuse_altered(path):
        check_names(file, header_of(about, path.stat().st_size))


def read_header(path: str | Path) -> Header:
    """What the snapshot says of itself, without its tensors; ValueError for another kind of file, or another
    release's. Bytes beside the header are not looked at: `verify` does.
    """
    path = Path(path)
    with opened(path, KIND, VERSION, whole=False) as (about, _), refuse_altered(path):
        return header_of(about, path.stat().st_size)


def read_ending(path: str | Path) -> tuple[Header, Tensor]:
    """The header and the newest latents [B, C, T, H, W] in the model's units, on the CPU."""
    path = Path(path)
    with opened(path, KIND, VERSION) as (about, file), refuse_altered(path):
        header = header_of(about, path.stat().st_size)
        check_names(file, header)
        tail_BCTHW = file.get_tensor("tail")
        check_numbers({"tail": tail_BCTHW})
        check_tail(tail_BCTHW, header, len(tail_BCTHW))
        return header, tail_BCTHW[:, :, -header.config.tail_frames :].clone()


def _past(
    path: Path,
    header: Header,
    tail_BCTHW: Tensor,
    stored: Mapping[str, Tensor],
    decoder: StreamDecoder | None,
) -> VaeBuffers | None:
    """The decoder's past: made again, or as it was stored."""
    if not header.start_frame:
        return None
    scene = header.start_frame, header.config.block_frames, header.given
    count = latents_for_past(decoder, *scene)
    if decoder is not None and count is not None and count <= tail_BCTHW.shape[2]:
        return past_again(decoder, tail_BCTHW[:, :, tail_BCTHW.shape[2] - count :], *scene)
    with refuse_altered(path):
        past = from_tensors(stored)
        if decoder is not None and past is None and header.ledger.written:
            raise ValueError("there is neither the decoder's past nor latents to make it from")
        if decoder is not None and past is not None:
            decoder.refuse_foreign(past)
    return past


def _shape(path: Path, caller: Caller, prompt: Prompt, config: StreamConfig) -> CacheShape:
    """Sizes of the cache under this prompt; ValueError where they do not fit together."""
    try:
        return caller.shape(prompt, config)
    except ValueError as error:
        raise ValueError(
            f"Resume: the take in {path.name} does not go with this model. {error} Or: {REMEDY}"
        ) from error


def _prompt(caller: Caller, parts: Mapping[str, Tensor]) -> Prompt:
    check_text(parts)
    prompt = caller.load(parts)
    if set(caller.dump(prompt)) != set(parts):
        raise ValueError(f"a prompt cannot have the texts {', '.join(sorted(parts))}")
    return prompt


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
