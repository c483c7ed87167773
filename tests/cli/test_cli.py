"""The command line: input, output, options and errors."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from rerank_plugins import Cache, Dedup, Fusion, Reranker, Windows, __version__
from rerank_plugins.cli import main
from rerank_plugins.cli.app import app
from rerank_plugins.cli.batch import batch
from rerank_plugins.cli.options import OPTIONS, reranker_settings
from rerank_plugins.cli.rerank import rerank
from rerank_plugins.cli.serve import serve
from rerank_plugins.config import RerankerSettings

QUESTION = "Who wrote Faust?"
TEXTS = ["It rains in Weimar.", "Goethe wrote Faust.", "Faust is a city in no country."]


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def ranked(*arguments: object, stdin: str | bytes | None = None) -> list[dict[str, Any]]:
    result = run("rerank", "--query", QUESTION, "--json", *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def test_version() -> None:
    assert run("--version").stdout.strip() == __version__


def test_help_lists_the_commands() -> None:
    shown = run("--help").stdout
    assert "demo" in shown
    assert "rerank" in shown


@pytest.mark.parametrize(
    ("command", "without"),
    [
        # A command that ranks once has no concurrent requests.
        (rerank, {"idle_unload_s", "priority", "when_full"}),
        # A request to the server has its own, or gets an error status.
        (serve, {"top_n", "on_error", "priority", "when_full"}),
        (batch, {"deadline_ms", "on_error", "priority", "when_full"}),
    ],
)
def test_options_are_the_settings_of_the_reranker(command: Any, without: set[str]) -> None:
    fields = RerankerSettings.model_fields
    options = inspect.signature(command).parameters
    values = {name: options[name].default for name in options.keys() & OPTIONS.keys()}
    settings = reranker_settings(values)
    assert settings == {name: fields[name].default for name in fields.keys() - without}


@pytest.mark.parametrize("command", ["rerank", "serve", "batch"])
def test_each_option_has_a_help_text(command: str) -> None:
    group: Any = get_command(app)
    for parameter in group.commands[command].params:
        assert getattr(parameter, "help", None), parameter.name


def test_options_of_value_groups() -> None:
    values = {name: option.default for name, option in OPTIONS.items()}
    values |= {"long_documents": "windows", "window_overlap": 8, "window_top_k": 2}
    values |= {"cache_mb": 1, "cache_entries": 9, "fusion": "weighted", "fusion_weight": 0.2}
    values |= {"dedup_threshold": 0.9, "query_prompt": ""}
    settings = reranker_settings(values)
    assert settings["long_documents"] == Windows(overlap=8, top_k=2)
    assert settings["cache"] == Cache(memory_mb=1, max_entries=9)
    assert settings["fusion"] == Fusion("weighted", 0.2)
    assert settings["dedup"] == Dedup(0.9)
    assert settings["prompts"] == {"query": ""}
    Reranker(**settings)


def test_lines_come_best_first_with_the_scores_of_the_library(lines: Path) -> None:
    expected = Reranker().rank(QUESTION, TEXTS)
    rows = ranked(lines)
    assert [row["text"] for row in rows] == [document.text for document in expected]
    assert [row["index"] for row in rows] == [document.index for document in expected]
    scores = [document.relevance_score for document in expected]
    assert [row["relevance_score"] for row in rows] == scores
    assert [row["line"] for row in rows] == [2 * document.index + 1 for document in expected]


def test_text_output_is_rank_score_and_text(lines: Path) -> None:
    result = run("rerank", "--query", QUESTION, lines, "--top-n", 1)
    rank, score, text = result.stdout.strip().split(maxsplit=2)
    assert rank == "1"
    assert 0 < float(score) < 1
    assert text == "Goethe wrote Faust."


def test_standard_input_is_read_if_no_file_is_given() -> None:
    assert ranked(stdin="\r\n".join(TEXTS))[0]["text"] == "Goethe wrote Faust."
    assert ranked("-", stdin="\ufeff" + TEXTS[0]) == ranked(stdin=TEXTS[0])


def test_jsonl_keeps_other_fields_and_replaces_a_stale_score(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    rows = [
        {"id": "a", "content": TEXTS[0], "relevance_score": 99, "nested": {"x": [1]}},
        {"id": "b", "text": TEXTS[1], "content": {"not": "text"}},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    first, second = ranked(file)
    assert (first["id"], second["id"]) == ("b", "a")
    assert second["nested"] == {"x": [1]}
    assert second["relevance_score"] != 99
    assert ranked("--jsonl", stdin=file.read_bytes()) == [first, second]


def test_the_text_files_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "goethe.MD").write_text(TEXTS[1], encoding="utf-8")
    (tmp_path / "rain.txt").write_text(f"{TEXTS[0]}\nAnd snows.", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    first, second = ranked(tmp_path)
    assert Path(str(first["path"])) == Path("deep", "goethe.MD")
    assert second["text"] == "It rains in Weimar.\nAnd snows."
    shown = run("rerank", "--query", QUESTION, tmp_path).stdout
    assert "rain.txt: It rains in Weimar. And snows." in shown


def test_options_are_passed_to_the_reranker(lines: Path) -> None:
    raw = ranked(lines, "--activation", "none", "--dtype", "float32")
    assert all(row["relevance_score"] == row["raw_score"] for row in raw)
    assert ranked(lines, "--score-threshold", 1.5) == []
    long = run("rerank", "--query", QUESTION, "--max-length", 16, "-", stdin="word " * 99)
    assert "1 of 1 documents exceed the maximum length" in long.stderr


def test_fields_and_retrieval_scores_are_read(tmp_path: Path) -> None:
    rows = [
        {"text": text, "title": "Faust", "retrieved": score} for score, text in enumerate(TEXTS)
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    fusion = ["--fusion", "weighted", "--fusion-weight", 0]
    assert [row["index"] for row in ranked(file, *fusion)] == [0, 1, 2]
    with_scores = [*fusion, "--retrieval-score-key", "retrieved"]
    assert [row["index"] for row in ranked(file, *with_scores)] == [2, 1, 0]
    titled = {row["text"]: row["raw_score"] for row in ranked(file, "--metadata-key", "title")}
    expected = Reranker().rank(QUESTION, [f"title: Faust\n\n{text}" for text in TEXTS])
    scores = [document.raw_score for document in expected]
    assert [titled[TEXTS[document.index]] for document in expected] == scores


def test_a_window_is_a_span_of_the_input_text() -> None:
    text = "sun " * 60 + "Goethe wrote Faust. " + "sun " * 60
    row = json.dumps({"text": text, "title": "Weimar"})
    windows = ["--long-documents", "windows", "--max-length", 64, "--window-overlap", 16]
    start, end = ranked("--jsonl", "--metadata-key", "title", *windows, stdin=row)[0]["window"]
    assert "Goethe wrote Faust." in text[start:end]
    few = run("rerank", "-q", QUESTION, *windows, "--max-windows", 1, stdin=text)
    assert "1 of 1 documents have more windows than --max-windows" in few.stderr


def test_documents_not_scored_within_a_deadline_are_reported() -> None:
    many = "\n".join(f"{number} " + "word " * 200 for number in range(300))
    command = ["rerank", "-q", QUESTION, "--dtype", "float32", "--deadline-ms", 100]
    result = run(*command, "--json", stdin=many)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 300
    assert (rows[-1]["scored"], rows[-1]["relevance_score"], rows[-1]["raw_score"]) == (
        False,
        None,
        None,
    )
    assert "of 300 documents were not scored within 100 ms" in result.stderr
    assert run(*command, stdin=many).stdout.splitlines()[-1].split()[1] == "-"


@pytest.mark.slow
def test_cached_scores_are_kept_after_the_command(lines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    command = [sys.executable, "-m", "rerank_plugins.cli", "rerank", "-q", QUESTION, "--json"]
    first, second = (
        subprocess.run(  # noqa: S603
            [*command, "--cache-dir", str(folder), str(lines)],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert any(folder.iterdir())


def test_control_characters_and_markup_are_not_interpreted() -> None:
    texts = ("\ud800", "\x1b[31mred", "אבג 🎭", "[bold]x[/bold]", "")
    stdin = "\n".join(json.dumps({"text": text}) for text in texts)
    result = run("rerank", "--query", QUESTION, "--jsonl", stdin=stdin)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[bold]x[/bold]" in result.stdout
    assert len(ranked("--jsonl", stdin=stdin)) == 5


def test_an_empty_input_is_reported_and_is_not_an_error() -> None:
    result = run("rerank", "--query", QUESTION, stdin="\n \n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "the input has no documents" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["no/such/file.txt"], b"", "cannot be read"),
        (["."], b"", "contains no text file"),
        ([], b"\xff\xfe", "standard input is not UTF-8"),
        (["--jsonl"], b"{}\n", "-, line 1: expected an object"),
        (["--jsonl"], b'{"text": "a"}\n{oops', "-, line 2: not JSON"),
        (["--jsonl"], b"[1]", "-, line 1: expected an object"),
        (["--top-n", "0"], b"a", "top_n is 0"),
        (["--max-length", "3"], b"a", "max_length is 3"),
        (["--score-threshold", "nan"], b"a", "score_threshold is nan"),
        (["--backend", "abacus"], b"a", "backend is 'abacus'"),
        (["--device", "abacus"], b"a", "device is 'abacus'"),
        (["--model", "./no/such/model"], b"a", "there is no folder './no/such/model'"),
        (["--activation", "none.json"], b"a", "the calibrator cannot be read"),
        (["--fusion-weight", "2"], b"a", "fusion_weight is 2"),
        (["--deadline-ms", "0"], b"a", "deadline_ms is 0"),
        (["--query", " "], b"a", "nothing can be relevant to an empty query"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(
    arguments: list[str],
    stdin: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("rerank", "--query", QUESTION, *arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("rerank-plugins: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_error_of_an_option_states_the_option() -> None:
    result = run("rerank", "--query", QUESTION, "--dtype", "int3", stdin="a")
    assert result.exit_code == 2
    assert "--dtype" in result.stderr


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_named_in_the_error(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert 'pip install "rerank-plugins[cli]"' in capsys.readouterr().err


def test_a_missing_extra_is_named_by_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    required = import_module("rerank_plugins.cli.demo").REQUIRED
    for module, extra in required.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            result = run("demo")
        assert result.exit_code == 2
        assert f'pip install "rerank-plugins[{extra}]"' in result.stderr


def test_a_real_process_ranks_its_standard_input() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "rerank_plugins.cli", "rerank", "--query", QUESTION, "--json"],
        input="\n".join(TEXTS),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout.splitlines()[0])["index"] == 1
    assert done.stderr == ""


def test_batch_counts_and_fails_on_rows_that_cannot_be_ranked(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra batch is not installed")
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    rows = [{"query": QUESTION, "documents": TEXTS}, {"query": QUESTION, "documents": 3}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    first = run("batch", source, output, "--top-n", 1)
    assert first.exit_code == 1
    assert "2 rows, 3 documents: 1 ranked" in first.stdout
    assert "0 of 1 units were done before" in first.stdout
    assert "--allow-bad-rows" in first.stderr
    again = run("batch", source, output, "--top-n", 1, "--allow-bad-rows")
    assert again.exit_code == 0
    assert "1 of 1 units were done before" in again.stdout
    other = run("batch", source, output, "--top-n", 2)
    assert other.exit_code == 2
    assert "top_n=1, not 2" in other.stderr
    assert run("batch", tmp_path / "none", output).exit_code == 2
