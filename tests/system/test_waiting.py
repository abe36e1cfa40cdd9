"""How long a thread waits for a core."""

import math

from physgym.system.waiting import CoreWaiting


def test_the_share_is_of_what_was_computed_and_waited_since_the_beginning(tmp_path):
    source = tmp_path / "schedstat"
    source.write_text("1000 500 3\n")
    waiting = CoreWaiting(source)
    assert waiting.share == 0
    source.write_text("1300 1200 5\n")
    assert waiting.share == 0.7


def test_nothing_is_said_where_the_system_does_not_say_it(tmp_path):
    source = tmp_path / "schedstat"
    assert math.isnan(CoreWaiting(source).share)
    source.write_text("strange\n")
    assert math.isnan(CoreWaiting(source).share)
