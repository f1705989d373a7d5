"""The search of nodes in ComfyUI's own page, typed into by Chromium: what people look for finds our nodes."""

import json
import os
from pathlib import Path

import pytest
from rivulet.tests.browser import drive

ROOT = Path(__file__).resolve().parents[2]
STREAM, LOAD, START = "RivuletStream", "RivuletLoadModel", "RivuletStartFrom"
WORDS = {
    "en": {
        **dict.fromkeys(
            ("video", "text to video", "t2v", "infinite", "endless", "long", "stream", "live"), STREAM
        ),
        **{"wan": LOAD, "i2v": START},
    },
    "zh": {**dict.fromkeys(("视频", "文生视频", "无限", "长视频", "直播"), STREAM), "图生视频": START},
}
LIST_ENDS = 64
# so many nodes of ComfyUI have this word in their name that the list ends before any alias
BEYOND_THE_LIST = {"video"}


@pytest.mark.parametrize("language", WORDS)
def test_the_words_people_look_for_find_the_right_node_first_of_ours(server, tmp_path, language):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    told = {"url": server.url, "words": list(WORDS[language]), "locale": language, "shots": shots}
    seen = drive(Path(__file__).with_name("search_page.mjs"), **told)
    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    ours = {text["display_name"] for text in texts.values()}
    wanted = {word: texts[node]["display_name"] for word, node in WORDS[language].items()}
    assert seen["errors"] == []
    assert {word: (names or [None])[0] for word, names in seen["found"].items()} == wanted
    listed = {
        word: next((name for name in names if name in ours), None) for word, names in seen["listed"].items()
    }
    beyond = {word for word, name in listed.items() if name is None}
    assert beyond <= BEYOND_THE_LIST and all(len(seen["listed"][word]) == LIST_ENDS for word in beyond)
    assert {word: listed[word] for word in wanted if word not in beyond} == {
        word: name for word, name in wanted.items() if word not in beyond
    }
    main = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
    assert seen["category"] == main["nodeCategories"]["Rivulet"]
