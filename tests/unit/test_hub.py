"""Sets on a local stand-in for the Hugging Face hub, and look-ups where nothing answers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from tests.hub_server import TOKEN, HubServer
from tests.tiny_bert import write_bert
from tests.unit.test_distilled import make_set

import vldistill as vd
from vldistill import cli
from vldistill.api.inspection import describe
from vldistill.errors import ArtefactError, ConfigError, HubError
from vldistill.runtime.log import Mute
from vldistill.stages.evaluate import set_folder
from vldistill.storage import hub
from vldistill.workbench.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Use .content:DeprecationWarning")  # of huggingface_hub

SAID: dict[str, Any] = {"license": "cc-by-4.0", "terms": "For research alone."}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """``ask(endpoint)``: what HF_ENDPOINT, HF_HOME and HF_TOKEN do for a new process."""
    constants = huggingface_hub.constants

    def point(endpoint: str) -> None:
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # the stand-in has LFS alone
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.SILENCE.clear()

    return point


@pytest.fixture
def server(ask: Callable[[str], None]) -> Iterator[HubServer]:
    served = HubServer()
    ask(served.endpoint)
    yield served
    served.close()


@pytest.fixture
def silent(ask: Callable[[str], None]) -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        ask(endpoint)
        yield endpoint


def a_set(folder: Path, **changes: Any) -> vd.DistilledSet:
    make_set(**changes).save(folder)
    return vd.DistilledSet.load(folder)


def card_of(server: HubServer, name: str) -> tuple[dict[str, Any], str]:
    _, head, text = (
        server.repositories[name]
        .commits[server.repositories[name].branches["main"]]["README.md"]
        .decode()
        .split("---\n", 2)
    )
    return yaml.safe_load(head), text


# --- push and pull -------------------------------------------------------------------------------------------------


def test_a_set_goes_to_the_hub_and_comes_back_with_the_same_tensors(server: HubServer, tmp_path: Path) -> None:
    pairs = a_set(tmp_path / "set")
    address = pairs.push_to_hub("me/set", **SAID)
    repository = server.repositories["me/set"]
    assert address == f"{server.endpoint}/datasets/me/set/commit/{repository.branches['main']}" and repository.private
    server.asked.clear()
    for back in (vd.DistilledSet.load("hf:me/set"), vd.DistilledSet.from_hub("me/set", repository.branches["main"])):
        assert back.folder is not None and back.folder.name == repository.branches["main"]
        for name in ("set.safetensors", "set.json"):
            assert (back.folder / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    assert not [line for line in server.asked if "/data/" in line]  # rounded pictures are not needed
    head, text = card_of(server, "me/set")
    assert (head["license"], head["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert "dataset-distillation" in head["tags"]
    assert "For research alone." in text and "Licence: `cc-by-4.0`" in text
    rows = huggingface_hub.hf_hub_download("me/set", "data/metadata.jsonl", repo_type="dataset")
    assert json.loads(Path(rows).read_text().splitlines()[3])["caption"] == "näher 3"


def test_a_branch_is_a_revision_and_loses_pictures_of_before(server: HubServer, tmp_path: Path) -> None:
    a_set(tmp_path / "four").push_to_hub("me/set", private=False, **SAID)
    two = {"images": torch.ones(2, 3, 8, 8), "texts": torch.ones(2, 5), "captions": ()}
    a_set(tmp_path / "two", **two).push_to_hub("me/set@small", **SAID)
    assert not server.repositories["me/set"].private
    assert [len(vd.DistilledSet.load(f"hf:me/set{at}")) for at in ("", "@main", "@small")] == [4, 4, 2]
    files = server.repositories["me/set"].commits[server.repositories["me/set"].branches["small"]]
    assert [name for name in files if name.endswith(".png")] == ["data/000000.png", "data/000001.png"]


def test_the_command_pushes_and_every_place_of_a_set_takes_the_name(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_set(tmp_path / "set")
    words = ["push", "--set", str(tmp_path / "set"), "--to", "me/set"]
    assert cli.main(words) == 2 and "Give --license , an id" in capsys.readouterr().err and not server.repositories
    assert cli.main([*words, "--license", "mit"]) == 0
    assert "a new repository is private" in (said := capsys.readouterr()).err and "/datasets/me/set/commit/" in said.out
    assert describe("hf:me/set", Mute())["kind"] == "distilled set"
    assert Path(set_folder(Run(tmp_path / "run"), "hf:me/set")).joinpath("set.json").is_file()
    assert cli.main(["convert", "hf:me/set", "--to", "csv", "--out", str(tmp_path / "csv"), "--quiet"]) == 0
    assert cli.main(["push", "--set", "hf:me/set", "--to", "you/copy", "--quiet"]) == 0  # the licence is on its card
    assert card_of(server, "you/copy")[0]["license"] == "mit"


# --- licence and terms ---------------------------------------------------------------------------------------------


def test_an_unknown_licence_is_asked_for_and_left_out_only_on_confirmation(server: HubServer, tmp_path: Path) -> None:
    pairs = a_set(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"licence of bitraj-4-s0 is unknown.*license='other'.*without_license=True"):
        pairs.push_to_hub("me/set")
    with pytest.raises(ConfigError, match=r"license is 'other' and the terms.*Give terms="):
        pairs.push_to_hub("me/set", license="other")
    assert not server.repositories
    pairs.push_to_hub("me/set", without_license=True)
    head, text = card_of(server, "me/set")
    assert "license" not in head and "Published without a licence" in text


def test_the_licence_of_the_source_is_carried_along(server: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Photos\n")
    (source / "LICENSE").write_text("Ask us first.")
    info = {**make_set().info, "source": str(source)}
    a_set(tmp_path / "set", info=info).push_to_hub("me/set")
    head, text = card_of(server, "me/set")
    files = server.repositories["me/set"].commits[server.repositories["me/set"].branches["main"]]
    assert head["license"] == "cc-by-nc-4.0" and "SOURCE_LICENSE.md" in text
    assert files["SOURCE_LICENSE.md"] == b"Ask us first."
    a_set(tmp_path / "next", info={**info, "source": "hf:me/set"}).push_to_hub("me/next")
    assert {"license": "cc-by-nc-4.0", "source_datasets": ["me/set"]}.items() <= card_of(server, "me/next")[0].items()


# --- downloads -----------------------------------------------------------------------------------------------------


def test_a_download_is_refused_by_its_listed_size_before_it_begins(server: HubServer, tmp_path: Path) -> None:
    a_set(tmp_path / "set").push_to_hub("me/set", **SAID)
    server.asked.clear()
    with pytest.raises(HubError, match=r"at most 1.0 kB are downloaded.*most_bytes=\d+"):
        vd.DistilledSet.from_hub("me/set", most_bytes=1000)
    server.repositories["me/set"].listed["set.json"] = None
    with pytest.raises(HubError, match=r"lists no size of set.json"):
        vd.DistilledSet.load("hf:me/set")
    server.repositories["me/set"].listed["set.json"] = 10
    with pytest.raises(HubError, match=r"set.json is listed with 10 bytes and sent with \d+"):
        vd.DistilledSet.load("hf:me/set")
    assert not [line for line in server.asked if line.startswith("GET /datasets")]


def test_files_that_can_run_code_are_never_fetched(server: HubServer, tmp_path: Path) -> None:
    a_set(tmp_path / "set").push_to_hub("me/set", **SAID)
    repository = server.repositories["me/set"]
    evil = {"set.pt": b"evil", "vldistill.py": b"evil", "pytorch_model.bin": b"evil"}
    repository.commit("main", {**repository.commits[repository.branches["main"]], **evil})
    folder = vd.DistilledSet.load("hf:me/set").folder
    assert folder is not None and not {path.name for path in folder.rglob("*")} & evil.keys()
    with pytest.raises(HubError, match=r"set.pt is not fetched; only \.safetensors"):
        hub.fetch(hub.HubName("me/set"), ["set.pt"], [], 1000, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/nothing", "Repository Not Found.*Check the name"),
        ("hf:me/set@v9", "Revision Not Found.*Check the name and the revision"),
        ("hf:me/photos", "is no distilled set: it has no set.json, set.safetensors. It holds: a.png"),
        ("hf:one name", "is no name of the hub"),
    ],
)
def test_what_is_no_set_there_is_named(server: HubServer, tmp_path: Path, name: str, message: str) -> None:
    a_set(tmp_path / "set").push_to_hub("me/set", **SAID)
    a_set(tmp_path / "set").push_to_hub("me/photos", **SAID)
    server.repositories["me/photos"].commit("main", {"a.png": b"x"})
    with pytest.raises(HubError, match=message):
        vd.DistilledSet.load(name)


def test_a_damaged_set_of_the_hub_is_refused(server: HubServer, tmp_path: Path) -> None:
    a_set(tmp_path / "set").push_to_hub("me/set", **SAID)
    repository = server.repositories["me/set"]
    files = repository.commits[repository.branches["main"]]
    other = a_set(tmp_path / "other", images=torch.zeros(4, 3, 8, 8))
    assert other.folder is not None
    repository.commit("main", {**files, "set.safetensors": (other.folder / "set.safetensors").read_bytes()})
    with pytest.raises(ArtefactError, match="does not match its checksum"):
        vd.DistilledSet.load("hf:me/set")


def test_a_push_without_a_token_says_how_to_log_in(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="Log in"):
        a_set(tmp_path / "set").push_to_hub("me/set", token="hf_wrong", **SAID)


# --- where nothing answers -----------------------------------------------------------------------------------------


def test_look_ups_end_within_five_seconds_and_name_the_remedy(silent: str, tmp_path: Path) -> None:
    pairs = a_set(tmp_path / "set")
    looks = {
        "Connect, or give the folder": lambda: vd.DistilledSet.load("hf:me/set"),
        "Connect and push again": lambda: pairs.push_to_hub("me/set", **SAID),
        "set encoder.image.weights": lambda: vd.image_tower("lcnet_050", weights="hub"),
        "which needs no download": lambda: vd.text_tower("someone/some-bert"),
        "folder of save_to_disk": lambda: vd.load_pairs("hf:someone/photos", "train"),
    }
    began = time.monotonic()
    for remedy, look in looks.items():
        with pytest.raises(HubError, match=f"{silent} does not answer .*{remedy}"):
            look()
    assert hub.SILENCE[silent][0] - began < 5  # asked once; building the rest of a tower takes time of its own


def test_what_is_in_the_cache_is_read_where_nothing_answers(ask: Callable[[str], None], tmp_path: Path) -> None:
    served = HubServer()
    ask(served.endpoint)
    a_set(tmp_path / "set").push_to_hub("me/set", **SAID)
    vd.DistilledSet.load("hf:me/set")
    bert = tmp_path / "hub" / "models--me--bert"
    (bert / "refs").mkdir(parents=True)
    (bert / "refs" / "main").write_text("1" * 40)
    write_bert(bert / "snapshots" / ("1" * 40))
    served.close()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ask(f"http://127.0.0.1:{port}")
    assert len(vd.DistilledSet.load("hf:me/set")) == 4
    assert vd.text_tower("me/bert").width == 16
