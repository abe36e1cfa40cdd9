"""Films: pictures that follow one another as a video, a GIF or a folder of PNG files, and pictures in files.

A file has its name once it is whole: what is half written never has it.
"""

from __future__ import annotations

import contextlib
import glob
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import ConfigError, needs
from physgym.files import absolute, creating, is_temporary, replacing
from physgym.progress import Progress
from physgym.spaces import Array

if TYPE_CHECKING:
    from PIL.Image import Image

# suffix of a video: container and codec of ffmpeg, and how good the pictures are
VIDEOS = {
    ".mp4": ("mp4", "libx264", ["-crf", "20", "-movflags", "+faststart"]),
    ".mov": ("mov", "libx264", ["-crf", "20"]),
    ".mkv": ("matroska", "libx264", ["-crf", "20"]),
    ".webm": ("webm", "libvpx-vp9", ["-crf", "32", "-b:v", "0"]),
}
GIF, PNG = ".gif", ".png"
GIF_RATE = 50  # frames a second that programs still show as such
GIF_COLOURS = 256  # of a GIF
SAMPLED = 8  # pictures whose colours are those of a GIF
LONGEST = 100_000  # frames
OLD = 600.0  # seconds after which nobody writes to a file under construction any more


@dataclass(frozen=True)
class Film:
    """Pictures that follow one another, drawn when they are needed.

    Attributes:
        picture: Returns the picture of a number from 0: uint8, shape (height, width, 3), the same for all.
        frames: For how many frames each is shown, at least one, in order.
        fps: Frames in a second.

    Raises:
        ConfigError: There is no picture, or there are too many frames.
    """

    picture: Callable[[int], Array]
    frames: Sequence[int]
    fps: float

    def __post_init__(self) -> None:
        if not self.frames:
            raise ConfigError("a film needs at least one picture")
        check_length(self.count)

    @property
    def count(self) -> int:
        """Return the number of frames."""
        return sum(self.frames)

    @property
    def seconds(self) -> float:
        """Return how long it is."""
        return self.count / self.fps


def check_length(frames: float) -> None:
    """Raise ConfigError where a film would have so many frames that nobody wants it."""
    if frames > LONGEST:
        raise ConfigError(
            f"the film would have {frames:.0f} frames, more than {LONGEST}; choose fewer episodes, a higher speed or "
            "fewer frames a second"
        )


def check_output(path: str | Path, suffixes: Sequence[str], *, overwrite: bool = False) -> Path:
    """Return the absolute path of a file that may be written.

    Args:
        path: The file.
        suffixes: Those that it may have.
        overwrite: Whether it may be there already.

    Raises:
        ConfigError: The suffix is another one, the file is there, or its folder is not.
    """
    file = absolute(path)
    if file.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: the name ends with {file.suffix!r}; write {' or '.join(suffixes)}")
    if file.is_dir():
        raise ConfigError(f"{path} is a folder; name a file")
    if file.exists() and not overwrite:
        raise ConfigError(f"{path} is there already; choose another name, or allow to overwrite it")
    if not file.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {file.parent}")
    return file


def save_picture(path: str | Path, picture: Array, *, overwrite: bool = False) -> None:
    """Write a picture, uint8 of shape (height, width, 3), as a PNG file.

    Raises:
        ConfigError: The suffix is another one, the file is there, or it cannot be written.
    """
    file = check_output(path, [PNG], overwrite=overwrite)
    with _written(file, overwrite=overwrite) as temporary:
        temporary.write_bytes(png(picture))


def png(picture: Array) -> bytes:
    """Return a picture, uint8 of shape (height, width, 3), as the bytes of a PNG file."""
    held = io.BytesIO()
    _image(picture).save(held, format="PNG")
    return held.getvalue()


def save_film(path: str | Path, film: Film, *, overwrite: bool = False, progress: bool = False) -> None:
    """Write a film as a video or a GIF, as the suffix says.

    Args:
        path: The file: .mp4, .mov, .mkv or .webm, which need ``pip install 'physgym[video]'``, or .gif.
        film: The pictures.
        overwrite: Whether a file may be replaced.
        progress: Show how many pictures are drawn.

    Raises:
        ConfigError: The suffix is none of these, the file is there or cannot be written, or the package is missing.
    """
    file = check_output(path, [*VIDEOS, GIF], overwrite=overwrite)
    write = _write_gif if file.suffix.lower() == GIF else _write_video
    if write is _write_video:
        with needs("imageio_ffmpeg", "video", "a video"):
            import imageio_ffmpeg  # noqa: F401  # before anything is drawn
    with _written(file, overwrite=overwrite) as temporary, _shown(film, progress, twice=write is _write_gif) as shown:
        write(temporary, shown, file.suffix.lower())


@contextlib.contextmanager
def _shown(film: Film, progress: bool, *, twice: bool = False) -> Iterator[Film]:
    """Give a film that shows how many of its pictures are drawn, each once.

    Those that a GIF takes its colours from are asked for twice, and kept in between.
    """
    with Progress(len(film.frames), "draw", "picture", enabled=progress) as bar:
        kept: dict[int, Array] = {}
        sampled = {*_sampled(film)} if twice else set()

        def picture(number: int) -> Array:
            if number in kept:
                return kept.pop(number)
            found = film.picture(number)
            if number in sampled:
                sampled.remove(number)
                kept[number] = found
            bar.update()
            return found

        yield replace(film, picture=picture)


def save_frames(path: str | Path, film: Film, names: Sequence[str], *, progress: bool = False) -> None:
    """Write each picture of a film once, as a PNG file in a new folder.

    Args:
        path: The folder; an empty one may be there.
        film: The pictures.
        names: A name for each, without suffix.
        progress: Show how many pictures are drawn.

    Raises:
        ConfigError: The folder holds something, or cannot be written.
    """
    folder = check_folder(path)
    with _written(folder, overwrite=False) as temporary, _shown(film, progress) as shown:
        temporary.mkdir()
        for number, name in enumerate(names):
            (temporary / f"{name}{PNG}").write_bytes(png(shown.picture(number)))


def check_folder(path: str | Path) -> Path:
    """Return the absolute path of a folder that is not there yet, or empty.

    Raises:
        ConfigError: It holds something, or the folder above it is missing.
    """
    folder = absolute(path)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{path} is there already; choose another folder for the pictures")
    if not folder.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {folder.parent}")
    return folder


@contextlib.contextmanager
def _written(file: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name for a file or folder, and say in an error of the disk which one it was to become."""
    _delete_leftovers(file)
    try:
        with (replacing if overwrite else creating)(file, durable=False) as temporary:
            yield temporary
    except FileExistsError as error:
        raise ConfigError(f"{file} was made by somebody else meanwhile; it is as it was") from error
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def _delete_leftovers(file: Path) -> None:
    """Delete what a killed process has left of this file or folder: nobody has written there for long."""
    for found in file.parent.glob(f".{glob.escape(file.name)}-*.tmp"):
        with contextlib.suppress(OSError):
            if is_temporary(found.name) and time.time() - found.stat().st_mtime > OLD:
                shutil.rmtree(found) if found.is_dir() else found.unlink()


def _image(picture: Array) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture))


def _write_gif(file: Path, film: Film, _: str) -> None:
    """Write a GIF with one table of colours, so that what does not move takes no room."""
    if film.fps > GIF_RATE:
        raise ConfigError(f"a GIF has at most {GIF_RATE} frames a second, not {film.fps:g}: programs show it slower")
    colours = _colours(film)
    ends = np.round(np.cumsum(film.frames) * 100 / film.fps).astype(int)  # hundredths of a second
    lasts = (np.diff(ends, prepend=0) * 10).tolist()
    pictures = (_in_colours(film.picture(number), colours) for number in range(len(film.frames)))
    options: dict[str, Any] = {"loop": 0, "optimize": False, "disposal": 1}
    next(pictures).save(file, format="GIF", save_all=True, append_images=pictures, duration=lasts, **options)


def _in_colours(picture: Array, colours: Image) -> Image:
    """Return a picture in a table of colours, whose first one is kept as it is: Pillow looks for near ones."""
    from PIL import Image

    table = colours.getpalette() or []
    numbers = np.array(_image(picture).quantize(palette=colours, dither=Image.Dither.NONE))
    numbers[(picture == table[:3]).all(-1)] = 0
    found = Image.fromarray(numbers)
    found.putpalette(table)
    return found


def _sampled(film: Film) -> list[int]:
    """Return the numbers of the pictures whose colours are those of a GIF."""
    found: list[int] = np.unique(np.linspace(0, len(film.frames) - 1, SAMPLED).round().astype(int)).tolist()
    return found


def _colours(film: Film) -> Image:
    """Return a picture whose table of colours is that of the whole film; the most frequent one is the first."""
    from PIL import Image

    some = np.concatenate([film.picture(number) for number in _sampled(film)])
    found = _image(some).quantize(GIF_COLOURS - 1, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    each, counts = np.unique(some.reshape(-1, 3).astype(np.int32) @ (1 << 16, 1 << 8, 1), return_counts=True)
    frequent = int(each[counts.argmax()])
    table = (found.getpalette() or [])[: 3 * (GIF_COLOURS - 1)]
    found.putpalette([frequent >> 16, frequent >> 8 & 255, frequent & 255, *table])
    return found


def _write_video(file: Path, film: Film, suffix: str) -> None:
    import imageio_ffmpeg

    container, codec, options = VIDEOS[suffix]
    first = _even(film.picture(0))
    writer = imageio_ffmpeg.write_frames(
        str(file),
        (first.shape[1], first.shape[0]),
        fps=film.fps,
        codec=codec,
        quality=None,
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[*options, "-f", container],
    )
    with contextlib.closing(writer):
        writer.send(None)
        for number, repeated in enumerate(film.frames):
            picture = first if number == 0 else _even(film.picture(number))
            for _ in range(repeated):
                writer.send(picture)
    written = 0
    with contextlib.suppress(RuntimeError):  # of a file that is cut off, as on a full disk
        written = imageio_ffmpeg.count_frames_and_secs(str(file))[0] if file.exists() else 0
    if written != film.count:
        raise OSError(None, f"ffmpeg has written {written} of {film.count} frames; is the disk full?")


def _even(picture: Array) -> Array:
    """Return a picture with even sides, as videos have them: the last row or column is there twice where needed."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
