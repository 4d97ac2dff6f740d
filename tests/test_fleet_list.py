"""Lists of subjects: what a row may say, and that whatever is wrong is told with the row before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from arguments.fleet_settings import FleetSettings
from orchestration.flags import arguments_of, flags_from_text
from orchestration.stages import STAGES
from orchestration.subjects import Subject, read_subjects


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """A folder with two videos, a folder of pictures and a data set; their content is looked at later, by programs."""
    folder = tmp_path / "footage"
    for made in (folder / "pictures", folder / "tracked" / "checkpoint"):
        made.mkdir(parents=True)
    for name in ("anna.mp4", "Ben B.MOV", "notes.txt", ".hidden.mp4", "pictures/1.png"):
        (folder / name).write_bytes(b"")
    return folder


def read(list_file: Path, **settings: object) -> dict[str, Subject]:
    subjects = read_subjects(FleetSettings(list_file, Path("out"), **settings))  # type: ignore[arg-type]
    return {subject.name: subject for subject in subjects}


def write(footage: Path, text: str, name: str = "list.csv") -> Path:
    (footage / name).write_text(text, encoding="utf-8")
    return footage / name


def test_a_folder_gives_its_videos_picture_folders_and_data_sets(footage: Path) -> None:
    subjects = read(footage, train="-r 64", export=("ply",))
    assert list(subjects) == ["Ben_B", "anna", "pictures", "tracked"]
    assert [subject.is_video for subject in subjects.values()] == [True, True, True, False]
    assert subjects["anna"].stages == ["track", "train", "test", "export"]
    assert subjects["tracked"].stages == ["train", "test", "export"]
    assert all(subject.flags["train"] == {"resolution": ("64",)} for subject in subjects.values())


def test_pictures_with_tables_beside_them_are_a_data_set_of_another_program(footage: Path) -> None:
    (footage / "pictures" / "transforms.json").write_text("{}")
    assert not read(footage)["pictures"].is_video


@pytest.mark.parametrize("name", ["tracked", "pictures"])
def test_a_folder_that_is_itself_a_subject_is_refused(footage: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is itself one subject; name the folder that holds it"):
        read(footage / name)


def test_rows_of_csv_and_yaml_mean_the_same(footage: Path) -> None:
    table = write(footage, "source,name,iterations,track.refine,test.lpips,export,lpips_every\n"
                           "anna.mp4,a-1,30,False,alex vgg,ply web,2\n\ntracked,,,,,,\n")
    entries = write(footage, "- {source: anna.mp4, name: a-1, iterations: 30, track.refine: false, test.lpips: "
                             "[alex, vgg], export: [ply, web], lpips_every: 2}\n- source: tracked\n", "list.yaml")
    subjects = read(table, train="--iterations 20 --seed=-1")
    assert subjects == read(entries, train="--iterations 20 --seed=-1")
    anna, tracked = subjects.values()
    assert anna.flags["train"] == {"iterations": ("30",), "seed": ("-1",)}, "the row's flag goes before that for all"
    assert anna.flags["track"] == {"refine": ("False",)}
    assert anna.flags["test"] == {"lpips": ("alex", "vgg"), "lpips_every": ("2",)}
    assert arguments_of(anna.flags["test"]) == ["--lpips", "alex", "vgg", "--lpips_every=2"]
    assert (anna.formats, tracked.formats) == (("ply", "web"), ())
    assert tracked.flags["train"] == {"iterations": ("20",), "seed": ("-1",)}
    assert anna.source == footage / "anna.mp4", "paths of a list start at its folder"


def test_spreadsheets_with_semicolons_and_a_mark_are_read(footage: Path) -> None:
    table = write(footage, "\ufeffsource;name\nanna.mp4;anna\n")
    assert list(read(table)) == ["anna"]


def test_paths_among_the_flags_become_absolute(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(footage.parent)
    table = write(footage, "source,lpips_weights,head\n")
    table.write_text("source,train.lpips_weights,train.head\ntracked,w,flame.pkl\n")
    (subject,) = read(table, test="--lpips_weights w").values()
    assert subject.flags["train"] == {"lpips_weights": (str(footage / "w"),), "head": (str(footage / "flame.pkl"),)}
    assert subject.flags["test"] == {"lpips_weights": (str(footage.parent / "w"),)}


def test_texts_of_flags_are_read_as_the_programs_read_them(tmp_path: Path) -> None:
    flags = flags_from_text(STAGES["train"], "-w --use-HR --test_iterations 5 10 --split=blocks", tmp_path)
    assert flags == {"white_background": ("True",), "use_HR": ("True",), "test_iterations": ("5", "10"),
                     "split": ("blocks",)}


@pytest.mark.parametrize(("text", "message"), [
    ("source,iteratons\nanna.mp4,3\n", r"line 1: unknown flag 'iteratons'.*did you mean iterations\?"),
    ("source,batch_size\nanna.mp4,3\n", r"line 1: 'batch_size' is a flag of train.py and test.py: write "
                                        r"train.batch_size or test.batch_size"),
    ("source,render.size\nanna.mp4,3\n", "line 1: unknown stage in 'render.size'"),
    ("source,model_path\nanna.mp4,3\n", "line 1: 'model_path' is a flag of"),
    ("source,train.model_path\nanna.mp4,3\n", "line 1: 'model_path': fleet.py sets this flag of train.py itself"),
    ("source,iterations\nanna.mp4,30\ntracked,many\n", r"line 3: train.py: .*many"),
    ("source,size\nanna.mp4,8\n", r"line 2: track.py: .*--size: 64 to 4096 pixels expected, got 8"),
    ("source,size\ntracked,256\n", r"line 2: .*tracked is a data set, so that flags of track.py mean nothing: size"),
    ("source,export\nanna.mp4,obj\n", r"line 2: export: ply, .* expected, got obj"),
    ("source,name\nanna.mp4,a\ntracked,A\n", r"line 3: the name 'A' is already that of .*line 2"),
    ("source,name\nanna.mp4,../a\n", r"line 2: '\.\./a': a name is made of letters"),
    ("source,name\nanna.mp4,a,b\n", "line 2: 3 cells, but the first line names 2 columns"),
    ("source\ngone.mp4\n", r"line 2: .*gone\.mp4: no such video"),
    ("source,name\n,anna\n", "line 2: source: missing"),
    ("name\nanna\n", "the first line must name the columns, each once, one of them 'source'"),
    ("source,source\n", "the first line must name the columns, each once"),
    ("source\n", "no video and no data set in it"),
])
def test_what_is_wrong_in_a_csv_is_told_with_its_line(footage: Path, text: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=rf"(?s)list\.csv.*{message}"):
        read(write(footage, text))


@pytest.mark.parametrize(("text", "message"), [
    ("source: anna.mp4\n", "a list of subjects .* expected, got dict"),
    ("- anna.mp4\n", "entry 1: names and values .* expected, got 'anna.mp4'"),
    ("- {source: anna.mp4, name: 12}\n", "entry 1: name: a text expected, got 12; put it in quotes"),
    ("- {source: anna.mp4, train: {iterations: 3}}\n", "entry 1: train: a text, a number, true, false or a list"),
    ("- {source: anna.mp4, iteratons: 3}\n", "entry 1: unknown flag 'iteratons'"),
    ("- {source: anna.mp4, source: tracked}\n", "source given twice"),
    ("- {source: !!python/object/apply:os.system [ls]}\n", "not readable as YAML"),
    ("- [\n", "not readable as YAML"),
    ("[" * 5000, "not readable as YAML"),
])
def test_what_is_wrong_in_a_yaml_is_told_with_its_entry(footage: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)list\.yaml.*{message}"):
        read(write(footage, text, "list.yaml"))


@pytest.mark.parametrize(("settings", "message"), [
    ({"train": "--iteratons 3"}, "--train: unknown flag 'iteratons'.*did you mean iterations"),
    ({"train": "--iterations many"}, "--train: .*many"),
    ({"train": "30"}, "--train: '30': a flag of train.py was expected, got '30'"),
    ({"train": "--resume"}, "--train: 'resume': fleet.py sets this flag of train.py itself"),
    ({"test": "'"}, "--test: .*quotation"),
    ({"only": ("zoe",)}, "--only: no subject is named zoe"),
])
def test_wrong_flags_for_all_are_refused(footage: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(footage, **settings)


def test_lists_that_are_none_are_refused(footage: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read(footage / "gone")
    with pytest.raises(ValueError, match=r"a folder, or a list that ends in \.csv"):
        read(footage / "notes.txt")
    (footage / "list.csv").write_bytes(b"source\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not a UTF-8 text"):
        read(footage / "list.csv")
