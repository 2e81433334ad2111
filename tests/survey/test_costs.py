import pytest
from rich.console import Console

from jvpsvd.errors import ArgumentError
from jvpsvd.networks import load_model
from jvpsvd.report import costs_table
from jvpsvd.survey import depth_costs


def test_costs_name_the_method_of_every_depth(tiny):
    costs = {cost.name: cost for cost in depth_costs(load_model("tiny:net"), 20)}
    assert (costs["0"].units, costs["0"].inputs, costs["0"].method) == (294, 768, "golub-kahan")
    assert (costs["output"].method, costs["output"].products) == ("exact", 30)
    few = depth_costs(load_model("tiny:net"), 40)[-1]
    assert (few.method, few.reason) == (None, "fewer than 40 values")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(costs_table(list(costs.values()), "tiny"))
    assert "exact" in captured.get()


def test_costs_refuse_what_is_no_size(tiny):
    with pytest.raises(ArgumentError, match="is not a size"):
        depth_costs(load_model("tiny:net"), 20, memory="plenty")
    small = depth_costs(load_model("tiny:net"), 20, memory="1KiB")[0]
    assert small.method is None
    assert "memory" in small.reason
