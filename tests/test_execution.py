"""Executors: the same plan wherever the tasks run, and what happens to workers that die."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from residual import NETWORK, WEIGHTS

import onnxprune
from onnxprune.config import PruneConfig
from onnxprune.core.errors import InputError, OnnxPruneError
from onnxprune.core.execution import TaskExecutor, open_executor, share, shared, workers_kept
from onnxprune.graph.load import load
from onnxprune.graph.nodes import read_graph
from onnxprune.ops.examples import example

ROWS = {"x": np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)}


def outcome(executor=None, **options):
    """What must not depend on the executor: the plan, the curves and the weights."""
    model = example(NETWORK, WEIGHTS)
    result = onnxprune.prune(model, ROWS, targets="macs=0.5", executor=executor, **options)
    return result.plan.to_json(), {name: a.tobytes() for name, a in result.model.constants.items()}


@pytest.fixture(scope="module")
def expected():
    return outcome(config=PruneConfig(executor="serial"))


def whose(handle, _):
    value = shared(handle)
    return os.getpid(), float(value["a"].sum()), value["a"].flags.writeable


def threads_of_linear_algebra():
    import scipy.linalg.blas  # noqa: F401 (loads a library)
    from threadpoolctl import threadpool_info

    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_plan_is_the_same_in_processes(expected, workers):
    assert outcome("processes", workers=workers) == expected


def test_graphs_with_tensors_in_attributes_reach_processes():
    """The values of Constant and ConstantOfShape nodes could not be sent, and pruning failed."""
    text = """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        h = Relu (a)
        two = Constant <value = float[1] {2.0}> ()
        m = Mul (h, two)
        s = Shape (m)
        z = ConstantOfShape <value = float[1] {0.5}> (s)
        t = Add (m, z)
        f = Flatten (t)
        y = Gemm (f, w3, b3) }"""
    graph = read_graph(load(example(text, {name: WEIGHTS[name] for name in ("w0", "b0", "w3", "b3")})))
    sent = pickle.loads(pickle.dumps(graph))
    assert [node.op_type for node in sent.nodes] == [node.op_type for node in graph.nodes]
    (filler,) = (node.attributes["value"] for node in sent.nodes if node.op_type == "ConstantOfShape")
    np.testing.assert_array_equal(filler, np.float32([0.5]))


def test_values_are_shared_with_processes_as_mapped_arrays():
    value = {"a": np.arange(6.0), "b": "text"}
    with open_executor("processes", 2) as inner:
        executor = TaskExecutor(inner)
        with share(executor, value) as handle:
            found = [future.result() for future in [executor.submit(whose, handle, n) for n in range(4)]]
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert {(total, writeable) for _, total, writeable in found} == {(15.0, False)}


def test_a_process_s_first_task_has_one_thread():
    """scipy's linear algebra was loaded in the task, after the limit was set, and the first task used all cores."""
    with open_executor("processes", 1) as inner:
        assert TaskExecutor(inner).submit(threads_of_linear_algebra).result() == {1}


def test_processes_stay_for_what_follows():
    """Each of a run's four rounds of tasks started its own."""
    found = []
    with workers_kept():
        for _ in range(2):
            with workers_kept(), open_executor("processes", 1) as pool:
                found.append(pool.submit(os.getpid).result())
    with open_executor("processes", 1) as pool:
        found.append(pool.submit(os.getpid).result())
    assert found[0] == found[1] != found[2]
    assert not is_alive(found[0])


def test_processes_do_not_stay_after_an_error():
    futures = []

    def fails(pool):
        futures.append(pool.submit(time.sleep, 20))
        while not futures[0].running():
            time.sleep(0.01)
        raise InputError("of something else")

    with workers_kept():
        with pytest.raises(InputError), open_executor("processes", 1) as pool:
            fails(pool)
        assert type(futures[0].exception()) is BrokenProcessPool
        with pytest.raises(OnnxPruneError, match="worker process died"), open_executor("processes", 1) as pool:
            pool.submit(die).result()
        with open_executor("processes", 1) as pool:
            assert pool.submit(os.getpid).result() != os.getpid()


def test_a_dead_process_is_an_error_of_one_line():
    with pytest.raises(OnnxPruneError, match="worker process died"), open_executor("processes", 1) as pool:
        pool.submit(die).result()


def test_what_is_under_way_ends_with_an_error_elsewhere():
    """Ctrl-C waited for every task that had been handed out."""
    futures = []

    def interrupted(pool):
        futures.extend(pool.submit(time.sleep, 20) for _ in range(3))
        while not futures[0].running():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_executor("processes", 1) as pool:
        interrupted(pool)
    assert [type(future.exception()) for future in futures] == [BrokenProcessPool] * 3


# What started the tests may ignore a hangup (nohup): children inherit that.
PARENT = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, {folder!r})
import numpy as np
from test_execution import shows_itself
from onnxprune.core.execution import open_executor, share

if __name__ == "__main__":
    with open_executor("processes", 2) as pool, share(pool, {{"a": np.arange(9.0)}}) as handle:
        [pool.submit(shows_itself, handle, {shown!r}) for _ in range(2)]
        time.sleep(120)
"""


def shows_itself(handle, shown):
    shared(handle)
    Path(shown, str(os.getpid())).touch()
    time.sleep(120)


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_and_what_they_were_shared_end_with_their_parent(tmp_path, how):
    """They waited for ever for a parent that was gone, and its temporary files stayed."""
    shown, temporary = tmp_path / "shown", tmp_path / "temporary"
    shown.mkdir()
    temporary.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), shown=str(shown)))
    places = os.pathsep.join((str(Path(onnxprune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": places}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    while len([*shown.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    assert [*temporary.iterdir()]
    parent.send_signal(how)
    assert parent.wait() == -how
    workers = [int(path.name) for path in shown.iterdir()]
    for _ in range(600):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    assert not [*temporary.iterdir()]


@pytest.mark.parametrize("spec", ["threads", "dask:/nowhere", ""])
def test_an_unknown_executor_is_refused(spec):
    with pytest.raises(InputError, match="is unknown"), open_executor(spec):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("onnxprune.core.execution._CONNECT_S", 1)
    with pytest.raises(InputError, match="no dask scheduler answers"), open_executor("dask://127.0.0.1:9"):
        pass


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        yield local


def address(cluster):
    return "dask://" + cluster.scheduler_address.removeprefix("tcp://")


def test_plan_is_the_same_on_a_dask_cluster(expected, cluster):
    assert outcome(config=PruneConfig(executor=address(cluster))) == expected


def processes(cluster):
    """Processes of the workers by address, once all are there."""
    with cluster.get_client() as client:
        client.wait_for_workers(2)
        return client.run(os.getpid)


def test_a_worker_killed_in_the_middle_changes_nothing(expected, cluster):
    victim = next(iter(processes(cluster).values()))
    killed = []

    def progress(stage, done, total):
        if stage == "damage" and done >= 1 and not killed:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    assert outcome(config=PruneConfig(executor=address(cluster)), progress=progress) == expected
    assert killed


def test_what_is_shared_outlives_the_only_worker_that_holds_it(cluster):
    """The cluster drops spare copies after some seconds; a worker that died then took the model and the rows along."""
    pids = processes(cluster)
    with open_executor(address(cluster)) as inner, share(inner, {"a": np.arange(6.0)}) as handle:
        executor, client = TaskExecutor(inner), inner._client
        while len(holders := next(iter(client.who_has(handle).values()))) > 1:
            client.amm.run_once()
        os.kill(pids[holders[0]], signal.SIGKILL)
        found = [future.result() for future in [executor.submit(whose, handle, n) for n in range(2)]]
    assert [total for _, total, _ in found] == [15.0, 15.0]
    assert pids[holders[0]] not in {pid for pid, _, _ in found}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_that_was_shared_is_left_by_a_hangup(tmp_path):
    shown, temporary = tmp_path / "shown", tmp_path / "temporary"
    shown.mkdir()
    temporary.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), shown=str(shown)))
    places = os.pathsep.join((str(Path(onnxprune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": places}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    while not any(path.is_dir() for path in temporary.iterdir()):  # Python tries a folder with a file of its own
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(signal.SIGHUP)  # perhaps before any worker knows of it
    assert parent.wait() == -signal.SIGHUP
    assert not [*temporary.iterdir()]


def test_a_scheduler_without_workers_is_named(monkeypatch):
    """The run waited for ever."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("onnxprune.core.execution._WORKERS_S", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty,
        pytest.raises(InputError, match=r"has no workers; start some with `dask worker"),
        open_executor(address(empty)),
    ):
        pass


def test_a_disk_without_room_for_what_is_shared_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxprune.core.execution._store", full)
    with (
        open_executor("processes", 1) as pool,
        pytest.raises(InputError, match=r"No space left.*TMPDIR"),
        share(pool, 1),
    ):
        pass
