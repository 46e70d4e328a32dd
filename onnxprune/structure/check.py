"""The final check of a written file: it must load and run in onnxruntime, and compute what it should.

`runs` asks of any written model that it runs, with and without onnxruntime's optimisations. `RemovalCheck` also holds a
pruned model against the oracle (`structure.removal.masked`), and names the first node that differs; a large model part
by part (`structure.check_parts`), as the original and the oracle are further copies of all weights. What the original
does not do, with or without optimisations, is not asked of the result.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.core.engine import ALL_CORES, Engine
from onnxprune.core.errors import ModelError
from onnxprune.graph.load import load
from onnxprune.graph.model import Model, constant_nodes, to_proto
from onnxprune.runtime.feeds import Feed, random_feeds
from onnxprune.runtime.room import require_room_of
from onnxprune.runtime.session import load_session, open_session, run_session
from onnxprune.structure.agreement import Outputs, close, differs, moved_wrongly, narrowed
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.check_parts import compare_parts, jumping_outputs
from onnxprune.structure.removal import masked, remove
from onnxprune.structure.selection import selected_by_value
from onnxprune.structure.units import Ids

# Above this size a model is compared part by part.
_WHOLE_BYTES = 256 << 20


def runs(path: Path, model: Model, feed: Feed | None = None) -> None:
    """Load a written file in onnxruntime, with and without graph optimisations, and run it.

    Args:
        path: the file.
        model: what was written, for its inputs and for messages.
        feed: inputs to run on; random ones by default. Where no guessed size fits, loading must do.

    Raises:
        ModelError: onnxruntime refuses the file, or fails on a given feed.
    """
    for optimise in (False, True):
        _run_once(_session(path, model.name, optimise=optimise), model, feed)  # one session in memory at a time


def _run_once(session: Any, model: Model, feed: Feed | None) -> None:
    if feed is not None:
        _run(session, feed, model.name)
        return
    for guess in random_feeds(model):
        with suppress(ModelError):
            _run(session, guess, model.name)
            return


@dataclass(frozen=True, slots=True)
class RemovalCheck:
    """Checks a written pruned model against the original with the removed units set to zero.

    Used as the `check` of `structure.save.save`.

    Attributes:
        analysis: that of the model which units were removed from: the original, or one of the same outputs.
        removed: `(units,)` what was removed.
        changed: whether weights were changed after removal (repair, fine-tuning): then the plain removal is held
            against the oracle, and of the file only shapes, types and finite values are asked.
        feed: inputs to compare on; random ones by default.
        original: the model whose outputs that one must have; None where it is the same one.
        engine: what the file must run on too. Values are compared on the CPU, whose rounding the comparison knows.
    """

    analysis: Analysis
    removed: Ids
    changed: bool = True
    feed: Feed | None = None
    original: Model | None = None
    engine: Engine = ALL_CORES

    def __call__(self, path: Path) -> None:
        """Check one written file.

        Raises:
            ModelError: it does not run, or differs.
            InputError: a run cannot fit into memory.
        """
        require_room_of(self.analysis.model, self.analysis.graph, self.analysis.facts, 1)
        if self.analysis.model.stored_bytes > _WHOLE_BYTES:
            self._by_parts(path)
            return
        reference = self._original()
        if reference is None:  # the original does not run either, on sizes that were only guessed
            runs(path, self.analysis.model, self.feed)
            return
        feed, original, optimised = reference
        if self.original is not None:
            self._moved_rightly(self.original, original, feed, optimise=optimised)
        for optimise in (False, True):
            actual = self._outputs(path, feed, optimise=optimise)
            if actual is not None:
                self._same_form(actual, original)
                if not self.changed and optimise == optimised:
                    self._same_values(actual, original, feed, path, optimise=optimise)
        self._runs_on_engine(path, feed, original)
        if self.changed:
            plain = to_proto(remove(self.analysis, self.removed)).SerializeToString()
            outputs = _run(_session(plain, self.analysis.name, optimise=optimised), feed, self.analysis.name)
            self._same_values(outputs, original, feed, plain, optimise=optimised)

    def _by_parts(self, path: Path) -> None:
        smaller = remove(self.analysis, self.removed) if self.changed else load(path)
        outputs = compare_parts(self.analysis, self.removed, smaller, self._feeds(), self.original)
        if outputs is None:
            runs(path, self.analysis.model, self.feed)
            return
        feed, original = outputs
        for optimise in (False, True):
            actual = self._outputs(path, feed, optimise=optimise)
            if actual is not None:
                self._same_form(actual, original)
        self._runs_on_engine(path, feed, original)

    def _runs_on_engine(self, path: Path, feed: Feed, original: Outputs) -> None:
        """Check that the written file runs on another provider than the CPU's, with outputs of the same form."""
        if self.engine.provider.is_cpu:
            return
        found = self._outputs(path, feed, optimise=True, engine=self.engine)
        if found is not None:
            self._same_form(found, original)

    def _feeds(self) -> list[Feed]:
        return [self.feed] if self.feed is not None else list(random_feeds(self.analysis.model))

    def _original(self) -> tuple[Feed, Outputs, bool] | None:
        """A random input that the original runs on, its outputs, and whether it needs graph optimisations.

        Raises:
            ModelError: onnxruntime cannot load the original, or cannot run it on a given feed.
        """
        source = to_proto(self.analysis.model).SerializeToString()
        failure: ModelError | None = None
        for optimised in (False, True):
            try:
                session = _session(source, self.analysis.name, optimise=optimised, what="the original")
            except ModelError as error:
                failure = failure or error
                continue
            for feed in self._feeds():
                with suppress(ModelError):
                    return feed, _run(session, feed, self.analysis.name, what="the original"), optimised
        if failure is not None:
            raise failure
        return None

    def _outputs(self, path: Path, feed: Feed, *, optimise: bool, engine: Engine = ALL_CORES) -> Outputs | None:
        """Outputs of the written file; None where it fails to run only as the original fails too."""
        try:
            session = _session(path, self.analysis.name, optimise=optimise, engine=engine)
            return _run(session, feed, self.analysis.name)
        except ModelError:
            try:
                session = open_session(self.analysis.model, optimise=optimise, engine=engine)
                _run(session, feed, self.analysis.name)
            except ModelError:
                return None
            raise

    def _moved_rightly(self, before: Model, outputs: Outputs, feed: Feed, *, optimise: bool) -> None:
        """Check that moving the effect of removed units into other weights left the outputs unchanged."""
        source = to_proto(before)
        jumping = jumping_outputs(self.analysis.graph.nodes)
        wanted = _tapped(source, jumping, feed, before.name, optimise=optimise)
        final = [name for name in wanted if name in outputs]
        if all(close(outputs[name], wanted[name], wanted[name]) for name in final):
            return
        given = {name: wanted[name] for name in jumping if name in wanted}
        if given:
            part = _fed(to_proto(self.analysis.model), given)
            session = _session(part.SerializeToString(), before.name, optimise=optimise)
            found = _run(session, {**feed, **given}, before.name)
        else:
            found = outputs
        if not all(close(found[name], wanted[name], wanted[name]) for name in final if name in found):
            raise moved_wrongly(before.name)

    def _same_form(self, outputs: Outputs, original: Outputs) -> None:
        selected = selected_by_value(self.analysis)
        for name, wanted in original.items():
            value = outputs.get(name)
            if value is None or value.dtype != wanted.dtype:
                raise ModelError(f"{self.analysis.name}: the result has no output {name!r} of type {wanted.dtype}")
            if value.shape != wanted.shape and not (value.ndim == wanted.ndim and name in selected):
                raise ModelError(
                    f"{self.analysis.name}: output {name!r} of the result has shape {value.shape}, "
                    f"expected {wanted.shape}"
                )
            if wanted.dtype.kind == "f" and np.isfinite(wanted).all() and not np.isfinite(value).all():
                raise ModelError(
                    f"{self.analysis.name}: output {name!r} of the result is not finite; "
                    "try other data or a larger target"
                )

    def _same_values(
        self, outputs: Outputs, original: Outputs, feed: Feed, source: Path | bytes, *, optimise: bool
    ) -> None:
        oracle = to_proto(masked(self.analysis, self.removed))
        session = _session(oracle.SerializeToString(), self.analysis.name, optimise=optimise)
        wanted = _run(session, feed, self.analysis.name)
        same = all(outputs[name].shape == wanted[name].shape for name in wanted)
        if same and all(close(outputs[name], wanted[name], original[name]) for name in wanted):
            return
        node = self._first_difference(oracle, feed, source, optimise=optimise)
        if node is not None:
            raise differs(self.analysis.name, node)

    def _first_difference(
        self, oracle: onnx.ModelProto, feed: Feed, source: Path | bytes, *, optimise: bool
    ) -> str | None:
        """The first node whose result differs from the expected one by more than rounding.

        Nodes that jump (rounding, comparing, sorting) may differ by more. What comes behind them is therefore compared
        on the results that they should have.
        """
        names = [name for node in self.analysis.graph.nodes for name in node.outputs if name]
        pruned = onnx.load(str(source)) if isinstance(source, Path) else onnx.load_model_from_string(source)
        wanted = _tapped(oracle, names, feed, self.analysis.name, optimise=optimise)
        expected = {name: narrowed(value, self.analysis, name, self.removed) for name, value in wanted.items()}
        made = {name for node in pruned.graph.node for name in node.output}
        jumping = jumping_outputs(self.analysis.graph.nodes)
        given = {name: expected[name] for name in jumping if name in expected and name in made}
        actual = _tapped(_fed(pruned, given), names, {**feed, **given}, self.analysis.name, optimise=optimise)
        for node in self.analysis.graph.nodes:
            for name in node.outputs:
                if name in expected and name in actual and name not in given:
                    right = expected[name]
                    if actual[name].shape != right.shape or not close(actual[name], right, right):
                        return str(node)
        return None if given else "an output"


def _fed(proto: onnx.ModelProto, given: Outputs) -> onnx.ModelProto:
    """The model with some computed tensors as inputs; those that are outputs are none any more."""
    if not given:
        return proto
    fed = onnx.ModelProto()
    fed.CopyFrom(proto)
    nodes = [node for node in fed.graph.node if not any(name in given for name in node.output)]
    outputs = [value for value in fed.graph.output if value.name not in given]
    for field, left in ((fed.graph.node, nodes), (fed.graph.output, outputs)):
        copies = [type(item).FromString(item.SerializeToString()) for item in left]
        del field[:]
        field.extend(copies)
    for name, value in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        fed.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * value.ndim))
    return fed


def _tapped(proto: onnx.ModelProto, names: Sequence[str], feed: Feed, label: str, *, optimise: bool) -> Outputs:
    """Values of those tensors of a run that both models may have."""
    constant = {node.output[0] for node, _ in constant_nodes(proto.graph)}
    made = {name for node in proto.graph.node for name in node.output} - constant
    declared = {value.name for value in proto.graph.output}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n in made and n not in declared)
    return _run(_session(tapped.SerializeToString(), label, optimise=optimise), feed, label)


def _session(
    source: Path | bytes,
    name: str,
    *,
    optimise: bool = False,
    what: str = "the result",
    engine: Engine = ALL_CORES,
) -> Any:
    # One run a session: packing weights would only copy them.
    entries = {"session.disable_prepacking": "1"}
    return load_session(source, name, engine=engine, optimise=optimise, entries=entries, what=what)


def _run(session: Any, feed: Feed, name: str, what: str = "the result") -> Outputs:
    return run_session(session, feed, name, what)
