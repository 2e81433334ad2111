import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map, svds
from jvpsvd.commands.layers import list_layers
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Depth, Inputs, Model, load_model, passed_seconds
from jvpsvd.report import costs_table
from jvpsvd.survey import depth_costs, forecast
from jvpsvd.survey.spec.depth_choice import choose_blocks
from jvpsvd.survey.spec.on_meta import activations_to


def test_costs_name_the_method_of_every_depth(tiny):
    costs = {cost.name: cost for cost in depth_costs(load_model("tiny:net"), 20)}
    assert (costs["0"].units, costs["0"].inputs, costs["0"].method) == (294, 768, "exact")
    assert costs["0"].reason == "the Jacobian is small"
    assert (costs["output"].method, costs["output"].products) == ("exact", 30)
    assert {cost.k for cost in costs.values()} == {20}
    assert "exact" in costs_table(list(costs.values()), "tiny").fitted(None)


def test_a_larger_depth_is_iterated(tiny):
    assert depth_costs(load_model("tiny:wide"), 20)[0].method == "golub-kahan"


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
    decided_by_clock = planned.predicted_seconds is not None  # two methods cost nearly the same
    same = (cost.method, cost.products) == (planned.method, planned.predicted_products)
    assert same or decided_by_clock


def test_a_looser_tolerance_costs_less(tiny):
    products = [
        depth_costs(load_model("tiny:wide"), 20, tol=tol)[0].products for tol in (1e-2, 1e-9)
    ]
    assert products[0] < products[1]


def test_costs_refuse_what_is_no_size(tiny):
    with pytest.raises(ArgumentError, match="is not a size"):
        depth_costs(load_model("tiny:net"), 20, memory="plenty")
    small = depth_costs(load_model("tiny:net"), 20, memory="1KiB")[0]
    assert small.method is None
    assert "memory" in small.reason


def words(text):
    return torch.tensor([[len(word) for word in text.split()]])


@pytest.fixture
def texts():
    """A network of token ids, differentiated from its embedding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 30), nn.Flatten(), nn.Linear(120, 200), nn.Tanh())
    return Model.of(net.eval(), Inputs("txt", "four words of text", words), since="0")


def test_texts_have_costs_from_where_they_are_differentiated(texts):
    found = forecast(texts, 5)
    assert [cost.name for cost in found.depths] == ["1", "2", "3", "output"]
    assert {cost.inputs for cost in found.depths} == {120}
    assert found.recording > 0
    assert all(cost.seconds > 0 for cost in found.depths)


def test_seconds_are_those_of_the_part_of_the_network_that_is_passed():
    """A wide layer comes last: what lies before it takes a small share of the time."""
    torch.manual_seed(0)
    layers = [nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 4000), nn.Linear(4000, 4000)]
    net = nn.Sequential(*layers).eval()
    shares = passed_seconds(net, torch.zeros(1, 50), ["1", "2", "output"])
    assert shares["1"] < 0.5 < shares["output"] == 1
    later = passed_seconds(net, torch.zeros(1, 50), ["2", "output"], since="1")
    assert 0 <= later["2"] <= 1


def test_seconds_are_not_known_where_there_is_no_derivative(tiny, caplog):
    costs = depth_costs(load_model("tiny:poisoned"), 5)
    assert {cost.seconds for cost in costs} == {None}
    assert "seconds are not known" in caplog.text
    assert {cost.method for cost in costs} == {"exact"}


@pytest.mark.parametrize(
    ("names", "blocks"),
    [
        (
            [
                "stem.pad",
                "stem",
                *(f"b.{i}{end}" for i in range(9) for end in (".c", "")),
                "output",
            ],
            ["stem", *(f"b.{i}" for i in range(9)), "output"],
        ),
        (
            [*(f"layer{i}.{j}" for i in range(9) for j in range(3)), "output"],
            [*(f"layer{i}.{j}" for i in range(9) for j in range(3)), "output"],
        ),
        (
            [
                "conv1",
                *(f"layer{i}{end}" for i in range(9) for end in (".0.conv1", ".0", "")),
                "fc",
            ],
            ["conv1", *(f"layer{i}" for i in range(9)), "fc"],
        ),
        (["0", "1", "output"], ["0", "1", "output"]),
    ],
)
def test_blocks_are_numbered_modules_and_what_lies_outside_of_them(names, blocks):
    found = choose_blocks([Depth(name, "", (1,)) for name in names])
    assert [depth.name for depth in found] == blocks


def test_a_budget_counts_the_activations_of_each_depth(tiny):
    costs = depth_costs(load_model("tiny:net"), 20, timed=False)
    held = [cost.activations for cost in costs]
    assert 0 < held[0] < held[-1]
    bases = costs[0].bytes
    planned = depth_costs(load_model("tiny:net"), 20, memory=bases + held[0], timed=False)[0]
    tight = depth_costs(load_model("tiny:net"), 20, memory=held[0], timed=False)[0]
    assert planned.method == costs[0].method
    assert tight.method is None
    assert "that the operator holds" in tight.reason


def test_what_a_network_of_sounds_will_hold_is_known_from_shapes():
    net = nn.Sequential(nn.Conv1d(1, 4, 400, 160), nn.Tanh()).eval()
    sounds = Inputs("wav", torch.zeros(1, 16000), lambda sound: sound[None], rate=16000)
    held = activations_to(Model.of(net, sounds), ["1"])
    assert held["1"] > 4 * 4 * 98  # at least the values of the last layer


@pytest.mark.parametrize(("widths", "iterated"), [((12, 9), False), ((1200, 1200), True)])
def test_values_that_lie_close_are_spoken_of_where_a_method_iterates(capsys, widths, iterated):
    model = Model.of(nn.Linear(*widths).eval(), Inputs("npy", torch.zeros(1, widths[0])))
    list_layers(model, 3, 1e-3, None, functions=False, every=False, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert ("golub-kahan" in text) is iterated
    assert ("where values lie close together" in text) is iterated
