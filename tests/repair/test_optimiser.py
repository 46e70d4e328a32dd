"""The optimiser does what torch's class does, without the compiler that this imports."""

import subprocess
import sys

import pytest

from onnxprune.training.adamw import AdamW

torch = pytest.importorskip("torch", reason="fine-tuning needs torch")


def trained(*, ours: bool, steps: int = 7) -> list["torch.Tensor"]:
    """Weights after some steps, with a rate of its own each; the last weight has no gradient, another one has late."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((4, 3), (5, 4), (5,), (2,))]
    for weight in weights:
        weight.requires_grad_()
    groups = [(weights[:2], 0.1), (weights[2:], 0.0)]
    theirs = torch.optim.AdamW([{"params": some, "weight_decay": decay} for some, decay in groups])
    own = AdamW(groups)
    for step in range(steps):
        rate = 0.1 / (step + 1)
        (own if ours else theirs).zero_grad()
        x = torch.randn(6, 3, generator=generator)
        y = (x @ weights[0].T).tanh() @ weights[1].T
        (y + (weights[2] if step > 2 else 0)).square().sum().backward()
        if ours:
            own.step(rate)
            state, own = own.state_dict(), AdamW(groups)
            own.load_state_dict(state)
        else:
            for group in theirs.param_groups:
                group["lr"] = rate
            theirs.step()
    return [weight.detach() for weight in weights]


def test_steps_are_those_of_torch_also_where_training_goes_on() -> None:
    for own, wanted in zip(trained(ours=True), trained(ours=False), strict=True):
        torch.testing.assert_close(own, wanted, rtol=0, atol=0)


def test_a_state_of_torchs_class_is_taken() -> None:
    weight = torch.ones(3, requires_grad=True)
    theirs = torch.optim.AdamW([weight], weight_decay=0.0)
    weight.grad = torch.ones(3)
    theirs.step()
    own = AdamW([([weight], 0.0)])
    own.load_state_dict(theirs.state_dict())
    assert own.state_dict()["state"][0]["step"] == 1
    torch.testing.assert_close(own.state_dict()["state"][0]["exp_avg"], torch.full((3,), 0.1))


def test_the_compiler_is_not_imported() -> None:
    script = """
import sys, torch
from onnxprune.training.adamw import AdamW
weight = torch.ones(2, requires_grad=True)
weight.grad = torch.ones(2)
AdamW([([weight], 0.0)]).step(0.1)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
