"""Photos on their way to the compute."""

import itertools
import threading

import pytest
from support.shards import encoded, sample_members, write_tar

from jvpsvd.data import walk
from jvpsvd.networks import PhotoInput
from jvpsvd.survey import Identity
from jvpsvd.survey.spec.tasks import make_tasks
from jvpsvd.survey.work.feed import prefetch, read_tasks


def feeding():
    return [thread for thread in threading.enumerate() if thread.name == "jvpsvd-feed"]


class Counted:
    """Numbers, and how many of them have been requested."""

    def __init__(self, count=None):
        self.made = 0
        self.numbers = itertools.count() if count is None else iter(range(count))

    def __iter__(self):
        for number in self.numbers:
            self.made += 1
            yield number


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_items_come_in_order_and_all_of_them(count):
    assert list(prefetch(Counted(50), count)) == list(range(50))
    assert list(prefetch([], count)) == []
    assert feeding() == []


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_are_made_in_advance_than_allowed(count):
    items = Counted()
    feed = prefetch(items, count)
    for taken in range(1, 40):
        assert next(feed) == taken - 1
        assert items.made <= taken + count + 1  # the thread holds one that does not fit
    feed.close()


def test_items_are_made_while_nobody_takes_them():
    third = threading.Event()

    def items():
        for number in range(9):
            if number == 2:
                third.set()
            yield number

    feed = prefetch(items(), 4)
    assert next(feed) == 0
    assert third.wait(timeout=20)
    feed.close()


@pytest.mark.parametrize("error", [ValueError("bad"), OSError(28, "No space left"), MemoryError()])
@pytest.mark.parametrize("good", [0, 5])
def test_errors_of_the_thread_are_raised_after_the_items_before_them(error, good):
    def items():
        yield from range(good)
        raise error

    feed, taken = prefetch(items(), 2), []
    with pytest.raises(type(error)) as raised:
        taken.extend(iter(lambda: next(feed), None))
    assert raised.value is error
    assert taken == list(range(good))
    assert feeding() == []


def test_stopping_early_ends_the_thread():
    for taken in range(4):
        feed = prefetch(Counted(), 2)
        assert list(itertools.islice(feed, taken)) == list(range(taken))
        feed.close()
        assert feeding() == []


def test_error_of_the_user_ends_the_thread():
    def use():
        for number in prefetch(Counted(), 2):
            if number == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert feeding() == []


def test_run_that_was_stopped_leaves_no_thread(surveyed, tmp_path):
    """Not even while the exception, and with it the frames of the run, is still at hand."""

    def stop(progress):
        if progress.rows:
            raise KeyboardInterrupt

    members = [m for i in range(20) for m in sample_members(f"photo{i:02}", i, 0)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        surveyed([write_tar(tmp_path / "s.tar", members)], report=stop, layers=["output"])
    assert stopped.value is not None
    assert feeding() == []


def test_nothing_is_started_before_the_first_item_is_requested():
    prefetch(Counted(), 2)
    assert feeding() == []


def tasks_of(shards, batch):
    samples = [sample for shard in shards for sample in walk(shard)]
    named = "m", "w", PhotoInput(), ("s",), ("c",), ("output",)
    identity = Identity(*named, k=5, tol=1e-5, batch=batch)
    return make_tasks(identity, samples)


@pytest.fixture
def shards(tmp_path):
    """Two shards, the first with samples that have no photo or are cut short."""
    first = [
        *sample_members("a0", 0, 0),
        ("none.cls", b"1"),
        *sample_members("a1", 1, 0),
        ("twice.jpg", encoded(2)),
        ("twice.png", encoded(2, "PNG")),
        *sample_members("a2", 3, 0),
    ]
    second = [m for i in range(5) for m in sample_members(f"b{i}", 10 + i, 0)]
    return [write_tar(tmp_path / "a.tar", first), write_tar(tmp_path / "b.tar", second)]


SEEDS = {"a0": 0, "a1": 1, "a2": 3, **{f"b{i}": 10 + i for i in range(5)}}


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
def test_every_task_comes_once_with_its_photos(shards, batch):
    every = tasks_of(shards, batch)
    found = list(read_tasks(every, shards))
    assert sorted(task.id for task, _ in found) == sorted(task.id for task in every)
    photos = {s.key: p for task, of in found for s, p in zip(task.samples, of, strict=True)}
    assert photos.keys() == {*SEEDS, "none", "twice"}
    assert photos == {key: encoded(SEEDS[key]) if key in SEEDS else None for key in photos}
    shards_seen = [name for name, _ in itertools.groupby(task.shard for task, _ in found)]
    assert shards_seen == ["a.tar", "b.tar"]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_photos_that_are_not_delivered_are_none(shards, batch):
    every = tasks_of(shards, batch)
    longer = [("a2.jpg", encoded(3) + b"longer")]
    write_tar(shards[0], [*sample_members("a0", 0, 0), *longer])
    shards[1].unlink()
    found = list(read_tasks(every, shards))
    assert sorted(task.id for task, _ in found) == sorted(task.id for task in every)
    photos = {s.key: p for task, of in found for s, p in zip(task.samples, of, strict=True)}
    assert {key: photo for key, photo in photos.items() if photo} == {"a0": encoded(0)}


@pytest.mark.parametrize("batch", [1, 2])
def test_pending_tasks_alone_are_read(shards, batch):
    every = tasks_of(shards, batch)
    pending = every[1::2]
    found = list(read_tasks(pending, shards))
    assert sorted(task.id for task, _ in found) == sorted(task.id for task in pending)
    for task, photos in found:
        for sample, photo in zip(task.samples, photos, strict=True):
            assert photo == (encoded(SEEDS[sample.key]) if sample.key in SEEDS else None)


def test_no_tasks_are_no_photos():
    assert list(read_tasks([], [])) == []


def test_shard_that_failed_as_a_whole_is_a_task_without_photos(tmp_path, surveyed):
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 999)
    good = write_tar(tmp_path / "good.tar", sample_members("a", 0, 0))
    outcome = surveyed([tmp_path / "bad.tar", good], batch=4, layers=["output"])
    assert [(r.key, r.status) for r in outcome.store.rows()] == [("", "bad-shard"), ("a", "ok")]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_shard_that_is_cut_after_a_sample_has_its_rows_and_one_of_the_cut(
    tmp_path, surveyed, batch
):
    members = [m for i in range(3) for m in sample_members(f"photo{i}", i, i)]
    cut = write_tar(tmp_path / "a.tar", members)
    cut.write_bytes(cut.read_bytes()[: walk(cut)[2].offset - 512])
    empty = write_tar(tmp_path / "b.tar", [])
    outcome = surveyed([cut, empty], batch=batch, layers=["output"])
    assert [(r.shard, r.key, r.label, r.status) for r in outcome.store.rows()] == [
        ("a.tar", "photo0", 0, "ok"),
        ("a.tar", "photo1", 1, "ok"),
        ("a.tar", "", None, "truncated"),
        ("b.tar", "", None, "empty-shard"),
    ]
    assert surveyed([cut, empty], batch=batch, layers=["output"]).computed == 0
