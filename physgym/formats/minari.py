"""Datasets of Minari: `export_minari` makes one of a `SampleDataset`, `import_minari` the other way.

Minari keeps episodes of a Markov decision process: observations of shape (T + 1, ...), actions, rewards, terminations
and truncations of shape (T, ...). A `physgym.RecordTransition` stores just that, so its samples need no mapping.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from physgym._version import __version__
from physgym.casting import CastError, as_array, as_dtype
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.recordings import ACTED, ACTION, INFO, OBSERVATION, is_recording
from physgym.errors import ConfigError, DatasetError
from physgym.formats.minari_buffers import FLAT, OURS, EpisodeBuffers, Leaves
from physgym.formats.new_folder import importing
from physgym.formats.registry import ExportOptions, Format, ImportOptions
from physgym.naming import spec_text, with_names
from physgym.progress import Progress
from physgym.registration import find_spec
from physgym.sample import Field, FieldRole, SampleSpec
from physgym.spaces import Array, children, fixed_leaves, flatten, from_json, is_custom, to_json

if TYPE_CHECKING:
    import minari

FLAG = np.dtype(np.int8)
# what `physgym.RecordTransition` calls them
TRANSITION: dict[str, str] = {
    "observations": "observation",
    "actions": "action",
    "next_observations": "next_observation",
    "rewards": "reward",
    "terminations": "terminated",
    "truncations": "truncated",
}
REQUIRED = ("observations", "actions")
ROLES: dict[str, FieldRole] = {
    "observations": "input",
    "actions": "input",
    "next_observations": "target",
    "rewards": "target",
    "terminations": "additional",
    "truncations": "additional",
}
# entries of Minari's metadata that say where data come from; they travel in the source of an imported dataset
ORIGIN = (
    "dataset_id",
    "algorithm_name",
    "author",
    "author_email",
    "code_permalink",
    "description",
    "requirements",
    "ref_min_score",
    "ref_max_score",
)


def _library() -> Any:
    """Import Minari, which a format is listed without."""
    try:
        import minari
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.minari needs Minari: pip install 'physgym[minari]' ({error})", name=error.name
        ) from error
    return minari


def export_minari(
    dataset: SampleDataset,
    dataset_id: str,
    *,
    fields: Mapping[str, str | Sequence[str]] | None = None,
    infos: bool = True,
    data_format: str | None = None,
    progress: bool = False,
    **metadata: Any,
) -> minari.MinariDataset:
    """Store the episodes of a dataset as a Minari dataset, in Minari's own folder of datasets.

    Episodes are read a portion at a time, so that memory is bounded by the longest one. Steps that follow one another
    without a gap make an episode; where some are missing (they were rejected, or the dataset ends in the middle), the
    part before is a truncated one.

    Args:
        dataset: The samples; a recording (`physgym.Recorder`) has its own form, and needs no `fields`.
        dataset_id: Minari's name for it, such as "beam/random-v0".
        fields: What Minari calls "observations", "actions", "next_observations", "rewards", "terminations" and
            "truncations" to the field that has it: a name, a group of fields such as "observation", or a list of
            names. The default is that of `physgym.RecordTransition`. Without "next_observations" the last observation
            of an episode is repeated, without "rewards" they are zero.
        infos: Whether all other fields become Minari's infos. Those begin with the reset's, which are zeros here.
        data_format: "hdf5", "arrow" or "parquet"; Minari's default is "hdf5".
        progress: Whether to show how far it is.
        **metadata: Further arguments of `minari.create_dataset_from_buffers`, such as author, code_permalink, or env
            where the dataset does not say which environment it comes from: an id, "module:id" or "module:Class".

    Returns:
        The new Minari dataset.

    Raises:
        ConfigError: The samples are no transitions and `fields` does not say what is what; or env cannot be written
            down.
        DatasetError: Minari has a dataset of this name, or the name is malformed.
    """
    minari = _library()
    from minari.dataset.minari_dataset import parse_dataset_id

    recorded = is_recording(dataset.spec)
    if recorded and fields is not None:
        raise ConfigError("a recording says itself which fields are observations and actions; leave fields out")
    roles = _leaves_of(dataset.spec, fields)
    described = _sample_space(dataset)
    found = {key: _space(dataset.spec, roles[key], described, _given(fields, key)) for key in REQUIRED}
    if "next_observations" in roles and roles["next_observations"].keys() != roles["observations"].keys():
        raise ConfigError(
            f"the fields of next_observations {sorted(roles['next_observations'].values())} do not match those of "
            f"observations {sorted(roles['observations'].values())}"
        )
    taken = {field for leaves in roles.values() for field in leaves.values()}
    others = [name for name in dataset.spec if name not in taken and not (recorded and name == ACTED)]
    paths = {name: name.removeprefix(f"{INFO}/") if recorded else name for name in others if infos}
    kept = {*taken, *paths, ACTED} & set(dataset.spec)
    # Minari writes infos without an axis to Arrow and Parquet, and cannot read them
    with_axis = data_format in ("arrow", "parquet")
    episodes = EpisodeBuffers(dataset, roles, found, paths, with_axis=with_axis, recorded=recorded)
    try:
        parse_dataset_id(dataset_id)  # Minari itself asks too late, when it has made a folder that then is in its way
    except (ValueError, TypeError) as error:
        raise DatasetError(f'{dataset_id!r} is no name for Minari, such as "beam/random-v0": {error}') from error
    source = dataset.source
    metadata |= {name: _environment(name, metadata[name]) for name in ("env", "eval_env") if name in metadata}
    spec = str(dataset.attributes.get("env_spec") or "")
    if not spec and metadata.get("env") is None and (source.get("env") or source.get("recorded")):
        warnings.warn(
            f"{dataset_id} has no environment, so that Minari's recover_environment() fails: the samples of "
            f"{_origin(source)} do not describe one. It was not registered, its class is local or of a script, or JSON "
            'does not know a wrapper or an argument. Name it: export_minari(..., env="module:id") or "module:Class"',
            UserWarning,
            stacklevel=2,
        )
    defaults = {k: v for k, v in source.get("minari", {}).items() if k in ORIGIN and k != "dataset_id"}
    defaults |= {k: set(defaults[k]) for k in ("author", "author_email") if isinstance(defaults.get(k), list)}
    scores = {k: defaults.pop(k) for k in ("ref_min_score", "ref_max_score") if k in defaults}
    defaults.setdefault("description", f"Samples of {_origin(source)}, by physgym {__version__}")
    try:
        with warnings.catch_warnings():
            # Minari reminds of each argument that is left out
            warnings.filterwarnings("ignore", r".* is set to None|env_spec is None", UserWarning)
            exported = minari.create_dataset_from_buffers(
                dataset_id,
                [],
                observation_space=found["observations"],
                action_space=found["actions"],
                data_format=data_format,
                **({"jpeg_encoding": False} | defaults | metadata),
            )
    except ValueError as error:
        raise DatasetError(f"Minari refuses to make {dataset_id!r}: {error}") from error
    try:
        ours: dict[str, Any] = {
            "version": __version__,
            "fields": SampleSpec([field for name, field in dataset.spec.items() if name in kept]).to_json(),
            "leaves": roles,
            "infos": list(paths),
            "source": source,
        }
        if recorded:
            ours |= {"recorded": True, "left_out": episodes.left_out}
        more: dict[str, Any] = {OURS: ours, **scores}
        if spec and metadata.get("env") is None:
            more["env_spec"] = spec  # set afterwards, since Minari would make the environment only to ask its spaces
        exported.storage.update_metadata(more)
        with Progress(len(dataset), f"export to {dataset_id}", "sample", enabled=progress) as bar:
            for buffers, names in episodes:
                first = exported.total_episodes
                exported.update_dataset_from_buffer(buffers)
                exported.storage.update_episode_metadata(names, range(first, first + len(buffers)))
                bar.update(sum(len(buffer) for buffer in buffers))
        return minari.load_dataset(dataset_id)  # anew: it reads the metadata once, when it is opened
    except BaseException:
        shutil.rmtree(exported.storage.data_path.parent)  # half of it would block the name
        raise


def _environment(name: str, env: Any) -> Any:
    """Return an environment as Minari takes it: a registration that can be written down.

    Raises:
        ConfigError: There is no such environment, or it cannot be written down.
    """
    found = env.spec if isinstance(env, gymnasium.Env) else env
    if not isinstance(found, (str, EnvSpec)):
        return env
    spec = find_spec(found)
    if not spec_text(spec):
        raise ConfigError(
            f"{name}: {spec.id} cannot be written down for others: its class is local or of a script, or JSON does not "
            f'know an argument or a wrapper. Register it with a text, gymnasium.register({spec.id!r}, "module:Class")'
        )
    return with_names(spec)


def _origin(source: Mapping[str, Any]) -> str:
    return str(source.get("env") or source.get("recorded") or "unknown origin")


def _given(fields: Mapping[str, str | Sequence[str]] | None, key: str) -> str | Sequence[str]:
    return TRANSITION[key] if fields is None else fields[key]


def _leaves_of(
    spec: SampleSpec,
    fields: Mapping[str, str | Sequence[str]] | None,
    example: str = "fields={{'observations': {!r}, 'actions': ...}}",
) -> dict[str, Leaves]:
    """Return the leaves of the space of each of Minari's names.

    Args:
        spec: The fields of the samples.
        fields: See `export_minari`.
        example: How a caller names them, for a field in the place of ``{}``.

    Raises:
        ConfigError: A field is missing, or a name is none of Minari's.
    """
    if unknown := sorted(set(fields or ()) - set(TRANSITION)):
        raise ConfigError(f"{unknown} are none of Minari's names, to which fields are given; it has {list(TRANSITION)}")
    roles = {}
    for key in TRANSITION if fields is None else fields:
        given = _given(fields, key)
        leaves = _group(spec, given) if isinstance(given, str) else {name: name for name in given if name in spec}
        missing = [] if isinstance(given, str) else [name for name in given if name not in spec]
        if missing or (not leaves and fields is not None):
            raise ConfigError(f"Minari's {key} cannot be {missing or given!r}; the dataset has the fields {list(spec)}")
        if leaves:
            roles[key] = leaves
    if lacking := [key for key in REQUIRED if key not in roles]:
        raise ConfigError(
            f"nothing says what Minari's {' and '.join(lacking)} are: the dataset has the fields {list(spec)}. Name "
            f"them, such as {example.format(next(iter(spec)))}, or record transitions "
            "with physgym.RecordTransition"
        )
    for key in FLAT & roles.keys():
        names = list(roles[key].values())
        if len(names) != 1 or spec[names[0]].shape not in ((), (1,)):
            raise ConfigError(f"{key} must be one number per step; {_given(fields, key)!r} is more")
        roles[key] = {"": names[0]}
    return roles


def _group(spec: SampleSpec, name: str) -> Leaves:
    """Return a field, or those below it."""
    if name in spec:
        return {"": name}
    return {field.removeprefix(f"{name}/"): field for field in spec if field.startswith(f"{name}/")}


def _json_attribute(dataset: SampleDataset, name: str) -> Any:
    text = dataset.attributes.get(name)
    return json.loads(text) if text else None


def _sample_space(dataset: SampleDataset) -> spaces.Space[Any] | None:
    """Return the space of the samples, if the dataset has it."""
    found = _json_attribute(dataset, "spaces") or {}
    described = found.get("sample_space")
    if described is None and is_recording(dataset.spec):
        parts = {name: found[f"{name}_space"] for name in (OBSERVATION, ACTION) if f"{name}_space" in found}
        if len(parts) < 2 or is_custom(parts):
            return None
        return spaces.Dict([(name, from_json(part)) for name, part in parts.items()])
    return None if described is None or is_custom(described) else from_json(described)


def _space(
    spec: SampleSpec, leaves: Leaves, described: spaces.Space[Any] | None, given: str | Sequence[str]
) -> spaces.Space[Any]:
    """Return the space of some fields: as the dataset describes it, else with the bounds of the dtype."""
    if isinstance(given, str):
        for part in given.split("/"):
            described = None if described is None else dict(children(described) or ()).get(part)
        shapes = {path: spec[field].shape for path, field in leaves.items()}
        # dtypes may differ: Minari does not mind, and what others collected with it is often wider than its space
        if described is not None and {leaf.path: leaf.shape for leaf in fixed_leaves(described)} == shapes:
            return described
    if list(leaves) == [""]:
        return _box(spec[leaves[""]])
    tree: dict[str, Any] = {}
    for path, field in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _box(spec[field])
    return _nested(tree)


def _nested(tree: dict[str, Any]) -> spaces.Dict:
    return spaces.Dict([(key, _nested(sub) if isinstance(sub, dict) else sub) for key, sub in tree.items()])


def _box(field: Field) -> spaces.Box:
    if field.dtype.kind == "b":
        return spaces.Box(0, 1, field.shape, np.bool_)  # type: ignore[arg-type]
    if field.dtype.kind in "iu":
        bounds = np.iinfo(field.dtype)
        return spaces.Box(bounds.min, bounds.max, field.shape, field.dtype.type)
    if field.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, field.shape, field.dtype.type)
    raise ConfigError(f"Minari's spaces do not hold {field.dtype}, the dtype of {field.name}")


# --- the other way


def import_minari(
    source: minari.MinariDataset | str,
    path: str | Path,
    *,
    mode: Mode = "training",
    infos: Sequence[str] = (),
    progress: bool = False,
) -> SampleDataset:
    """Store the transitions of a Minari dataset as samples.

    Their fields are those of `physgym.RecordTransition`, with the dtypes that the data have. A dataset that
    `export_minari` made gets its own fields, roles, units, episodes and source back, so that a recording is one again.
    Where Minari knows no seed of an episode, it is 0.

    Args:
        source: A Minari dataset, or the name of one that Minari has locally.
        path: The new dataset's folder.
        mode: Which part of the dataset to write.
        infos: Which of Minari's infos to keep as further fields, such as "qpos" or "goal/position". Of what
            `export_minari` made all are kept.
        progress: Whether to show how far it is.

    Returns:
        The new dataset.

    Raises:
        ConfigError: A space has no fixed layout, or an info is not in the data.
        DatasetError: There is no such Minari dataset, it has no steps, an episode has values that the dtypes of the
            first one cannot hold, or `path` holds samples already.
    """
    if isinstance(source, str):
        try:
            source = _library().load_dataset(source)
        except (FileNotFoundError, ValueError) as error:
            missing = "" if Path(source).exists() else "; nor is there a file or folder of this name"
            raise DatasetError(f"Minari has no dataset {source!r} here: {error}{missing}") from error
    first = next(_episodes(source), None)
    if first is None:
        raise DatasetError(f"the Minari dataset {source.id} has no episodes")
    metadata = source.storage.metadata
    ours = metadata.get(OURS)
    episodes = _Transitions(source, ours, infos, first)
    origin = {key: metadata[key] for key in ORIGIN if key in metadata}
    origin |= {key: sorted(value) for key, value in origin.items() if isinstance(value, set)}
    attributes = {"env_spec": metadata.get("env_spec", "")}
    if episodes.spaces:
        attributes["spaces"] = json.dumps({name: to_json(space) for name, space in episodes.spaces.items()})
    source_of = ours["source"] if ours else {"minari": origin}
    with (
        importing(path, episodes.spec, mode=mode, source=source_of, attributes=attributes) as writer,
        Progress(source.total_steps, f"import of {source.id}", "sample", enabled=progress) as bar,
    ):
        for samples, where in episodes:
            writer.append(samples, **where)
            bar.update(len(where["step"]))
    return SampleDataset(path, mode=mode)


def _episodes(source: minari.MinariDataset) -> Iterator[minari.EpisodeData]:
    """Yield the episodes of a Minari dataset.

    Raises:
        DatasetError: Its files cannot be read.
    """
    try:
        yield from source.iterate_episodes()
    except (OSError, KeyError, RuntimeError) as error:  # of h5py and pyarrow
        raise DatasetError(f"cannot read the Minari dataset {source.id}: {error}") from error


class _Transitions:
    """The episodes of a Minari dataset as samples, with their index."""

    def __init__(
        self, source: minari.MinariDataset, ours: dict[str, Any] | None, infos: Sequence[str], first: minari.EpisodeData
    ) -> None:
        self._source = source
        self._space = {"observations": source.observation_space, "actions": source.action_space}
        self.spaces: dict[str, spaces.Space[Any]] = {}  # what the new dataset says of spaces
        self._recorded = bool(ours and ours.get("recorded"))
        self._texts: dict[str, str] = {}  # kinds of the dtypes of what Minari holds as bytes, or objects
        if ours:
            self._leaves: dict[str, Leaves] = ours["leaves"]
            self._infos = list(ours["infos"])
            known = [one.removeprefix(f"{INFO}/") if ours.get("recorded") else one for one in self._infos]
            if unknown := sorted(set(infos) - {*self._infos, *known}):
                raise ConfigError(f"{source.id} has no infos {unknown}; it has {known}, which are kept anyway")
            self.spec = SampleSpec.from_json(ours["fields"])
            self._texts = {name: f.dtype.kind for name, f in self.spec.items() if f.dtype.kind in "SU"}
            if self._recorded:
                self.spaces = {"observation_space": source.observation_space, "action_space": source.action_space}
            return
        self._infos = list(infos)
        self._leaves = {}
        for key, name in TRANSITION.items():
            space = self._space.get(key.removeprefix("next_"))
            paths = [""] if space is None else [leaf.path for leaf in fixed_leaves(space)]
            self._leaves[key] = {path: f"{name}/{path}" if path else name for path in paths}
        values = self._values(first)
        roles = {field: ROLES[key] for key, leaves in self._leaves.items() for field in leaves.values()}
        self.spec = SampleSpec(
            [Field(name, v.shape[1:], v.dtype, roles.get(name, "additional")) for name, v in values.items()]
        )
        if not self._infos:
            number = spaces.Box(-np.inf, np.inf, self.spec["reward"].shape, np.float64)
            flag = spaces.Discrete(2, dtype=np.int8)
            observation, action = source.observation_space, source.action_space
            parts = (observation, action, observation, number, flag, flag)
            self.spaces = {"sample_space": spaces.Dict(list(zip(TRANSITION.values(), parts, strict=True)))}

    def __iter__(self) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        ids = self._source.episode_indices
        named = self._source.storage.get_episode_metadata(ids)
        for number, (episode, known) in enumerate(zip(_episodes(self._source), named, strict=True)):
            if len(episode) == 0:
                continue
            values = self._values(episode)
            if known.get(f"{OURS}_cut") and "truncations" in self._leaves:
                values[self._leaves["truncations"][""]][-1] = 0  # the end was the dataset's, not the episode's
            begin, count = int(known.get(f"{OURS}_step", 0)), len(episode) + self._recorded
            samples = {}
            for name, field in self.spec.items():
                column = _column(f"{name} of episode {episode.id}", values[name], field.dtype)
                column = column.reshape(len(column), *field.shape)
                if len(column) < count:  # the last observation of a recording has no action and no reward
                    column = np.concatenate([column, np.zeros((1, *field.shape), field.dtype)])
                samples[name] = column
            yield (
                samples,
                {
                    "episode": np.full(count, int(known.get(f"{OURS}_episode", number)), np.int64),
                    "step": np.arange(begin, begin + count),
                    "seed": np.full(count, int(known.get("seed") or 0), np.uint64),
                    "env": np.full(count, int(known.get(f"{OURS}_env", 0)), np.int32),
                },
            )

    def _values(self, episode: minari.EpisodeData) -> dict[str, Array]:
        """Return every field of an episode's transitions, shape (T, *field shape)."""
        count = len(episode)
        given = {
            "observations": episode.observations,
            "next_observations": episode.observations,
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminations": _column(f"terminations of episode {episode.id}", episode.terminations, FLAG),
            "truncations": _column(f"truncations of episode {episode.id}", episode.truncations, FLAG),
        }
        values = {}
        for key, leaves in self._leaves.items():
            space = self._space.get(key.removeprefix("next_"))
            parts = [("", given[key])]
            if space is not None:
                parts = list(zip((x.path for x in fixed_leaves(space)), flatten(space, given[key]), strict=True))
            for path, column in parts:
                if key.endswith("observations") and len(column) != count + 1:
                    raise DatasetError(
                        f"episode {episode.id} of {self._source.id} has {len(column)} observations for {count} steps; "
                        f"transitions need {count + 1}, the one behind the last step included"
                    )
                if path not in leaves:
                    continue
                rows = slice(1, None) if key == "next_observations" else slice(count)
                if self._recorded and key == "observations":
                    rows = slice(None)
                column = np.asanyarray(column)[rows]
                values[leaves[path]] = column.copy() if key == "truncations" else column
        if self._recorded:
            values[ACTED] = np.ones(count, np.bool_)
        for name in self._infos:
            values[name] = self._info(episode, name, count)
            if self._texts.get(name) == "U" and values[name].dtype.kind == "S":
                values[name] = np.char.decode(values[name], "utf-8")
        return values

    def _info(self, episode: minari.EpisodeData, name: str, count: int) -> Array:
        value: Any = episode.infos
        for part in (name.removeprefix(f"{INFO}/") if self._recorded else name).split("/"):
            if not isinstance(value, Mapping) or part not in value:
                raise ConfigError(
                    f"episode {episode.id} of {self._source.id} has no info {name!r}; "
                    f"it has {sorted(episode.infos or ())}"
                )
            value = value[part]
        column = np.asanyarray(value)
        if name in self._texts and column.dtype == object:  # of Arrow
            try:
                column = as_array(column.tolist())
            except CastError as error:
                raise DatasetError(f"info {name!r} of episode {episode.id} {error}") from error
        if column.dtype.kind not in "biufcS" or len(column) not in (count, count + 1):
            raise ConfigError(
                f"info {name!r} of episode {episode.id} is no array with a row per step: {column.dtype} {column.shape}"
            )
        rows: Array = column[len(column) - count :]  # the first of T + 1 is the reset's
        return rows


def _column(name: str, values: Any, dtype: np.dtype[Any]) -> Array:
    """Return values with a dtype.

    Raises:
        DatasetError: They do not fit.
    """
    try:
        return as_dtype(values, dtype)
    except CastError as error:
        raise DatasetError(f"{name} {error}") from error


class Minari(Format):
    """Datasets in Minari's own folder of datasets, by their names there."""

    package = extra = "minari"
    title, source = "a dataset of Minari", "the name of a dataset of Minari"
    uses, has_infos = ("name", "fields"), True

    def reads(self, source: str) -> bool:
        """Return whether it is a name, and no path of a file."""
        return not Path(source).exists()

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset under the name of the options."""
        if options.name is None:
            raise ConfigError("Minari keeps its datasets by name: add --name, such as --name beam/random-v0")
        _library()
        _leaves_of(dataset.spec, options.fields or None, "--field observations={} --field actions=...")
        exported = export_minari(dataset, options.name, fields=options.fields or None, progress=options.progress)
        ours = exported.storage.metadata[OURS]
        lost = ours.get("left_out", 0)
        more = f"; {lost} transitions that lack their next observation are left out" if lost else ""
        where = exported.storage.data_path
        return f"{exported.total_episodes} episodes, {exported.total_steps} steps in {where}{more}; {_in_words(ours)}"

    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store a dataset of Minari as samples."""
        if options.episode is not None or options.step is not None or options.units or options.roles:
            raise ConfigError("no --episode, --step, --role or --unit: a dataset of Minari says these")
        return import_minari(source, path, infos=options.infos, mode=options.mode, progress=options.progress)


def _in_words(ours: Mapping[str, Any]) -> str:
    """Return words that say of which fields Minari's arrays are."""
    said = [f"{key}: {', '.join(leaves.values())}" for key, leaves in ours["leaves"].items()]
    said += [f"infos: {', '.join(ours['infos'])}"] if ours["infos"] else []
    return "; ".join(said)


FORMAT = Minari()
