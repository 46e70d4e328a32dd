import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from onnxprune.api.result import PruneResult
from onnxprune.config import PruneConfig
from onnxprune.core.costs import Costs
from onnxprune.core.plan import PrunePlan
from onnxprune.core.results import GroupResult, LayerCost, MetricChange, NotPruned, ProgramReport
from onnxprune.core.targets import Target

Make = Callable[..., PruneResult]


def _group(number: int, units: int = 16) -> GroupResult:
    kept = max(1, units - number % units)
    return GroupResult(
        name=f"layer{number}/Conv",
        units=units,
        kept=kept,
        producers=(f"layer{number}/Conv",),
        consumers=(f"layer{number + 1}/Conv",),
        macs_before=1000 * units,
        macs_after=1000 * kept,
        scores=tuple(position / units for position in range(units)),
        damage=tuple((k, (1 - k / units) ** 2) for k in range(1, units + 1)),
    )


@pytest.fixture
def result() -> Make:
    """A result made by hand; any field may be given."""

    def make(groups: int = 3, units: int = 16, **changes: Any) -> PruneResult:
        made = tuple(_group(number, units) for number in range(1, groups + 1))
        whole = PruneResult(
            model=None,  # type: ignore[arg-type]
            plan=PrunePlan(
                units={g.name: g.units for g in made},
                removed={g.name: tuple(range(g.units - g.kept)) for g in made},
                importance="reconstruction",
            ),
            source="models/example.onnx",
            before=Costs(params=1000, macs=2_000_000, bytes=4000),
            after=Costs(params=600, macs=1_000_000, bytes=2400),
            metrics={
                "top1": MetricChange(0.934, 0.926),
                "agreement": MetricChange(1.0, 0.96),
                "relative_error": MetricChange(0.0, 0.125),
            },
            groups=made,
            layers=tuple(
                LayerCost(g.producers[0], "Conv", g.macs_before, g.macs_after, g.units, g.kept, g.units, g.kept)
                for g in made
            ),
            not_pruned=(
                NotPruned("logits", "it is an output of the model", ""),
                NotPruned("a", "Softmax normalises across these channels", "softmax1"),
                NotPruned("b", "Softmax normalises across these channels", "softmax2"),
            ),
            program=ProgramReport("optimal", 0.5, 0.4995, 0.001, 1.5),
            timings={"load": 0.01, "score": 12.0, "allocate": 1.5},
            seed=7,
            versions={"onnxprune": "0.1.0", "onnx": "1.17.0"},
            settings=dataclasses.asdict(PruneConfig(targets=(Target("macs", 0.5),))),
        )
        return dataclasses.replace(whole, **changes)

    return make
