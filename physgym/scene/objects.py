"""`Scene`: the objects of a simulation that pictures show, declared once, as plain data.

Positions and colours are arrays, or `Values` that name fields and constants: these move by themselves with each sample,
live and from a stored dataset alike. No viewer is imported here, since workers use this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Unpack

import numpy as np

from physgym.errors import SceneError
from physgym.scene.changes import SceneSnapshot, same
from physgym.scene.inputs import SceneInputs
from physgym.scene.kinds import COLOURED, KINDS, Arrays, ObjectKind, text_of
from physgym.scene.style import CURVES, DARK_COLOUR, GHOST_COLOUR, MESH_COLOUR, STYLE, Limits, Style, setting
from physgym.scene.values import AbsentValue, Values, literal
from physgym.spaces import Array

VERSION = 1  # of the declaration
CURVE_MARGIN = 0.05  # of a curve's ordinate, above and below what was shown
LONGEST_ARROW = 0.2  # of what is seen
LARGEST = 1e150  # of the values that limits take in: beyond it no axis has room for those of a run that diverges
COLOURS_OF = {"lines": DARK_COLOUR, "arrows": DARK_COLOUR, "text": DARK_COLOUR, "markers": DARK_COLOUR}

ArrayLike = Any  # what numpy makes an array of, or `Values`
SHOWN = ("alpha", "wireframe", "point_size", "line_width", "ghost", "unit", "colours")


@dataclass
class _SceneObject:
    """An object as it is declared."""

    name: str
    kind: str
    arrays: dict[str, Values | Array]
    settings: dict[str, Any]
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> ObjectKind:
        return KINDS[self.kind]

    @property
    def is_stored(self) -> bool:
        """Return whether a dataset can have it: its arrays are known without the simulation's code."""
        given = all(isinstance(value, Values) or self.settings["fixed"] for value in self.arrays.values())
        return given and self.is_complete and (self.kind != "text" or bool(self.settings["text"]))

    @property
    def is_complete(self) -> bool:
        """Return whether all arrays that it needs are there."""
        return all(name in self.arrays for name in self.rules.needed)


class SceneHandle:
    """An object of a scene, to change or remove it.

    Attributes:
        name: Its name in the scene.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self.name = name

    def update(self, **changes: Any) -> None:
        """Change arrays and settings, by the keywords with which the object was made.

        Raises:
            SceneError: One is unknown or wrong, a mesh gets another number of points without other cells, the object
                is moved by the fields that it names or fixed, or it was removed.
        """
        self._scene._update(self, changes)

    def remove(self) -> None:
        """Remove the object from the scene; its name is free again.

        Raises:
            SceneError: It was removed before.
        """
        self._scene._remove(self)


class Scene(SceneInputs):
    """Objects that pictures of a simulation show.

    Each method that adds one takes its name and returns a `SceneHandle`. Arrays may be given at once, as `Values`, or
    later, by `SceneHandle.update`; an object is not drawn until all that it needs is known. Inputs of a person are
    declared by `slider`, `button` and `pull`.

    Args:
        owner: Name of the environment, for errors.

    Attributes:
        owner: That name.
    """

    def __init__(self, owner: str = "") -> None:
        super().__init__(owner)
        self._objects: dict[str, _SceneObject] = {}
        self._handles: dict[str, SceneHandle] = {}
        self._title = ""
        self._camera: dict[str, Any] = {"direction": [-0.55, -1.0, 0.55], "up": [0.0, 0.0, 1.0], "bounds": None}
        self._bounds: Array | None = None  # of all that was shown
        self._tips: Array | None = None  # bounds of arrows, whose lengths follow from those
        self._ranges: dict[str, Limits] = {}  # of all values that were shown, by the name of their limits
        self._last: SceneSnapshot | None = None

    # --- what people write

    def mesh(
        self,
        name: str,
        points: ArrayLike = None,
        cells: ArrayLike = None,
        *,
        cell: str | None = None,
        scalars: ArrayLike = None,
        cell_scalars: ArrayLike = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add a mesh; of volumes the surface is seen.

        Args:
            name: Its name.
            points: Positions, shape (n, 3) or (n, 2).
            cells: Numbers of points, from 0, corners in VTK's order, shape (m, corners), integers.
            cell: "triangle", "quad", "tetra" or "hexahedron"; by default what the number of corners says, where 4 are a
                quad in two dimensions and a tetrahedron in three.
            scalars: A value for each point, shape (n,), shown in colour.
            cell_scalars: A value for each cell, shape (m,), in place of them.
            style: Settings, see `Style`.

        Raises:
            SceneError: An argument is wrong, or the name is taken; so in all methods that add objects.
        """
        arrays = {"points": points, "cells": cells, "scalars": scalars, "cell_scalars": cell_scalars}
        return self._add("mesh", name, arrays, {"cell": cell, **style})

    def points(
        self, name: str, points: ArrayLike = None, *, scalars: ArrayLike = None, **style: Unpack[Style]
    ) -> SceneHandle:
        """Add points, also a cloud of them: positions of shape (n, 3) or (n, 2), with a value for each in colour."""
        return self._add("points", name, {"points": points, "scalars": scalars}, style)

    def markers(self, name: str, points: ArrayLike = None, *, symbol: str = "o", **style: Unpack[Style]) -> SceneHandle:
        """Add flat symbols of ``point_size`` pixels: "o", "x", "+", "s" (square), "^" (triangle) or "*"."""
        return self._add("markers", name, {"points": points}, {"symbol": symbol, **style})

    def glyphs(
        self,
        name: str,
        points: ArrayLike = None,
        vectors: ArrayLike = None,
        *,
        shape: str = "sphere",
        scale: float = 1.0,
        scalars: ArrayLike = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add solids at points.

        Args:
            name: Its name.
            points: Their middles, shape (n, 3) or (n, 2).
            vectors: Where they point to, of the same shape; their lengths do not matter.
            shape: "sphere", "cube", "cone" or "cylinder".
            scale: Their size, in the unit of the points.
            scalars: A value for each, shape (n,), shown in colour.
            style: Settings, see `Style`.
        """
        arrays = {"points": points, "vectors": vectors, "scalars": scalars}
        return self._add("glyphs", name, arrays, {"shape": shape, "scale": scale, **style})

    def arrows(
        self,
        name: str,
        points: ArrayLike = None,
        vectors: ArrayLike = None,
        *,
        scale: float | None = None,
        scalars: ArrayLike = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add arrows from points to points + scale * vectors, both of shape (n, 3) or (n, 2).

        By default the longest vector that was shown so far is an arrow of a fifth of what is seen.
        """
        arrays = {"points": points, "vectors": vectors, "scalars": scalars}
        return self._add("arrows", name, arrays, {"scale": scale, **style})

    def lines(
        self,
        name: str,
        points: ArrayLike = None,
        cells: ArrayLike = None,
        *,
        scalars: ArrayLike = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add a line through points of shape (n, 3) or (n, 2); or segments, pairs of their numbers of shape (m, 2)."""
        return self._add("lines", name, {"points": points, "cells": cells, "scalars": scalars}, style)

    def text(
        self,
        name: str,
        text: str = "",
        *,
        values: ArrayLike = None,
        point: ArrayLike = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add a text, at a point of shape (3,) or (2,), else in the corner of its panel.

        ``values`` are numbers in the places of the text, such as ``"{:.3g} N"``.
        """
        return self._add("text", name, {"values": values, "point": point}, {"text": text, **style})

    def image(
        self,
        name: str,
        values: ArrayLike = None,
        *,
        extent: Sequence[float] | None = None,
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add a field on a grid, shape (rows, columns), the first row at the bottom.

        Also a picture, uint8 of shape (rows, columns, 3), the first row at the top, as cameras give them.
        ``extent`` has the ends of its axes: x0, x1, y0, y1.
        """
        return self._add("image", name, {"values": values}, {"extent": extent, **style})

    def curve(
        self,
        name: str,
        values: ArrayLike = None,
        x: ArrayLike = None,
        *,
        ends: Sequence[float] | None = None,
        xlabel: str = "",
        symbol: str = "",
        **style: Unpack[Style],
    ) -> SceneHandle:
        """Add a curve: ordinates of shape (n,) over abscissae; curves of a panel share axes.

        Without abscissae they are evenly spaced, the first and the last one are ``ends``, by default 0 and n - 1.
        """
        own = {"ends": ends, "xlabel": xlabel, "symbol": symbol}
        return self._add("curve", name, {"values": values, "x": x}, {**own, **style})

    def title(self, text: str) -> None:
        """Set the title of window and picture."""
        if not isinstance(text, str):
            self._fail(f"the title must be a text, not {text!r}")
        self._title = text

    def camera(
        self,
        *,
        direction: Sequence[float] | None = None,
        up: Sequence[float] | None = None,
        bounds: Any = None,
    ) -> None:
        """Place the camera.

        Args:
            direction: From the middle of what is seen to the camera.
            up: What is upwards.
            bounds: Lower and upper corner of what is in view, shape (2, 3) or (2, 2); by default those of all that was
                shown so far.
        """
        for name, value in (("direction", direction), ("up", up)):
            if value is not None:
                vector = self._array(value, f"{name} of the camera")
                if (
                    vector.shape != (3,)
                    or vector.dtype.kind not in "iuf"
                    or not (np.isfinite(vector).all() and vector.any())
                ):
                    self._fail(f"{name} of the camera must be three numbers, not {value!r}")
                self._camera[name] = [float(one) for one in vector]
        if np.linalg.norm(np.cross(self._camera["direction"], self._camera["up"])) < 1e-9:
            self._fail("direction and up of the camera are along one line; give another up")
        if bounds is not None:
            box = self._array(bounds, "bounds of the camera")
            if box.shape not in ((2, 2), (2, 3)) or box.dtype.kind not in "iuf" or not np.isfinite(box).all():
                self._fail(f"bounds of the camera must be two corners, shape (2, 3), not {bounds!r}")
            if (box[0] > box[1]).any():
                self._fail("bounds of the camera must have the lower corner first")
            wide = np.zeros((2, 3))
            wide[:, : box.shape[1]] = box
            self._camera["bounds"] = wide.tolist()

    @property
    def handles(self) -> dict[str, SceneHandle]:
        """Return the handles of the objects by name."""
        return dict(self._handles)

    # --- what viewers ask

    def snapshot(
        self, sample: Mapping[str, Array] | None = None, constants: Mapping[str, Array] | None = None
    ) -> SceneSnapshot:
        """Return the scene as plain data, see `physgym.scene.changes`.

        Args:
            sample: Fields of one sample by name, the predicted ones as ``prediction/NAME``; None before the first step.
            constants: Constants of the dataset by name.

        Returns:
            The snapshot, without the objects that name a field or a constant which is not there.

        Raises:
            SceneError: Arrays do not fit each other, or positions are not finite.
        """
        built: dict[str, Arrays] = {}
        flat = True
        for item in self._objects.values():
            try:
                taken = {
                    name: value.of(sample or {}, constants or {}) if isinstance(value, Values) else value
                    for name, value in item.arrays.items()
                }
                if any(name not in taken for name in item.rules.needed):
                    continue
                built[item.name] = item.rules.build(taken, item.settings, item.cache)
                if item.kind == "text":
                    built[item.name]["text"] = text_of(item.settings["text"], taken.get("values"))  # type: ignore[assignment]
            except AbsentValue:
                continue
            except (ValueError, TypeError) as error:
                self._fail(str(error), item.name)
            if item.rules.spatial:
                flat &= all(taken[name].shape[-1:] == (2,) for name in ("points", "point") if name in taken)
        camera = self._seen(built, flat)
        if tips := self._scale_arrows(built, camera):
            self._tips = _box([*([] if self._tips is None else [self._tips]), *tips])
        if self._tips is not None and self._camera["bounds"] is None and "bounds" in camera:
            camera["bounds"] = _box([np.array(camera["bounds"]), self._tips]).tolist()
        self._last = {"title": self._title, "camera": camera, "objects": self._described(built)}
        if self.inputs:
            self._last["inputs"] = self._shown_inputs(sample or {}, constants or {})
        return self._last

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows: of what was drawn last, or of what needs no sample."""
        from physgym.scene.films import png
        from physgym.scene.frames import draw

        return png(draw([self._last or self.snapshot()]))

    def _described(self, built: Mapping[str, Arrays]) -> dict[str, Any]:
        """Return the objects of a snapshot: arrays, settings and limits."""
        for name, arrays in built.items():
            self._widen(self._objects[name], arrays)
        curves: dict[str, int] = {}
        found = {}
        last = {} if self._last is None else self._last["objects"]
        for name, arrays in built.items():
            item = self._objects[name]
            settings = item.settings
            panel = settings["panel"]
            panel = panel if panel is not None else name if item.kind == "image" else ""
            colour = settings["colour"]
            if colour is None and settings["ghost"]:
                colour = GHOST_COLOUR
            elif colour is None and item.kind == "curve":
                colour = CURVES[curves.get(panel, 0) % len(CURVES)]
                curves[panel] = curves.get(panel, 0) + 1
            described = {
                "kind": item.kind,
                "panel": panel,
                "label": settings["label"] or name,
                "colour": colour or COLOURS_OF.get(item.kind, MESH_COLOUR),
                **{key: settings[key] for key in SHOWN},
                **{key: settings[key] for key in item.rules.settings if key not in ("cell", "text", "ends")},
                **arrays,
            }
            if (limits := self._limits(item, arrays)) is not None:
                described["limits"] = limits
            known = last.get(name, {})
            found[name] = {
                key: was if (was := known.get(key)) is value or (was is not None and same(was, value)) else value
                for key, value in described.items()
                if value is not None
            }
        return found

    def _scale_arrows(self, built: dict[str, Arrays], camera: Mapping[str, Any]) -> list[Array]:
        """Scale arrows of which nobody said how long they are, and return where they end."""
        tips = []
        for name, arrays in built.items():
            if self._has_own_scale(name) and arrays["vectors"].size:
                longest = float(np.linalg.norm(arrays["vectors"], axis=1).max())
                key = f"arrows {name}"
                _, longest = self._ranges[key] = 0.0, max(longest, self._ranges.get(key, (0.0, 0.0))[1])
                reach = float(np.linalg.norm(np.subtract(*camera["bounds"])))
                scale = LONGEST_ARROW * (reach or 1.0) / (longest or 1.0)
                built[name] = {**arrays, "vectors": arrays["vectors"] * scale, "scale": scale}  # type: ignore[dict-item]
                tips.append(arrays["points"] + arrays["vectors"] * scale)
        return tips

    def _has_own_scale(self, name: str) -> bool:
        """Return whether an object is arrows that the scene scales."""
        return self._objects[name].kind == "arrows" and self._objects[name].settings["scale"] is None

    def _widen(self, item: _SceneObject, arrays: Arrays) -> None:
        """Take the values of an object into the range of what was shown."""
        name = _coloured(item.kind, arrays)
        if name is None:
            return
        values = arrays[name][np.abs(arrays[name], dtype=np.float64) < LARGEST]
        if values.size:
            key = _limits_name(item)
            low, high = self._ranges.get(key, (np.inf, -np.inf))
            self._ranges[key] = (min(low, float(values.min())), max(high, float(values.max())))

    def _limits(self, item: _SceneObject, arrays: Arrays) -> list[float] | None:
        """Return the ends of the colour scale, None where there are no values."""
        said = item.settings["limits"]
        if _coloured(item.kind, arrays) is None:
            return None
        if said is not None and said != "symmetric":
            return [*said]
        low, high = self._ranges.get(_limits_name(item), (0.0, 1.0))
        if said == "symmetric":
            high = max(abs(low), abs(high)) * (1 + CURVE_MARGIN if item.kind == "curve" else 1) or 1.0
            return [-high, high]
        margin = 0.0
        if low == high:
            margin = 0.1 * abs(low) or 1.0
        elif item.kind == "curve":
            margin = CURVE_MARGIN * (high - low)
        return [low - margin, high + margin]

    def _seen(self, built: Mapping[str, Arrays], flat: bool) -> dict[str, Any]:
        """Return the camera, with what it sees where there is something in space."""
        camera = {"direction": self._camera["direction"], "up": self._camera["up"]}
        spots = []
        for name, arrays in built.items():
            if "points" in arrays:
                spots.append(arrays["points"])
                if self._objects[name].kind == "arrows" and not self._has_own_scale(name):
                    spots.append(arrays["points"] + arrays["vectors"])
            elif "point" in arrays:
                spots.append(arrays["point"][None])
        spots = [spot for spot in spots if len(spot)]
        if (
            not any(self._objects[name].rules.spatial and self._objects[name].kind != "text" for name in built)
            or not spots
        ):
            return camera
        corners = [*([] if self._bounds is None else [self._bounds]), *spots]
        self._bounds = _box(corners)
        bounds = self._camera["bounds"] or self._bounds.tolist()
        return {**camera, "bounds": bounds, "flat": flat}

    # --- declarations

    @property
    def live_only(self) -> list[str]:
        """Return the names of objects that the simulation's code moves, which no dataset can have."""
        return [item.name for item in self._objects.values() if not item.is_stored]

    def unfixed(self, *, moved: bool) -> list[str]:
        """Return the names of those that only lack ``fixed=True``; where code moves objects, of those with fields."""
        items = [item for item in self._objects.values() if item.arrays and item.is_complete and not item.is_stored]
        return [i.name for i in items if not moved or any(isinstance(value, Values) for value in i.arrays.values())]

    def declaration(self) -> dict[str, Any]:
        """Return what a dataset stores of the scene, as JSON data: the objects that fields and constants move."""
        objects = []
        for item in self._objects.values():
            if item.is_stored:
                defaults = {**STYLE, **item.rules.settings}
                trees = {k: v.to_json() if isinstance(v, Values) else literal(v) for k, v in item.arrays.items()}
                style = {k: v for k, v in item.settings.items() if v != defaults[k] and k != "fixed"}
                objects.append({"name": item.name, "kind": item.kind, "arrays": trees, "style": style})
        found = {"version": VERSION, "title": self._title, "camera": dict(self._camera), "objects": objects}
        plain: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
        return plain

    @classmethod
    def from_declaration(cls, data: Any, owner: str = "") -> Scene:
        """Return the scene that `declaration` described.

        Raises:
            SceneError: It is none, or of a later version.
        """
        scene = cls(owner)
        try:
            version = data["version"]
            if version != VERSION:
                scene._fail(f"the declaration has the version {version!r}, this physgym knows {VERSION}")
            scene.title(data["title"])
            scene.camera(**data["camera"])
            for item in data["objects"]:
                arrays = {name: Values(tree) for name, tree in item["arrays"].items()}
                scene._add(item["kind"], item["name"], arrays, item["style"])
        except (KeyError, TypeError, AttributeError) as error:
            raise SceneError(f"{owner or 'a scene'}: this is no declaration of a scene ({error!r})") from error
        return scene

    # --- adding and changing

    def _add(self, kind: str, name: str, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> SceneHandle:
        if not isinstance(name, str) or not name:
            self._fail(f"the name of an object must be a text, not {name!r}")
        if kind not in KINDS:
            self._fail(f"{kind!r} is no kind of objects; there are {', '.join(KINDS)}", name)
        if name in self._objects:
            self._fail("the scene has an object of this name; update it by its handle, or take another name", name)
        item = _SceneObject(name, kind, {}, {**STYLE, **KINDS[kind].settings})
        if unknown := sorted(arrays.keys() - {*item.rules.needed, *item.rules.other}):
            self._fail(f"{kind} has no arrays {', '.join(unknown)}", name)
        self._take(item, arrays, settings)
        self._objects[name], self._handles[name] = item, SceneHandle(self, name)
        return self._handles[name]

    def _update(self, handle: SceneHandle, changes: Mapping[str, Any]) -> None:
        item = self._object(handle)
        known = {*item.rules.needed, *item.rules.other}
        arrays = {name: value for name, value in changes.items() if name in known}
        if arrays and item.is_stored and item.arrays:
            self._fail(
                "fields, constants or fixed arrays move it, so that code cannot; declare it without them to update its "
                f"{', '.join(arrays)}",
                item.name,
            )
        before = item.arrays.get("points")
        changed = _SceneObject(item.name, item.kind, dict(item.arrays), dict(item.settings), item.cache)
        self._take(changed, arrays, {name: value for name, value in changes.items() if name not in known})
        now = changed.arrays.get("points")
        counts = [len(points) for points in (before, now) if isinstance(points, np.ndarray)]
        if item.kind == "mesh" and len({*counts}) > 1 and "cells" not in arrays:
            text = f"points has {counts[1]} rows, and the mesh has {counts[0]} points; give its cells too"
            self._fail(text, item.name)
        self._objects[item.name] = changed

    def _take(self, item: _SceneObject, arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Set arrays and settings of an object, checked."""
        for name, value in settings.items():
            if name not in item.settings:
                self._fail(f"{item.kind} has no setting {name!r}; it has {', '.join(item.settings)}", item.name)
            try:
                item.settings[name] = setting(name, value, {**STYLE, **item.rules.settings}[name])
            except ValueError as error:
                self._fail(str(error), item.name)
        for name, value in arrays.items():
            if value is None:
                item.arrays.pop(name, None)
            else:
                item.arrays[name] = value if isinstance(value, Values) else self._array(value, name, item.name)
        given = {name: value for name, value in item.arrays.items() if isinstance(value, np.ndarray)}
        if len(given) == len(item.arrays) and all(name in given for name in item.rules.needed):
            try:
                item.rules.build(given, item.settings, item.cache)
            except (ValueError, TypeError) as error:
                self._fail(str(error), item.name)

    def _array(self, value: Any, name: str, of: str = "") -> Array:
        try:
            return np.array(value)
        except ValueError as error:
            self._fail(f"{name} is no array of numbers ({error})", of)

    def _remove(self, handle: SceneHandle) -> None:
        self._object(handle)
        del self._objects[handle.name], self._handles[handle.name]

    def _object(self, handle: SceneHandle) -> _SceneObject:
        if self._handles.get(handle.name) is not handle:
            self._fail("it was removed from the scene; add it again", handle.name)
        return self._objects[handle.name]

    def _fail(self, problem: str, name: str = "") -> NoReturn:
        parts = [self.owner, f"object {name!r} of the scene" if name else "scene", problem]
        raise SceneError(": ".join(part for part in parts if part))


def _coloured(kind: str, arrays: Arrays) -> str | None:
    """Return the array whose range the limits are."""
    names = COLOURED if KINDS[kind].spatial else ("values",)
    return next((name for name in names if name in arrays and arrays[name].ndim < 3), None)  # colours have no limits


def _limits_name(item: _SceneObject) -> str:
    return f"group {item.settings['group']}" if item.settings["group"] else f"object {item.name}"


def _box(corners: Sequence[Array]) -> Array:
    """Return the lower and upper corner of positions, arrays of shape (n, 3): shape (2, 3)."""
    return np.stack([np.min([c.min(0) for c in corners], 0), np.max([c.max(0) for c in corners], 0)])
