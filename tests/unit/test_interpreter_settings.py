"""Settings of the whole process are as before once their last user has ended."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from llama_router.cli.garbage_collection import fewer_collections
from llama_router.workers.interpreter_settings import ProcessSetting, loop_goes_first


class Value:
    """A setting of nothing but this test."""

    def __init__(self) -> None:
        self.now = 1
        self.setting = ProcessSetting(lambda: self.now, self._write)

    def _write(self, value: int) -> None:
        self.now = value

    def changed(self, value: int) -> ExitStack:
        """Enter a block that changes it; closing the result leaves the block."""
        stack = ExitStack()
        stack.enter_context(self.setting.changed(lambda _: value))
        return stack


def settings() -> tuple[object, ...]:
    """Return what the product changes for a while."""
    return sys.getswitchinterval(), gc.get_threshold()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give the interpreter its settings back if a test fails."""
    switch_interval_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(switch_interval_s)
    gc.set_threshold(*thresholds)


def test_the_last_of_two_blocks_restores() -> None:
    """The first to leave changes nothing for the other; the second restores the original."""
    value = Value()
    first, second = value.changed(2), value.changed(2)
    first.close()
    assert value.now == 2
    second.close()
    assert value.now == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_any_order_of_leaving_restores(order: tuple[int, ...]) -> None:
    """Three blocks with different values end in every kind of order."""
    value = Value()
    blocks = [value.changed(number) for number in (2, 3, 4)]
    for place in order:
        blocks[place].close()
    assert value.now == 1


def test_the_block_entered_last_counts() -> None:
    """While two are active it is its value; then that of the one which is left."""
    value = Value()
    with value.changed(2):
        with value.changed(3):
            assert value.now == 3
        assert value.now == 2


def test_a_change_starts_from_the_original() -> None:
    """A block within another one sees the value from before both."""
    value = Value()
    with value.changed(100), value.setting.changed(lambda original: original + 1):
        assert value.now == 2


def test_an_error_restores() -> None:
    """A block that fails leaves nothing behind."""
    value = Value()
    with pytest.raises(LookupError), value.changed(2):
        raise LookupError
    assert value.now == 1


def test_two_threads_restore_the_interpreter() -> None:
    """The switch interval and the collector are as before after blocks that overlapped."""
    before = settings()
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with loop_goes_first():
            first_is_in.set()
            assert second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(10)
        with loop_goes_first():
            second_is_in.set()
            assert first_is_out.wait(10)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings() == before


def test_imports_and_reloads_share_the_collector() -> None:
    """Blocks of two kinds that overlap restore the thresholds, too."""
    before = settings()
    imports, reload = ExitStack(), ExitStack()
    imports.enter_context(fewer_collections())
    reload.enter_context(loop_goes_first())
    imports.close()
    assert settings() != before
    reload.close()
    assert settings() == before
