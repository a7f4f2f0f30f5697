"""Folders that were loaded and are saved again: nothing in them is lost, and a failed save changes nothing."""
import dataclasses
import itertools
import json
import os

import jax
import pytest
from small_transformers import BERT, GPT2, ROBERTA, drawn, split_in_two
from trees import equal

import haiku_mup
from haiku_mup import models
from haiku_mup.models.huggingface import pretrained
from haiku_mup.serialization import atomic_folders

NAMES = {"gpt2": ("GPT2LMHeadModel", GPT2), "bert": ("BertForSequenceClassification", BERT),
         "roberta": ("RobertaForMaskedLM", ROBERTA)}
OTHERS = {
    "id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2},
    "sep_token_id": 5, "use_cache": False, "infinite": float("inf"), "architectures": ["?"],
    "bos_token_id": 3, "eos_token_id": [2, 4], "problem_type": None, "unknown": {"list": [1, {"deep": [None]}]},
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
FILES = {
    "generation_config.json": b'{"eos_token_id": [2, 4], "bos_token_id": 3, "temperature": 0.6}',
    "tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{}", "special_tokens_map.json": b"{}",
    "tokenizer.model": b"\x00\xff binary", "vocab.txt": "ünïcode\r\n".encode(), "merges.txt": b"#version",
    "chat_template.jinja": b"{{ messages }}", "additional_chat_templates/tools.jinja": b"{{ tools }}"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def published(folder, kind="gpt2"):
    """Writes a folder as another program would, with fields and files that this one has no use for."""
    name, config = NAMES[kind]
    config = dataclasses.replace(config, num_labels=3)
    models.save_pretrained(folder, config, drawn(name, config))
    values = read(folder) | OTHERS | {"architectures": [name]}
    (folder / "config.json").write_text(json.dumps(values))
    for file, content in FILES.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
    (folder / "README.md").write_text("of this folder alone")
    return values


def read(folder):
    return json.loads((folder / "config.json").read_text())


def saved_again(folder, config, params, **kwargs):
    models.save_pretrained(folder, config, params, **kwargs)
    return contents(folder)


# --- nothing is lost ---

@pytest.mark.parametrize("kind", NAMES)
def test_fields_and_files_come_back(kind, tmp_path):
    values = published(tmp_path / "one", kind)
    config, params = models.load_pretrained(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "away")
    found = saved_again(tmp_path / "two", dataclasses.replace(config, layer_stack=False), params)
    assert read(tmp_path / "two") == values
    assert {file: found[file] for file in FILES} == FILES
    assert found.keys() == {*FILES, "config.json", "model.safetensors"}


def test_another_config_json_at_the_same_place_changes_the_ids_of_generation(tmp_path):
    published(tmp_path / "one")
    config, params = models.load_pretrained(tmp_path / "one")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (3, [2, 4], None)
    config = dataclasses.replace(config, eos_token_id=7, pad_token_id=0)
    for folder in (tmp_path / "two", tmp_path / "one"):
        models.save_pretrained(folder, config, params)
        assert (read(folder)["eos_token_id"], read(folder)["pad_token_id"]) == (7, 0)
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings == {"eos_token_id": 7, "bos_token_id": 3, "pad_token_id": 0, "temperature": 0.6}


def test_a_newer_file_in_the_folder_stays(tmp_path):
    published(tmp_path)
    config, params = models.load_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"newer")
    found = saved_again(tmp_path, config, params)
    assert found["tokenizer.json"] == b"newer" and found["README.md"] == b"of this folder alone"
    assert {file: found[file] for file in FILES if file != "tokenizer.json"} == {
        file: content for file, content in FILES.items() if file != "tokenizer.json"}


def test_folded_multipliers_lose_nothing(tmp_path):
    values = published(tmp_path / "one")
    config, params = models.load_pretrained(tmp_path / "one")
    found = saved_again(tmp_path / "two", dataclasses.replace(config, attn_mult=2.0, output_mult=0.5), params)
    assert read(tmp_path / "two") == values and found["tokenizer.model"] == FILES["tokenizer.model"]


def test_files_of_ones_own_names_are_refused(tmp_path):
    params = drawn("GPT2LMHeadModel", GPT2)
    for name in ("config.json", "notes.txt", "additional_chat_templates/../../x.jinja"):
        config = dataclasses.replace(GPT2, other_files={name: b""})
        with pytest.raises(haiku_mup.MupError, match="other_files has .*tokenizer.json"):
            models.save_pretrained(tmp_path / "folder", config, params)
    assert not os.listdir(tmp_path)


def test_labels_alone_are_kept_and_labels_count_as_in_transformers(tmp_path):
    path = tmp_path / "config.json"

    def written(values, **changes):
        path.write_text(json.dumps({"model_type": "bert", **values}))
        dataclasses.replace(models.BertConfig.from_json(path), **changes).to_json(path)
        return json.loads(path.read_text())

    assert written({"label2id": {"a": 0, "b": 1}})["label2id"] == {"a": 0, "b": 1}
    found = written({"label2id": {"a": 0, "b": 1, "c": 2}, "num_labels": 3})
    assert found["id2label"] == {"0": "a", "1": "b", "2": "c"}
    found = written({"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 2})
    assert found["id2label"] == {"0": "a", "1": "b", "2": "c"}
    found = written({"id2label": {"0": "a", "1": "b", "2": "c"}}, num_labels=2)
    assert found["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


# --- ids ---

@pytest.mark.parametrize("make, ids", [
    (models.GPT2Config, (50256, 50256, None)), (models.BertConfig, (None, None, 0)),
    (models.RobertaConfig, (0, 2, 1)), (lambda: GPT2, (None, None, None)),
    (lambda: dataclasses.replace(models.GPT2Config(), vocab_size=50), (None, None, None)),
    (lambda: dataclasses.replace(GPT2, bos_token_id=0, eos_token_id=(1, 2), pad_token_id=3), (0, [1, 2], 3))])
def test_a_model_from_the_start_says_its_ids(make, ids, tmp_path):
    """The defaults are transformers', and none of them is an id that the vocabulary lacks."""
    make().to_json(tmp_path)
    values = read(tmp_path)
    assert tuple(values.get(name, "?") for name in ("bos_token_id", "eos_token_id", "pad_token_id")) == (
        ids if "pad_token_id" in values else (*ids[:2], "?"))


def test_ids_that_are_no_tokens_are_written_as_they_were_read(tmp_path):
    values = json.loads((saved(tmp_path) / "config.json").read_text())
    given = {"bos_token_id": 50256, "eos_token_id": -1, "pad_token_id": 11}
    (tmp_path / "config.json").write_text(json.dumps(values | given))
    config, params = models.load_pretrained(tmp_path)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    models.save_pretrained(tmp_path, config, params)
    assert given.items() <= read(tmp_path).items()
    models.save_pretrained(tmp_path, dataclasses.replace(config, eos_token_id=2), params)
    assert read(tmp_path)["eos_token_id"] == 2


@pytest.mark.parametrize("ids, words", [
    ({"eos_token_id": 11}, "eos_token_id=11 is outside of the vocabulary, whose ids are 0 to 10"),
    ({"eos_token_id": [1, 99]}, "outside of the vocabulary"), ({"bos_token_id": -1}, "give the id of a token"),
    ({"eos_token_id": "</s>"}, "or several"), ({"eos_token_id": []}, "or several"),
    ({"pad_token_id": [1, 2]}, "give the id of a token"), ({"bos_token_id": True}, "give the id of a token")])
def test_ids_that_cannot_be(ids, words):
    with pytest.raises(haiku_mup.MupError, match=words):
        dataclasses.replace(GPT2, **ids)


def test_ids_do_not_count_as_configurations_are_compared():
    other = dataclasses.replace(GPT2, eos_token_id=3)
    assert other == GPT2 and hash(other) == hash(GPT2)


# --- old weights ---

def saved(folder):
    models.save_pretrained(folder, GPT2, drawn("GPT2LMHeadModel", GPT2))
    return folder


def test_shards_are_replaced(tmp_path):
    split_in_two(saved(tmp_path))
    config, params = models.load_pretrained(tmp_path)
    doubled = jax.tree.map(lambda x: 2 * x, params)
    models.save_pretrained(tmp_path, config, doubled)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    assert equal(models.load_pretrained(tmp_path)[1], doubled)


def test_an_index_that_is_none(tmp_path):
    split_in_two(saved(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(haiku_mup.MupError, match="index.json: no index of tensors"):
        models.load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_dtype_of_the_weights_is_said(dtype, tmp_path, x64):
    params = jax.tree.map(lambda x: x.astype(jax.numpy.dtype(dtype)), drawn("GPT2LMHeadModel", GPT2))
    models.save_pretrained(tmp_path, GPT2, params)
    assert read(tmp_path)["dtype"] == dtype


# --- a save that fails ---

@pytest.mark.parametrize("step", ["write_state_dict", "write_other_files"])
def test_a_save_that_fails_leaves_the_folder_as_it_was(step, tmp_path, monkeypatch):
    published(tmp_path / "old")
    before = contents(tmp_path / "old")
    config, params = models.load_pretrained(tmp_path / "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, step, full)
    for folder in ("old", "new"):
        with pytest.raises(OSError, match="No space"):
            models.save_pretrained(tmp_path / folder, config, jax.tree.map(lambda x: 0 * x, params))
    assert contents(tmp_path / "old") == before and os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interrupt_between_two_files_leaves_the_folder_as_it_was(number, links, tmp_path, monkeypatch):
    """Covers file systems without hard links, too; the second of three files is new."""
    before, replace, numbers = {"a": "old", "c": "old", "other": "old"}, os.replace, itertools.count(1)
    for name, text in before.items():
        (tmp_path / name).write_text(text)

    def interrupted(*args):
        if next(numbers) == number:
            raise KeyboardInterrupt
        replace(*args)

    def no_links(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "replace", interrupted)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(KeyboardInterrupt), atomic_folders.replaced_together(tmp_path) as staging:
        for name in "abc":
            (staging / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    with atomic_folders.replaced_together(tmp_path) as staging:
        (staging / "a").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before | {"a": "new"}


def test_a_folder_in_the_place_of_a_file_changes_nothing(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    before, params = contents(tmp_path), drawn("GPT2LMHeadModel", GPT2)
    with pytest.raises(IsADirectoryError, match="move it away"):
        models.save_pretrained(tmp_path, dataclasses.replace(GPT2, num_labels=5), params)
    assert contents(tmp_path) == before and len(os.listdir(tmp_path)) == 2


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    """Covers a folder of the hub's cache, whose files are links to others that are named by checksums."""
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "blob")
    (tmp_path / "model.safetensors").symlink_to("blob")
    blob = (tmp_path / "blob").read_bytes()
    config, params = models.load_pretrained(tmp_path)
    models.save_pretrained(tmp_path, config, jax.tree.map(lambda x: 2 * x, params))
    assert (tmp_path / "blob").read_bytes() == blob and not (tmp_path / "model.safetensors").is_symlink()
