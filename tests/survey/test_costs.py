import pytest
import torch

from jvpsvd import JacobianOperator, layer_map, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import load_model
from jvpsvd.report import costs_table
from jvpsvd.survey import depth_costs


def test_costs_name_the_method_of_every_depth(tiny):
    costs = {cost.name: cost for cost in depth_costs(load_model("tiny:net"), 20)}
    assert (costs["0"].units, costs["0"].inputs, costs["0"].method) == (294, 768, "golub-kahan")
    assert (costs["output"].method, costs["output"].products) == ("exact", 30)
    assert {cost.k for cost in costs.values()} == {20}
    assert "exact" in costs_table(list(costs.values()), "tiny").fitted(None)


def test_a_depth_of_fewer_units_is_planned_for_all_it_has_and_the_table_says_so(tiny):
    costs = depth_costs(load_model("tiny:net"), 40)
    few = costs[-1]
    assert (few.units, few.k, few.method, few.products) == (30, 30, "exact", 30)
    assert costs[0].k == 40
    made = costs_table(costs, "tiny")
    at = [column.heading for column in made.columns].index("k")
    assert made.rows[-1][at] == "30"


@pytest.mark.parametrize("tol", [1e-2, 1e-5, 1e-8])
def test_costs_are_those_that_a_solve_plans(tiny, tol):
    model = load_model("tiny:net")
    cost = depth_costs(model, 20, tol=tol)[0]
    x = torch.zeros(model.photo_input.shape)
    J = JacobianOperator(*layer_map(model.module, x, to=cost.name))
    planned = svds(J, 20, tol=tol, on_unconverged="ignore").plan
    assert (cost.method, cost.products) == (planned.method, planned.predicted_products)


def test_a_looser_tolerance_costs_less(tiny):
    products = [
        depth_costs(load_model("tiny:net"), 20, tol=tol)[0].products for tol in (1e-2, 1e-9)
    ]
    assert products[0] < products[1]


def test_costs_refuse_what_is_no_size(tiny):
    with pytest.raises(ArgumentError, match="is not a size"):
        depth_costs(load_model("tiny:net"), 20, memory="plenty")
    small = depth_costs(load_model("tiny:net"), 20, memory="1KiB")[0]
    assert small.method is None
    assert "memory" in small.reason
