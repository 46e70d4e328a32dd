"""The last gate: a result that is wrong, or does not run, never gets its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
from oracle import analysed, random_removal

from onnxprune.core.errors import ModelError
from onnxprune.graph.model import Model
from onnxprune.ops.examples import example
from onnxprune.structure import check as structure_check
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.check import RemovalCheck
from onnxprune.structure.removal import remove
from onnxprune.structure.save import save
from onnxprune.structure.units import Ids


@pytest.fixture
def pruned() -> tuple[Analysis, Ids, Model]:
    a = analysed(
        example(
            """g (float[N,3,6,6] x) => (float[N,4] y) {
            h = Conv (x, w1)
            r = Relu (h)
            i = Conv (r, w2)
            f = Flatten (i)
            y = Gemm (f, w3) }""",
            {"w1": (8, 3, 3, 3), "w2": (6, 8, 3, 3), "w3": (24, 4)},
        )
    )
    removed = random_removal(a, 0.4, np.random.default_rng(0))
    return a, removed, remove(a, removed)


@pytest.fixture(params=["whole", "in parts"], autouse=True)
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models above a limit are compared part by part: here of a node each."""
    if request.param == "in parts":
        monkeypatch.setattr("onnxprune.structure.check._WHOLE_BYTES", 0)
        monkeypatch.setattr("onnxprune.structure.check_parts._PART_BYTES", 1)


def check(a: Analysis, removed: Ids, *, changed: bool = False) -> RemovalCheck:
    return RemovalCheck(a, removed, changed)


@pytest.mark.parametrize("changed", [False, True])
def test_a_right_result_is_written(pruned: tuple[Analysis, Ids, Model], changed: bool, tmp_path: Path) -> None:
    a, removed, smaller = pruned
    save(smaller, tmp_path / "out.onnx", check(a, removed, changed=changed))
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_the_first_node_that_differs_is_named(pruned: tuple[Analysis, Ids, Model], tmp_path: Path) -> None:
    a, removed, smaller = pruned
    wrong = smaller.with_constants({"w2": smaller.constants["w2"] * 1.1})
    with pytest.raises(ModelError, match="first difference is at Conv 'i'"):
        save(wrong, tmp_path / "out.onnx", check(a, removed))
    assert not list(tmp_path.iterdir())


def test_changed_weights_must_stay_finite(pruned: tuple[Analysis, Ids, Model], tmp_path: Path) -> None:
    a, removed, smaller = pruned
    wrong = smaller.with_constants({"w3": np.full_like(smaller.constants["w3"], np.nan)})
    with pytest.raises(ModelError, match="output 'y' of the result is not finite"):
        save(wrong, tmp_path / "out.onnx", check(a, removed, changed=True))
    assert not list(tmp_path.iterdir())


def test_output_shapes_must_stay(pruned: tuple[Analysis, Ids, Model], tmp_path: Path) -> None:
    a, removed, smaller = pruned
    narrow = smaller.constants["w3"][:, :3]
    proto = onnx.ModelProto()
    proto.CopyFrom(smaller.proto)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    wrong = replace(smaller, proto=proto, constants=MappingProxyType({**smaller.constants, "w3": narrow}))
    with pytest.raises(ModelError, match=r"output 'y' of the result has shape \(1, 3\), expected \(1, 4\)"):
        save(wrong, tmp_path / "out.onnx", check(a, removed, changed=True))


def test_a_wrong_removal_is_found_even_where_weights_changed(
    pruned: tuple[Analysis, Ids, Model], tmp_path: Path
) -> None:
    a, removed, smaller = pruned
    # A space that does not know that the second convolution contracts: its oracle masks nothing there.
    analysis = replace(a, masks=tuple(m for m in a.masks if m.node != "i"))
    with pytest.raises(ModelError, match="first difference is at Conv 'i'"):
        save(smaller, tmp_path / "out.onnx", RemovalCheck(analysis, removed, changed=True))


def test_without_a_check_the_file_must_run(tmp_path: Path) -> None:
    model = analysed(
        example(
            "g (float[N,6] x) => (float[N,M] y) { s = Shape (x) t = Gather (s, one) y = Slice (x, t, big, one) }",
            constants={"one": np.array([1]), "big": np.array([9])},
        )
    ).model
    save(model, tmp_path / "fine.onnx")
    broken = example(
        "g (float[N,6] x, int64[2] t) => (float[A,B] y) { y = Reshape (x, t) z = Concat <axis = 0> (x, y) }"
    )
    broken.graph.node[1].op_type = "NoSuchOperator"
    broken.graph.node[1].domain = "somewhere"
    broken.opset_import.append(onnx.helper.make_opsetid("somewhere", 1))
    with pytest.raises(ModelError, match="cannot load the result"):
        save(analysed(broken).model, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["fine.onnx"]


def test_inputs_on_which_the_original_fails_are_passed_over(tmp_path: Path) -> None:
    # Only rows of 12 numbers can be reshaped, which none of the guesses is.
    a = analysed(
        example(
            """g (float[N,M] x) => (float[A,3] y) {
            r = Reshape (x, shape)
            h = MatMul (r, w1)
            y = MatMul (h, w2) }""",
            {"w1": (5, 8), "w2": (8, 3)},
            {"shape": np.array([-1, 5])},
        )
    )
    removed = random_removal(a, 0.5, np.random.default_rng(0))
    save(remove(a, removed), tmp_path / "out.onnx", check(a, removed))
    assert (tmp_path / "out.onnx").exists()


def group_normalised() -> onnx.ModelProto:
    """Strict inference does not know the types behind GroupNormalization, of whatever size."""
    return example(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        h = Conv (x, w1)
        n = GroupNormalization <num_groups = 2> (h, scale, bias)
        r = Relu (n)
        y = Conv (r, w2) }""",
        {"w1": (8, 3, 1, 1), "scale": (8,), "bias": (8,), "w2": (4, 8, 1, 1)},
        opset=21,
        full_check=False,
    )


def test_a_fault_that_the_original_has_too_is_none_of_the_result(tmp_path: Path) -> None:
    a = analysed(group_normalised())
    removed = random_removal(a, 0.5, np.random.default_rng(0))
    smaller = remove(a, removed)
    with pytest.raises(ModelError, match="not a valid model"):
        save(smaller, tmp_path / "out.onnx", check(a, removed))
    save(smaller, tmp_path / "out.onnx", check(a, removed), original=a.model)
    assert (tmp_path / "out.onnx").exists()


def test_a_fault_of_the_result_alone_is_refused(pruned: tuple[Analysis, Ids, Model], tmp_path: Path) -> None:
    a, removed, smaller = pruned
    proto = onnx.ModelProto()
    proto.CopyFrom(smaller.proto)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    with pytest.raises(ModelError, match="not a valid model"):
        save(replace(smaller, proto=proto), tmp_path / "out.onnx", check(a, removed), original=a.model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_the_result_need_not_run_as_the_original_cannot(
    pruned: tuple[Analysis, Ids, Model], fails: bool, changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where onnxruntime's optimisations break a model, or where it only runs with them."""

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def session(*arguments: Any, optimise: bool = False, **options: Any) -> Any:
            if optimise is fails:
                raise ModelError("cannot load it so")
            return real(*arguments, optimise=optimise, **options)

        return session

    for name in ("_session", "open_session"):
        monkeypatch.setattr(structure_check, name, failing(getattr(structure_check, name)))
    a, removed, smaller = pruned
    save(smaller, tmp_path / "out.onnx", check(a, removed, changed=changed), original=a.model)
    wrong = smaller.with_constants({"w2": smaller.constants["w2"] * (np.nan if changed else 1.1)})
    with pytest.raises(ModelError, match=r"first difference|not finite"):
        save(wrong, tmp_path / "out.onnx", check(a, removed, changed=changed), original=a.model)


def test_an_original_that_onnxruntime_does_not_know_is_named(tmp_path: Path) -> None:
    proto = example("g (float[N,6] x) => (float[N,6] y) { r = Relu (x) y = Relu (r) }")
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "NoSuchOperator", "somewhere"
    proto.opset_import.append(onnx.helper.make_opsetid("somewhere", 1))
    a = analysed(proto)
    with pytest.raises(ModelError, match="cannot load the original"):
        save(a.model, tmp_path / "out.onnx", check(a, a.none_removed()), original=a.model)


def test_whole_branches_are_right(tmp_path: Path) -> None:
    a = analysed(
        example(
            """g (float[N,5,6] x) => (float[N,5,3] y) {
            a = MatMul (x, w1)
            b = MatMul (a, w2)
            c = Add (b, b2)
            s = Add (x, c)
            d = MatMul (s, w3)
            e = Relu (d)
            f = MatMul (e, w4)
            g = Add (b4, f)
            t = Add (g, s)
            h = MatMul (t, w5)
            i = Relu (h)
            j = MatMul (i, w6)
            u = Add (t, j)
            y = MatMul (u, w7) }""",
            {"w1": (6, 8), "w2": (8, 6), "b2": (6,), "w3": (6, 9), "w4": (9, 6), "b4": (6,)}
            | {"w5": (6, 4), "w6": (4, 6), "w7": (6, 3)},
        )
    )
    removed = a.none_removed()
    for group in a.groups:
        if group.name in ("d", "h"):
            removed[group.units] = True
    save(remove(a, removed), tmp_path / "out.onnx", check(a, removed))
    wrong = remove(a, removed)
    shifted = {name: value + 1 for name, value in wrong.constants.items() if value.shape == (6,)}
    assert shifted
    with pytest.raises(ModelError, match="first difference"):
        save(wrong.with_constants(shifted), tmp_path / "out.onnx", check(a, removed))


@pytest.fixture
def rounded() -> Analysis:
    """A network with a node that jumps in front of another layer."""
    return analysed(
        example(
            """g (float[N,6] x) => (float[N,4] y) {
            h = MatMul (x, w1)
            r = Round (h)
            i = MatMul (r, w2)
            s = Relu (i)
            y = MatMul (s, w3) }""",
            {"w1": (6, 8), "w2": (8, 7), "w3": (7, 4)},
        )
    )


def test_what_is_wrong_behind_a_node_that_jumps_is_found(rounded: Analysis, tmp_path: Path) -> None:
    removed = random_removal(rounded, 0.4, np.random.default_rng(0))
    smaller = remove(rounded, removed)
    flipped = smaller.with_constants({"w1": smaller.constants["w1"] + np.float32(1e-4)})
    wrong = flipped.with_constants({"w3": smaller.constants["w3"] * 1.1})
    with pytest.raises(ModelError, match="first difference is at MatMul 'y'"):
        save(wrong, tmp_path / "out.onnx", check(rounded, removed))
    save(smaller, tmp_path / "out.onnx", check(rounded, removed))


def test_effects_moved_wrongly_behind_a_node_that_jumps_are_found(rounded: Analysis, tmp_path: Path) -> None:
    removed = random_removal(rounded, 0.4, np.random.default_rng(0))
    other = rounded.model.with_constants({"w3": rounded.model.constants["w3"] * 1.1})
    gate = RemovalCheck(rounded, removed, changed=False, original=other)
    with pytest.raises(ModelError, match="removing constant and equal units would change the outputs"):
        save(remove(rounded, removed), tmp_path / "out.onnx", gate)
